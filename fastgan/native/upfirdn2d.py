"""FIR resampling in compiled code: csrc/cpu/upfirdn2d.cpp and csrc/cuda/upfirdn2d.cu."""

from math import nan
from typing import Any

from torch import Tensor

from fastgan import _native, filters


def forward(
    x: Tensor, f: Tensor, up: list[int], down: list[int], padding: list[int], flip_filter: bool, gain: float
) -> Tensor:
    """See `fastgan.reference.upfirdn2d.forward`; x is contiguous or channels_last, f contiguous."""
    return _launch(x, f, up, down, padding, flip_filter, gain, None, False)


def forward_bias_act(
    x: Tensor,
    f: Tensor,
    up: list[int],
    down: list[int],
    padding: list[int],
    flip_filter: bool,
    gain: float,
    b: Tensor | None,
    *spec: Any,
) -> Tensor:
    """See `fastgan.reference.upfirdn2d.forward_bias_act`; the same, and b in the dtype that is computed in."""
    return _launch(x, f, up, down, padding, flip_filter, gain, b, True, *spec)


def _launch(
    x: Tensor,
    f: Tensor,
    up: list[int],
    down: list[int],
    padding: list[int],
    flip_filter: bool,
    gain: float,
    b: Tensor | None,
    activated: bool,
    act: str = "linear",
    alpha: float = 0,
    act_gain: float = 1,
    clamp: float | None = None,
) -> Tensor:
    rows, columns = filters.axes(x, f, up, down, padding)
    y = filters.empty_output(x, rows, columns)
    fy, fx = filters.separate(f, x.dtype) or (f, None)
    planes, inner = filters.planes_and_inner(x)
    if y.numel():
        sizes = planes, inner, rows, columns
        after = activated, b, x.shape[1], act, alpha, act_gain, nan if clamp is None else clamp
        _native.launch("upfirdn2d", x.device, x, y, fy, fx, *sizes, flip_filter, gain, x.dtype, *after)
    return y
