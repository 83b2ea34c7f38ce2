"""FIR filters of images: sizes and layout of what comes out, and filters that are two filters of one axis each."""

import weakref
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

# A filter counts as the product of two where no tap is farther from it than this share of the largest one: what the
# roundings of a product leave. Beside float64 the product has to be exact.
_ROUNDINGS = {torch.float64: 0.0}
_FLOAT32_ROUNDINGS = 2.0**-22


class Resampling(NamedTuple):
    """How `upfirdn2d` uses its filter: up and down are (x, y), padding is (x0, x1, y0, y1).

    channels_last: whether the result is to be channels_last or contiguous; None: as x is. The gradient of x is then as
    x is, else as that of the result. The compiled kernel for CPUs changes the layout while it writes, others after.
    """

    up: tuple[int, int]
    down: tuple[int, int]
    padding: tuple[int, int, int, int]
    flip_filter: bool
    gain: float
    channels_last: bool | None = None


class Axis(NamedTuple):
    """One axis of a resampling; the fields of `FilterAxis` in csrc/upfirdn2d.h."""

    size: int
    out: int
    taps: int
    up: int
    down: int
    pad: int


class Plan(NamedTuple):
    """How an image stored as [planes, H, W, inner] becomes another, of this shape and these strides."""

    rows: Axis
    columns: Axis
    planes: int
    inner: int
    shape: tuple[int, int, int, int]
    strides: tuple[int, int, int, int]


def axes(
    shape: Sequence[int], taps: Sequence[int], up: Sequence[int], down: Sequence[int], padding: Sequence[int]
) -> tuple[Axis, Axis]:
    """The axes of rows and columns of `upfirdn2d`'s arguments, where x and f have these shapes."""
    (x0, x1, y0, y1), (up_x, up_y), (down_x, down_y) = padding, up, down
    _, _, h, w = shape
    fh, fw = taps[0], taps[-1]
    return (
        Axis(h, (h * up_y + y0 + y1 - fh + down_y) // down_y, fh, up_y, down_y, y0),
        Axis(w, (w * up_x + x0 + x1 - fw + down_x) // down_x, fw, up_x, down_x, x0),
    )


@lru_cache(maxsize=1024)
def plan(
    shape: Sequence[int],
    taps: Sequence[int],
    up: tuple[int, int],
    down: tuple[int, int],
    padding: tuple[int, int, int, int],
    inside: bool,
    wanted: bool,
) -> Plan:
    """The plan for images with the channels inside or not, of which others are to be made with them inside or not."""
    rows, columns = axes(shape, taps, up, down, padding)
    count, channels = shape[:2]
    planes, inner = (count, channels) if inside and wanted else (count * channels, 1)
    plane = rows.out * columns.out
    if wanted:
        strides = plane * channels, 1, columns.out * channels, channels
    else:
        strides = plane * channels, plane, columns.out, 1
    return Plan(rows, columns, planes, inner, (count, channels, rows.out, columns.out), strides)


def channels_inside(x: Tensor) -> bool:
    """Whether x [N, C, H, W] has its channels side by side in memory: channels_last, and not contiguous as well."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def output_inside(x: Tensor, channels_last: bool | None) -> bool:
    """Whether what is made of x has its channels side by side; None: as x."""
    return channels_inside(x) if channels_last is None else channels_last


def memory_format(inside: bool) -> torch.memory_format:
    """Torch's name for it."""
    return torch.channels_last if inside else torch.contiguous_format


def separate(f: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
    """The filters of rows and of columns whose product a float32 f is, for x of this dtype; None if there are none.

    A filter [k] is both. Of a filter [fh, fw] the answer is kept with the tensor as long as it is not changed. On a CPU
    its taps are compared. To read a GPU's values is to wait for them: there torch's count of changes is asked, which
    does not see those by way of `f.data`; while a CUDA graph is captured nothing can be read, and what is not yet known
    is None.
    """
    if f.ndim == 1:
        return f, f
    if f.shape[0] == 1:
        return None  # nothing to gain
    known = _known.get(id(f))
    if not _holds(f, known):
        if f.is_cuda and torch.cuda.is_current_stream_capturing():
            return None
        known = _learn(f)
    return (known.fy, known.fx) if known.error <= _ROUNDINGS.get(dtype, _FLOAT32_ROUNDINGS) else None


def float32(f: Tensor) -> Tensor:
    """A filter in float32, the same tensor as long as f is not changed: so `separate` has to ask once, not every time.

    While a CUDA graph is captured, and where something traces, it is made again.
    """
    if f.dtype is torch.float32:
        return f
    if torch.compiler.is_compiling() or f.requires_grad or type(f) not in (Tensor, Parameter):
        return f.float()
    known = _exact.get(id(f))
    if not _holds(f, known):
        if f.is_cuda and torch.cuda.is_current_stream_capturing():
            return f.float()
        known = _exact[id(f)] = _Exact(*_identity(f, _exact), f.float())
    return known.float32


class _Known(NamedTuple):
    """What is known of a filter that had these taps on a CPU, or that was changed so many times on a GPU."""

    filter: weakref.ref
    taps: Tensor | None
    version: int | None
    error: float
    fy: Tensor
    fx: Tensor


class _Exact(NamedTuple):
    """The same of one in another dtype, and itself in float32."""

    filter: weakref.ref
    taps: Tensor | None
    version: int | None
    float32: Tensor


# By the filter's id.
_known: dict[int, _Known] = {}
_exact: dict[int, _Exact] = {}


def _holds(f: Tensor, known: _Known | _Exact | None) -> bool:
    """Whether it is known of this filter, and it has not been changed since."""
    if known is None or known.filter() is not f:
        return False
    if f.is_cpu:
        return known.taps is not None and torch.equal(known.taps, f)
    return not f.is_inference() and known.version == f._version


def _identity(f: Tensor, kept: dict[int, Any]) -> tuple[weakref.ref, Tensor | None, int | None]:
    key = id(f)
    alive = weakref.ref(f, lambda _: kept.pop(key, None))
    # Nobody counts the changes of an inference tensor.
    taps, version = (f.detach().clone(), None) if f.is_cpu else (None, None if f.is_inference() else f._version)
    return alive, taps, version


def _learn(f: Tensor) -> _Known:
    _known[id(f)] = known = _Known(*_identity(f, _known), *_factors(f.detach()))
    return known


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
