"""Ops on channels: an affine map and ReLU, a normalization and ReLU, a pixel shuffle with bias and ReLU.

Modes: "forward" of tensors that need no gradient, and "forward+backward" with the gradient of every one. The baselines
are what codebases write: a chain of torch's functions, in which halves are multiplied as halves.
"""

from collections.abc import Callable, Sequence
from itertools import product
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgan import functional
from fastgan.bench import small
from fastgan.bench.workload import Contender, Op, Workload, relative_error, within

BASELINE = "torch"
SHAPES = ((32, 256, 16, 16), (32, 256, 32, 32), (16, 128, 64, 64), (64, 128, 32, 32), (64, 256, 4, 4))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Values [C] or [N, C]."""
    return x * scale[..., None, None].to(x.dtype) + shift[..., None, None].to(x.dtype)


class Kind(NamedTuple):
    """An op of x and values per channel, in torch and in fastgan; tensors of x's size that it moves through memory."""

    torch: Callable[..., Tensor]
    ours: Callable[..., Tensor]
    per_sample: bool
    moved: dict[str, int]


_ONE_PASS, _TWO_PASSES = {"forward": 2, "forward+backward": 5}, {"forward": 3, "forward+backward": 8}
KINDS = {
    "channel": Kind(lambda x, a, b: torch.relu(_affine(x, a, b)), functional.scale_shift_act, False, _ONE_PASS),
    "sample": Kind(lambda x, a, b: torch.relu(_affine(x, a, b)), functional.scale_shift_act, True, _ONE_PASS),
    "batch": Kind(
        lambda x, a, b: torch.relu(F.batch_norm(x, None, None, a, b, True)), functional.norm_act, False, _TWO_PASSES
    ),
    "conditional": Kind(
        lambda x, a, b: torch.relu(_affine(F.batch_norm(x, None, None, None, None, True), a, b)),
        functional.norm_act,
        True,
        _TWO_PASSES,
    ),
    "instance": Kind(
        lambda x, a, b: torch.relu(F.instance_norm(x, None, None, a, b)),
        lambda x, a, b: functional.norm_act(x, a, b, norm="instance"),
        False,
        _TWO_PASSES,
    ),
    "shuffle": Kind(
        lambda x, b, _: F.pixel_shuffle(torch.relu(x + b[:, None, None].to(x.dtype)), 2),
        lambda x, b, _: functional.pixel_shuffle_act(x, b, 2, "relu"),
        False,
        _ONE_PASS,
    ),
}


class State(NamedTuple):
    """What all contenders start from: x and values per channel, and the gradient that arrives."""

    tensors: list[Tensor]
    grad: Tensor

    def outputs(self, function: Callable[..., Tensor]) -> list[Tensor]:
        """The result and the gradients in float64."""
        return _forward_backward(function, [t.double().requires_grad_() for t in self.tensors], self.grad.double())


def _forward_backward(function: Callable[..., Tensor], tensors: list[Tensor], grad: Tensor) -> list[Tensor]:
    y = function(*tensors)
    gradients = torch.autograd.grad(y, tensors, grad, allow_unused=True)  # a shuffle has one bias
    return [y.detach(), *(t for t in gradients if t is not None)]


def _contender(
    state: State, expected: Sequence[Tensor], function: Callable[..., Tensor], chosen: str | None = None
) -> Contender:
    tensors = [t.clone().requires_grad_() for t in state.tensors]

    def error(run: Callable[[], list[Tensor]]) -> float:
        return max(relative_error(y.detach(), truth) for y, truth in zip(run(), expected, strict=False))

    runs = {
        "forward": lambda: [function(*state.tensors)],
        "forward+backward": lambda: _forward_backward(function, tensors, state.grad),
    }
    return Contender(runs, error, context=within(chosen), backend=chosen)


def workload(name: str, device: torch.device, backend_names: Sequence[str], compiled: bool) -> Workload:
    """Torch and fastgan on one kind of op, shape, dtype and layout."""
    label, sizes, dtype_name, layout = name.split("-")
    kind, dtype, shape = KINDS[label], DTYPES[dtype_name], tuple(map(int, sizes.split("x")))
    generator = torch.Generator(device).manual_seed(0)

    def random(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        values = torch.randn(tuple(shape), device=device, generator=generator).to(dtype)
        return values.to(memory_format=LAYOUTS[layout]) if len(shape) == 4 else values

    values = [random(shape[:2] if kind.per_sample else shape[1:2]) for _ in range(2)]
    tensors = [random(shape, dtype), *values]
    state = State(tensors, random(kind.ours(*tensors).shape, dtype))
    expected = state.outputs(kind.torch)
    contenders = {BASELINE: lambda: _contender(state, expected, kind.torch)}
    skipped = {}
    if compiled:
        contenders["torch.compile"] = lambda: _contender(state, expected, torch.compile(kind.torch))
    else:
        skipped["torch.compile"] = "not asked for (--compile)"
    for chosen in backend_names:
        contenders[f"fastgan functional ({chosen})"] = lambda b=chosen: _contender(state, expected, kind.ours, b)
    eps = torch.finfo(dtype).eps
    # Some roundings, which move a ReLU to its other side here and there, and sums of n values.
    rounding = 16 * eps + 4 * prod(shape) ** 0.5 * torch.finfo(torch.float32).eps
    return Workload(
        baseline=BASELINE,
        contenders=contenders,
        skipped=skipped,
        modes=tuple(kind.moved),
        moved_bytes={mode: count * prod(shape) * dtype.itemsize for mode, count in kind.moved.items()},
        baseline_bound=rounding,
        rounding=rounding,
    )


def _small_calls() -> None:
    for dtype, shape, last, offset in product(small.DTYPES, small.IMAGES, (False, True), (0, 1)):
        x = small.values(shape, dtype, offset, last).requires_grad_()
        scale, shift = (small.values(size, torch.float32, offset).requires_grad_() for size in ((1,), shape[:2]))
        outputs = [functional.scale_shift_act(x, scale.expand(shape[1]), shift), functional.norm_act(x, None, shift)]
        outputs += [functional.norm_act(x, norm="instance", act="gelu"), functional.pixel_shuffle_act(x, act="tanh")]
        grads = [small.values(y.shape, dtype, offset, last) for y in outputs]
        torch.autograd.grad(outputs, [x, scale, shift], grads)


def _op(name: str, kinds: Sequence[str], large: str) -> Op:
    def case(kind: str, shape: tuple[int, ...], dtype: str, layout: str) -> str:
        return f"{kind}-{'x'.join(map(str, shape))}-{dtype}-{layout}"

    return Op(
        name=name,
        cases={
            case(kind, shape, dtype, layout): f"{prod(shape) * DTYPES[dtype].itemsize / 2**20:.1f} MiB"
            for kind in kinds
            for shape in SHAPES
            for dtype in DTYPES
            for layout in LAYOUTS
        },
        quick=tuple(case(kind, SHAPES[0], "float32", "nchw") for kind in kinds),
        workload=workload,
        gpu=(case(kinds[0], SHAPES[0], "float32", "nchw"), case(large, SHAPES[2], "bfloat16", "channels_last")),
        kernels={name: _small_calls},
    )


OPS = (
    _op("scale_shift_act", ("channel", "sample"), large="sample"),
    _op("norm_act", ("batch", "conditional", "instance"), large="batch"),
    _op("pixel_shuffle_act", ("shuffle",), large="shuffle"),
)
