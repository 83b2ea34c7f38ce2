"""FIR resampling: upsampling, downsampling and blurring with filters of 4 and 12 taps, in both layouts.

Modes: "forward" of images that need no gradient, and "forward+backward" with theirs. The baselines are the two forms
that codebases have in plain torch: zeros inserted, padded and convolved by channel; and one strided convolution or
transposed convolution by channel.
"""

from collections.abc import Callable, Sequence
from itertools import product
from math import prod, sqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d, leaky_relu, pad

import fastgan.functional
from fastgan.bench import peers, small
from fastgan.bench.workload import Contender, Op, Workload, relative_error, within

BASELINE = "torch (zeros inserted)"
DEPTHWISE = "torch (depthwise)"
FLOOR = (32, 256, 128, 128)  # for a GPU alone: its truth in float64 is 4 GiB
SHAPES = ((8, 64, 64, 64), (4, 256, 32, 32), (4, 32, 128, 128), (8, 512, 16, 16))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
NEAR_KINK = 0.05
FOUR, TWELVE = (1, 3, 3, 1), (1, 2, 5, 10, 20, 30, 30, 20, 10, 5, 2, 1)


class Kind(NamedTuple):
    """A resampling that keeps the image in place: taps, up, down, padding before and after, gain."""

    taps: tuple[int, ...]
    up: int
    down: int
    padding: tuple[int, int]
    gain: float
    activated: bool = False  # bias and leaky ReLU after it


KINDS = {
    "up2": Kind(FOUR, 2, 1, (2, 1), 4.0),
    "down2": Kind(FOUR, 1, 2, (1, 1), 1.0),
    "blur": Kind(FOUR, 1, 1, (2, 1), 1.0),
    "up2act": Kind(FOUR, 2, 1, (2, 1), 4.0, activated=True),
    "up2x12": Kind(TWELVE, 2, 1, (6, 5), 4.0),
    "down2x12": Kind(TWELVE, 1, 2, (5, 5), 1.0),
}


def _kernel(x: Tensor, f: Tensor, gain: float) -> Tensor:
    """The filter of every channel."""
    f = f if f.ndim == 2 else torch.outer(f, f)
    return (f * gain).to(x.dtype).expand(x.shape[1], 1, *f.shape)


def _zeros_inserted(x: Tensor, f: Tensor, kind: Kind) -> Tensor:
    n, c, h, w = x.shape
    if kind.up > 1:
        x = pad(x.reshape(n, c, h, 1, w, 1), [0, kind.up - 1, 0, 0, 0, kind.up - 1]).reshape(n, c, h * kind.up, -1)
    y = conv2d(pad(x, [*kind.padding] * 2), _kernel(x, f, kind.gain).flip([2, 3]), groups=c)
    return y[:, :, :: kind.down, :: kind.down]


def _depthwise(x: Tensor, f: Tensor, kind: Kind) -> Tensor:
    kernel, (before, after), taps = _kernel(x, f, kind.gain), kind.padding, len(kind.taps)
    if kind.up > 1:
        y = conv_transpose2d(x, kernel, stride=kind.up, groups=x.shape[1])
        start = taps - 1 - before
        h, w = (size * kind.up + before + after - taps + 1 for size in x.shape[2:])
        return y[:, :, start : start + h, start : start + w]
    if before == after:
        return conv2d(x, kernel.flip([2, 3]), stride=kind.down, padding=before, groups=x.shape[1])
    return conv2d(pad(x, [before, after] * 2), kernel.flip([2, 3]), stride=kind.down, groups=x.shape[1])


def _fused(upfirdn2d: Callable[..., Tensor]) -> Callable[[Tensor, Tensor, Kind], Tensor]:
    return lambda x, f, kind: upfirdn2d(x, f, kind.up, kind.down, [*kind.padding] * 2, gain=kind.gain)


def _activated(resample: Callable[[Tensor, Tensor, Kind], Tensor], b: Tensor | None) -> Callable[..., Tensor]:
    """With bias, leaky ReLU and its gain as torch's ops, where there is a bias."""
    if b is None:
        return resample
    return lambda x, f, kind: leaky_relu(resample(x, f, kind) + b.to(x.dtype)[:, None, None], 0.2) * sqrt(2)


def _ours(b: Tensor | None) -> Callable[[Tensor, Tensor, Kind], Tensor]:
    if b is None:
        return _fused(fastgan.functional.upfirdn2d)
    return _fused(
        lambda x, f, *rest, **gain: fastgan.functional.upfirdn2d_bias_act(x, f, b, *rest, **gain, act="lrelu")
    )


def _contender(
    function: Callable[[Tensor, Tensor, Kind], Tensor],
    state: tuple[Tensor, Tensor, Kind, Tensor],
    expected: Sequence[Tensor],
    chosen: str | None = None,
) -> Contender:
    x, f, kind, dy = state
    wanted = x.detach().clone().requires_grad_()

    def forward() -> list[Tensor]:
        return [function(x, f, kind)]

    def forward_backward() -> list[Tensor]:
        y = function(wanted, f, kind)
        return [y, *torch.autograd.grad(y, wanted, dy)]

    def error(run: Callable[[], list[Tensor]]) -> float:
        return max(map(relative_error, [y.detach() for y in run()], expected))

    runs = {"forward": forward, "forward+backward": forward_backward}
    return Contender(runs, error, context=within(chosen), backend=chosen)


