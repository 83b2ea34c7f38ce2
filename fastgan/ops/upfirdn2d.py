"""FIR resampling of images: insert zeros, pad or crop, convolve, drop.

    y[i] = gain sum_j g[j] z[i down + j - p0]      g: f, flipped unless `flip_filter`; z: x with up - 1 zeros inserted
    dx[s] = gain sum_i dy[i] g[s up + p0 - i down]

along each axis. The second line is the first with up and down swapped, the filter flipped and other padding
(`adjoint_padding`): so the op is its own derivative, and every order is right. In eager mode an autograd.Function calls
the backend; where something traces, `torch.ops.fastgan.upfirdn2d` is called.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan import backends, check, filters
from fastgan.ops.decompositions import register_decomposition, registered
from fastgan.ops.samples import fold, unfold
from fastgan.ops.tracing import is_differentiated, is_traced, raise_no_forward_mode, refuse_forward_mode, untraced
from fastgan.reference import upfirdn2d as reference

MOST_TAPS = 64
MOST_STEP = 2**29  # kMaxStep in csrc/upfirdn2d.h

torch.library.define(
    "fastgan::upfirdn2d",
    "(Tensor x, Tensor f, int[] up, int[] down, SymInt[] padding, bool flip_filter, float gain, "
    "bool? channels_last=None) -> Tensor",
)


def check_arguments(x: Any, f: Any, up: Sequence[int], down: Sequence[int], padding: Sequence[int]) -> None:
    """Raise TypeError or ValueError for what the op does not take."""
    check.image(x, "x")
    check.fir_filter(f, "f", MOST_TAPS)
    check.on_device_of(f, "f", x, "x")
    axes = filters.axes(x.shape, f.shape, up, down, padding)
    for name, axis in zip("HW", axes, strict=True):
        if axis.out < 1:
            raise ValueError(
                f"padding leaves nothing to compute: along {name}, {axis.size} * up {axis.up} and padding are "
                f"{axis.out * axis.down - axis.down + axis.taps} or less, fewer than the filter's {axis.taps} taps; "
                f"x is {check.describe(x)}, padding {list(padding)}"
            )
    padded = [(axis.out - 1) * axis.down + axis.taps for axis in axes]
    check.size((*x.shape[:2], *padded), "x with up and padding")
    if all(type(size) is int for size in padded) and max(padded) > check.MOST_INT:
        raise ValueError(
            f"up {list(up)} and padding {list(padding)} make [H, W] {padded} of x {check.describe(x)}: "
            f"{check.MOST_INT} along an axis are the most"
        )


def adjoint_padding(
    size: Sequence[int], out: Sequence[int], taps: Sequence[int], up: list[int], down: list[int], padding: list[int]
) -> list[int]:
    """The padding [x0, x1, y0, y1] by which the op takes dy back to x; sizes and taps are [x, y]."""
    result = []
    for i in range(2):
        before = padding[2 * i]
        result += [taps[i] - 1 - before, size[i] * up[i] - out[i] * down[i] + before - up[i] + 1]
    return result


def upfirdn2d(
    x: Tensor,
    f: Tensor,
    up: list[int],
    down: list[int],
    padding: list[int],
    flip_filter: bool,
    gain: float,
    channels_last: bool | None = None,
) -> Tensor:
    """The op, for arguments that were checked: up and down are [x, y], padding is [x0, x1, y0, y1].

    channels_last: whether y is to be channels_last or contiguous; None: as x is. Then the gradient of x is to be as
    x is, else as y is. The compiled kernel for CPUs turns it while it writes, others do so afterwards.
    """
    options = up, down, padding, flip_filter, gain, channels_last
    if is_traced(x, f):
        refuse_forward_mode("upfirdn2d")
        return registered("upfirdn2d")(x, f, *options)
    if torch._C._are_functorch_transforms_active():
        return _TransformedUpfirdn2d.apply(x, f, options)
    return _Upfirdn2d.apply(x, f, options) if is_differentiated(x) else _forward(x, f, *options)


@untraced
def _forward(x: Tensor, f: Tensor, *options: Any) -> Tensor:
    dense = x if filters.channels_inside(x) else x.contiguous()
    return backends.pick("upfirdn2d", x).forward(dense, f.contiguous(), *options)


def _fake(
    x: Tensor,
    f: Tensor,
    up: list[int],
    down: list[int],
    padding: list[int],
    flip_filter: bool,
    gain: float,
    channels_last: bool | None = None,
) -> Tensor:
    rows, columns = filters.axes(x.shape, f.shape, up, down, padding)
    layout = filters.memory_format(filters.output_inside(x, channels_last))
    shape = (*x.shape[:2], rows.out, columns.out)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


def _gradient(dy: Tensor | None, f: Tensor, size: Sequence[int], inside: bool, options: tuple) -> Tensor | None:
    if dy is None:
        return None
    up, down, padding, flip_filter, gain, channels_last = options
    out, taps = dy.shape[:1:-1], (f.shape[-1], f.shape[0])
    back = adjoint_padding(size, out, taps, up, down, padding)
    as_x = None if channels_last is None else inside
    return upfirdn2d(dy, f, down, up, back, not flip_filter, gain, as_x)


class _Upfirdn2d(torch.autograd.Function):
    """(x, f, options) -> y; f is a constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Tensor, options: tuple) -> Tensor:
        _save(ctx, x, f, options)
        return _forward(x, f, *options)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, None, None]:
        return _gradient(dy, *ctx.saved_tensors, ctx.size, ctx.inside, ctx.options), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> None:
        raise_no_forward_mode("upfirdn2d")


class _TransformedUpfirdn2d(_Upfirdn2d):
    """The same for torch.func, in a form that torch takes longer to call."""

    @staticmethod
    def forward(x: Tensor, f: Tensor, options: tuple) -> Tensor:
        return _forward(x, f, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _save(ctx, *inputs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x: Tensor, f: Tensor, options: tuple) -> tuple[Tensor, int]:
        if in_dims[1] is not None:
            raise NotImplementedError("fastgan upfirdn2d: vmap over filters is not supported; f is one for all images")
        return unfold(upfirdn2d(fold(x, in_dims[0], info.batch_size), f, *options), info.batch_size), 0


def _save(ctx: Any, x: Tensor, f: Tensor, options: tuple) -> None:
    ctx.set_materialize_grads(False)
    ctx.options = options
    ctx.size, ctx.inside = x.shape[:1:-1], filters.channels_inside(x)
    ctx.save_for_backward(f)


def _setup_traced(ctx: Any, inputs: tuple, output: Tensor) -> None:
    _save(ctx, *inputs[:2], inputs[2:])


def _backward_traced(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
    return _gradient(dy, *ctx.saved_tensors, ctx.size, ctx.inside, ctx.options), *(None,) * 7


torch.library.impl("fastgan::upfirdn2d", "default", _forward)
torch.library.register_fake("fastgan::upfirdn2d", _fake)
torch.library.register_autograd("fastgan::upfirdn2d", _backward_traced, setup_context=_setup_traced)
register_decomposition("upfirdn2d", reference.forward)
