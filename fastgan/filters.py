"""FIR filters of images: sizes of what comes out, memory for it, and filters that are two filters of one axis each."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from fastgan import memory

# A filter counts as the product of two where no tap is farther from it than this share of the largest one: what the
# roundings of a product leave. Beside float64 the product has to be exact.
_ROUNDINGS = {torch.float64: 0.0}
_FLOAT32_ROUNDINGS = 2.0**-22
_known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


class Axis(NamedTuple):
    """One axis of a resampling; the fields of `FilterAxis` in csrc/upfirdn2d.h."""

    size: int
    out: int
    taps: int
    up: int
    down: int
    pad: int


def axes(x: Tensor, f: Tensor, up: Sequence[int], down: Sequence[int], padding: Sequence[int]) -> tuple[Axis, Axis]:
    """The axes of rows and columns of `upfirdn2d`'s arguments, where x is [N, C, H, W]."""
    (x0, x1, y0, y1), (up_x, up_y), (down_x, down_y) = padding, up, down
    (_, _, h, w), taps = x.shape, f.shape
    fh, fw = taps[0], taps[-1]
    return (
        Axis(h, (h * up_y + y0 + y1 - fh + down_y) // down_y, fh, up_y, down_y, y0),
        Axis(w, (w * up_x + x0 + x1 - fw + down_x) // down_x, fw, up_x, down_x, x0),
    )


def channels_inside(x: Tensor) -> bool:
    """Whether x [N, C, H, W] has its channels side by side in memory: channels_last, and not contiguous as well."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def output_inside(x: Tensor, channels_last: bool | None) -> bool:
    """Whether what is made of x has its channels side by side; None: as x."""
    return channels_inside(x) if channels_last is None else channels_last


def memory_format(inside: bool) -> torch.memory_format:
    """Torch's name for it."""
    return torch.channels_last if inside else torch.contiguous_format


def planes_and_inner(x: Tensor) -> tuple[int, int]:
    """x as it lies, [planes, H, W, inner]."""
    count, channels = x.shape[:2]
    return (count, channels) if channels_inside(x) else (count * channels, 1)


def empty_output(x: Tensor, rows: Axis, columns: Axis, inside: bool) -> Tensor:
    """[N, C, rows.out, columns.out], with the channels side by side or contiguous."""
    count, channels = x.shape[:2]
    shape = (count, channels, rows.out, columns.out)
    if not inside:
        return memory.empty(shape, x.dtype, x.device)
    row = columns.out * channels
    return memory.empty_strided(shape, (rows.out * row, 1, row, channels), x.dtype, x.device)


def separate(f: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
    """The filters of rows and of columns whose product a float32 f is, for x of this dtype; None if there are none.

    A filter [k] is both. Of a filter [fh, fw] the answer is kept with the tensor as long as nobody changes it, because
    to read a GPU's numbers is to wait for them; while a CUDA graph is captured that is not possible, and what is not
    yet known is None.
    """
    if f.ndim == 1:
        return f, f
    if f.shape[0] == 1:
        return None  # nothing to gain
    # Nobody counts the changes of an inference tensor.
    known = None if f.is_inference() else _known.get(f)
    if known is None or known[0] != f._version:
        if f.is_cuda and torch.cuda.is_current_stream_capturing():
            return None
        known = None if f.is_inference() else f._version, *_factors(f.detach())
        if not f.is_inference():
            _known[f] = known
    _, error, fy, fx = known
    return (fy, fx) if error <= _ROUNDINGS.get(dtype, _FLOAT32_ROUNDINGS) else None


def _factors(f: Tensor) -> tuple[float, Tensor, Tensor]:
    """Two filters, and how far the taps of their product are from f's, as a share of the largest one."""
    exact = f.double().cpu()
    size = exact.abs()
    if not size.max():
        return 0.0, torch.zeros_like(f[:, 0]), torch.zeros_like(f[0])
    found = []
    # Either may be the one whose quotients need no rounding.
    for pivot in (size.argmax(), size.where(size > 0, torch.inf).argmin()):
        i, j = divmod(int(pivot), f.shape[1])
        fy, fx = (exact[:, j] / exact[i, j]).float(), exact[i].float()
        error = (torch.outer(fy.double(), fx.double()) - exact).abs().max() / size.max()
        found.append((float(error), fy.to(f.device), fx.to(f.device)))
    return min(found, key=lambda entry: entry[0])