def workload(name: str, device: torch.device, backend_names: Sequence[str], compiled: bool) -> Workload:
    """Torch and fastgan on one kind of resampling, shape, dtype and layout."""
    label, sizes, dtype_name, layout = name.split("-")
    kind, shape, dtype = KINDS[label], tuple(map(int, sizes.split("x"))), DTYPES[dtype_name]
    generator = torch.Generator(device).manual_seed(0)

    def random(shape: Sequence[int]) -> Tensor:
        values = torch.randn(shape, device=device, generator=generator).to(dtype)
        return values.contiguous(memory_format=LAYOUTS[layout])

    x, f = random(shape), fastgan.functional.setup_filter(kind.taps, device)
    exact = x.double().requires_grad_()
    b = torch.linspace(-1, 1, shape[1], device=device).to(dtype) if kind.activated else None
    inserted, depthwise = _activated(_zeros_inserted, b), _activated(_depthwise, b)
    truth = inserted(exact, f, kind)
    dy = random(truth.shape)
    if kind.activated:
        # Rounding decides on which side of the kink a value near it is.
        dy = dy.masked_fill(truth.detach().abs() < NEAR_KINK, 0)
    expected = [truth.detach(), *torch.autograd.grad(truth, exact, dy.double())]
    state = x, f, kind, dy
    contenders = {
        BASELINE: lambda: _contender(inserted, state, expected),
        DEPTHWISE: lambda: _contender(depthwise, state, expected),
    }
    for peer, upfirdn2d in peers.functions("upfirdn2d").items():
        contenders[peer] = lambda f=upfirdn2d: _contender(_activated(_fused(f), b), state, expected)
    ours = _ours(b)
    skipped = {}
    if compiled:
        contenders["torch.compile"] = lambda: _contender(torch.compile(depthwise), state, expected)
    else:
        skipped["torch.compile"] = "not asked for (--compile)"
    for chosen in backend_names:
        contenders[f"fastgan functional ({chosen})"] = lambda b=chosen: _contender(ours, state, expected, b)
    moved = (x.numel() + dy.numel()) * dtype.itemsize
    eps = torch.finfo(dtype).eps
    return Workload(
        baseline=BASELINE,
        contenders=contenders,
        skipped=skipped,
        modes=("forward", "forward+backward"),
        moved_bytes={"forward": moved, "forward+backward": 2 * moved},
        # The filter's taps are rounded to x's dtype, and so are the products' sums.
        baseline_bound=len(kind.taps) * eps,
        rounding=len(kind.taps) * eps,
    )


def _case(kind: str, shape: Sequence[int], dtype: str, layout: str) -> str:
    return f"{kind}-{'x'.join(map(str, shape))}-{dtype}-{layout}"


def _label(kind: str, shape: Sequence[int], dtype: str) -> str:
    size = prod(shape) * DTYPES[dtype].itemsize / 2**20
    more = ", bias and lrelu" if KINDS[kind].activated else ""
    return f"{len(KINDS[kind].taps)} taps, up {KINDS[kind].up}, down {KINDS[kind].down}{more}, {size:.1f} MiB of images"


_CASES = [(kind, shape, dtype, layout) for kind in KINDS for shape in SHAPES for dtype in DTYPES for layout in LAYOUTS]
if torch.cuda.is_available():
    _CASES += [("up2act", FLOOR, "bfloat16", layout) for layout in LAYOUTS]


def _small_calls() -> None:
    # Filters that are compiled by themselves, any product, and no product; up, down.
    resamplings = [
        ((4,), 2, 1),
        ((4,), 1, 2),
        ((4,), 1, 1),
        ((12,), 2, 1),
        ((12,), 1, 2),
        ((5,), 3, 2),
        ((3, 4), [2, 1], 3),
    ]
    for dtype, (taps, up, down), channels, offset in product(small.DTYPES, resamplings, (1, 40), (0, 1)):
        x = small.values((2, channels, 13, 70), dtype, offset, channels_last=True).requires_grad_()
        f = small.values(taps, torch.float32, 0)
        y = fastgan.functional.upfirdn2d(x, f, up, down, padding=6)
        torch.autograd.grad(y, x, small.values(y.shape, dtype, offset, channels_last=True))


OPS = (
    Op(
        name="upfirdn2d",
        cases={_case(*case): _label(*case[:3]) for case in _CASES},
        quick=tuple(_case(kind, SHAPES[3], "float32", "nchw") for kind in ("up2", "down2")),
        workload=workload,
        gpu=(_case("up2", SHAPES[3], "float32", "nchw"), _case("up2", SHAPES[2], "bfloat16", "nhwc")),
        kernels={"upfirdn2d": _small_calls},
    ),
)
