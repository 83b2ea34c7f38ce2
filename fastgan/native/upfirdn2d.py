"""FIR resampling in compiled code: csrc/cpu/upfirdn2d.cpp and csrc/cuda/upfirdn2d.cu."""

from torch import Tensor

from fastgan import _native, filters


def forward(
    x: Tensor, f: Tensor, up: list[int], down: list[int], padding: list[int], flip_filter: bool, gain: float
) -> Tensor:
    """See `fastgan.reference.upfirdn2d.forward`; x is contiguous or channels_last, f contiguous."""
    rows, columns = filters.axes(x, f, up, down, padding)
    y = filters.empty_output(x, rows, columns)
    fy, fx = filters.separate(f, x.dtype) or (f, None)
    planes, inner = filters.planes_and_inner(x)
    if y.numel():
        sizes = planes, inner, rows, columns
        _native.launch("upfirdn2d", x.device, x, y, fy, fx, *sizes, flip_filter, gain, x.dtype)
    return y
