"""Minibatch standard deviation beside the chain of torch's functions that codebases write.

Modes: "forward" of a batch that needs no gradient, and "forward+backward" with its gradient.
"""

from collections.abc import Callable, Sequence
from itertools import product
from math import prod

import torch
from torch import Tensor

from fastgan import functional
from fastgan.bench import small
from fastgan.bench.workload import Contender, Op, Workload, relative_error, within

BASELINE = "torch"
# At 4x4, where critics have it, and of a larger image.
SHAPES = ((32, 512, 4, 4), (16, 256, 4, 4), (8, 64, 32, 32))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
GROUP, CHANNELS = 4, 1


def chain(x: Tensor) -> Tensor:
    """The usual code, its statistics in float32."""
    count, _, height, width = x.shape
    grouped = x.to(torch.promote_types(x.dtype, torch.float32)).reshape(GROUP, -1, CHANNELS, *x.shape[1:])
    grouped = grouped - grouped.mean(0)
    statistic = (grouped.square().mean(0) + 1e-8).sqrt().mean([2, 3, 4]).to(x.dtype)
    return torch.cat(
        [x, statistic.view(-1, CHANNELS, 1, 1).repeat(GROUP, 1, height, width).view(count, -1, height, width)], 1
    )


def ours(x: Tensor) -> Tensor:
    """fastgan's."""
    return functional.minibatch_stddev(x, GROUP, CHANNELS)


def _forward_backward(function: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> list[Tensor]:
    y = function(x)
    return [y.detach(), *torch.autograd.grad(y, x, grad)]


def workload(name: str, device: torch.device, backend_names: Sequence[str], compiled: bool) -> Workload:
    """Torch and fastgan on one shape, dtype and layout."""
    sizes, dtype_name, layout = name.split("-")
    dtype, shape = DTYPES[dtype_name], tuple(map(int, sizes.split("x")))
    generator = torch.Generator(device).manual_seed(0)

    def random(shape: Sequence[int]) -> Tensor:
        values = torch.randn(tuple(shape), device=device, generator=generator).to(dtype)
        return values.to(memory_format=LAYOUTS[layout])

    x, grad = random(shape), random((shape[0], shape[1] + CHANNELS, *shape[2:]))
    expected = _forward_backward(chain, x.double().requires_grad_(), grad.double())

    def contender(function: Callable[[Tensor], Tensor], chosen: str | None = None) -> Contender:
        leaf = x.clone().requires_grad_()

        def error(run: Callable[[], list[Tensor]]) -> float:
            return max(relative_error(y.detach(), truth) for y, truth in zip(run(), expected, strict=False))

        runs = {
            "forward": lambda: [function(x)],
            "forward+backward": lambda: _forward_backward(function, leaf, grad),
        }
        return Contender(runs, error, context=within(chosen), backend=chosen)

    contenders = {BASELINE: lambda: contender(chain)}
    skipped = {}
    if compiled:
        contenders["torch.compile"] = lambda: contender(torch.compile(chain))
    else:
        skipped["torch.compile"] = "not asked for (--compile)"
    for chosen in backend_names:
        contenders[f"fastgan functional ({chosen})"] = lambda b=chosen: contender(ours, b)
    rounding = 16 * torch.finfo(dtype).eps
    moved = {"forward": 2, "forward+backward": 5}
    return Workload(
        baseline=BASELINE,
        contenders=contenders,
        skipped=skipped,
        modes=tuple(moved),
        moved_bytes={mode: count * prod(shape) * dtype.itemsize for mode, count in moved.items()},
        baseline_bound=rounding,
        rounding=rounding,
    )


def _name(shape: tuple[int, ...], dtype: str, layout: str) -> str:
    return f"{'x'.join(map(str, shape))}-{dtype}-{layout}"


def _small_calls() -> None:
    for dtype, shape, last, offset in product(small.DTYPES, small.IMAGES, (False, True), (0, 1)):
        x = small.values(shape, dtype, offset, last).requires_grad_()
        y = functional.minibatch_stddev(x, None)
        torch.autograd.grad(y, x, small.values(y.shape, dtype, offset, last))


OPS = (
    Op(
        name="minibatch_stddev",
        cases={
            _name(shape, dtype, layout): f"{prod(shape) * DTYPES[dtype].itemsize / 2**20:.1f} MiB"
            for shape in SHAPES
            for dtype in DTYPES
            for layout in LAYOUTS
        },
        quick=(_name(SHAPES[1], "float32", "nchw"),),
        workload=workload,
        gpu=(_name(SHAPES[0], "float32", "nchw"), _name(SHAPES[2], "bfloat16", "channels_last")),
        kernels={"minibatch_stddev": _small_calls},
    ),
)
