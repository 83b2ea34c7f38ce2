"""FIR resampling of images: insert zeros, pad or crop, convolve, drop.

    y[i] = gain sum_j g[j] z[i down + j - p0]      g: f, flipped unless `flip_filter`; z: x with up - 1 zeros inserted
    dx[s] = gain sum_i dy[i] g[s up + p0 - i down]

along each axis. The second line is the first with up and down swapped, the filter flipped and other padding: so the op
is its own derivative, and every order is right.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan import backends, check, filters
from fastgan.filters import Resampling
from fastgan.ops.op import Op, overridable
from fastgan.ops.vmap import fold, unfold
from fastgan.reference import upfirdn2d as reference

MOST_TAPS = 64
MOST_STEP = 2**29  # kMaxStep in csrc/upfirdn2d.h


@overridable
def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Upsample, filter and downsample images in one pass, without the inserted zeros or what is dropped.

    The same as these four steps, along each axis:
        1. insert up - 1 zeros after every pixel
        2. add padding[0] zeros before and padding[1] after; a negative value crops so many (zeros of step 1 too)
        3. convolve with f, where it is wholly inside, and multiply by gain: y[i] = sum_j f[k - 1 - j] z[i + j],
           or f[j] z[i + j] with `flip_filter`
        4. keep every down-th pixel, the first one included

    so H becomes (H up + y0 + y1 - fh) // down + 1.

    Args:
        x: [N, C, H, W], N or C may be 0; float64, float32, bfloat16 or float16, any strides. Contiguous and
            channels_last tensors are read in their layout, others are copied.
        f: float32 [fh, fw], or [k] for the same filter along both axes, 1 to 64 taps each, on x's device, a constant;
            None for the identity. `setup_filter` makes one. A filter [fh, fw] that is the product of two of one axis,
            to the rounding of float32, is computed as such; to know that, a GPU's filter is read once.
        up: 1 or more, or [x, y].
        down: 1 or more, or [x, y].
        padding: an int, [x, y] or [x0, x1, y0, y1]; negative to crop.
        flip_filter: False for a convolution, True for a correlation.
        gain: what y is multiplied by.

    Returns:
        [N, C, H', W'] of x's dtype and, where that is contiguous or channels_last, layout; summed in float32 or better.

    Raises:
        TypeError, ValueError: an argument that is not as above, or an output without a pixel.
        RuntimeError: the backend that was asked for cannot run here.

    Derivatives: with respect to x, reverse mode to any order: the derivative is the op itself. f is a constant. Forward
    mode raises NotImplementedError.

    Source: P. P. Vaidyanathan, Multirate Systems and Filter Banks, Prentice Hall 1993, section 4.3, polyphase form;
    arguments as GAN codebases have them.
    """
    return resampled(x, *checked(x, f, up, down, padding, flip_filter, gain))


def checked(x: Any, f: Any, up: Any, down: Any, padding: Any, flip_filter: Any, gain: Any) -> tuple[Tensor, Resampling]:
    """The filter and how it is used; TypeError or ValueError for what the op does not take."""
    up, down, padding = pair(up, "up"), pair(down, "down"), four(padding)
    check.image(x, "x")
    if f is None:
        f = torch.ones(1, dtype=torch.float32, device=x.device)
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
    check.finite(gain, "gain")
    return f, Resampling(up, down, padding, bool(flip_filter), float(gain))


def pair(value: int | Sequence[int], name: str) -> tuple[int, int]:
    """A factor as [x, y]."""
    check.integers(value, name, (2,), 1, MOST_STEP)
    return tuple(value) if isinstance(value, (list, tuple)) else (value, value)


def four(padding: int | Sequence[int]) -> tuple[int, int, int, int]:
    """[x0, x1, y0, y1]."""
    check.integers(padding, "padding", (2, 4))
    if not isinstance(padding, (list, tuple)):
        return padding, padding, padding, padding
    return tuple(padding) if len(padding) == 4 else (padding[0], padding[0], padding[1], padding[1])


def resampled(x: Tensor, f: Tensor, how: Resampling) -> Tensor:
    """The op, for arguments that were checked."""
    return _op(x, f, *how)


def adjoint(dy: Tensor, f: Tensor, how: Resampling, size: Sequence[int], channels_last: bool) -> Tensor:
    """The op's derivative: dy taken back to x, which is channels_last or not; its size is [W, H]."""
    return resampled(dy, f, adjoint_of(how, size, dy.shape[:1:-1], (f.shape[-1], f.shape[0]), channels_last))


def adjoint_of(
    how: Resampling, size: Sequence[int], out: Sequence[int], taps: Sequence[int], channels_last: bool
) -> Resampling:
    """The resampling that takes dy back to x; sizes and taps are [x, y]."""
    padding: list[int] = []
    for i in range(2):
        before, up, down = how.padding[2 * i], how.up[i], how.down[i]
        padding += [taps[i] - 1 - before, size[i] * up - out[i] * down + before - up + 1]
    as_x = None if how.channels_last is None else channels_last
    return Resampling(how.down, how.up, tuple(padding), not how.flip_filter, how.gain, as_x)


def empty_resampled(x: Tensor, f: Tensor, how: Resampling) -> Tensor:
    """What the op returns, empty."""
    rows, columns = filters.axes(x.shape, f.shape, how.up, how.down, how.padding)
    layout = filters.memory_format(filters.output_inside(x, how.channels_last))
    shape = (*x.shape[:2], rows.out, columns.out)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


def _run(x: Tensor, f: Tensor, *how: Any) -> Tensor:
    dense = x if filters.channels_inside(x) else x.contiguous()
    return backends.pick("upfirdn2d", x).forward(dense, f.contiguous(), Resampling(*how))


def _fake(x: Tensor, f: Tensor, *how: Any) -> Tensor:
    return empty_resampled(x, f, Resampling(*how))


def _plain(x: Tensor, f: Tensor, *how: Any) -> Tensor:
    return reference.forward(x, f, Resampling(*how))


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, f, *ctx.how = inputs
    ctx.size, ctx.channels_last = x.shape[:1:-1], filters.channels_inside(x)
    ctx.save_for_backward(f)


def _gradient(ctx: Any, wanted: Sequence[bool], dy: Tensor) -> tuple[Tensor]:
    return (adjoint(dy, *ctx.saved_tensors, Resampling(*ctx.how), ctx.size, ctx.channels_last),)


def _vmap(info: Any, in_dims: tuple, x: Tensor, f: Tensor, *how: Any) -> tuple[Tensor, int]:
    if in_dims[1] is not None:
        raise NotImplementedError("fastgan upfirdn2d: vmap over filters is not supported; f is one for all images")
    return unfold(_op(fold(x, in_dims[0], info.batch_size), f, *how), info.batch_size), 0


_op = Op(
    "upfirdn2d(Tensor x, Tensor f, int[] up, int[] down, SymInt[] padding, bool flip_filter, float gain, "
    "bool? channels_last=None) -> Tensor",
    _run,
    _fake,
    _plain,
    _keep,
    _gradient,
    _vmap,
)
