"""Bias, activation and pixel shuffle in compiled code: pixel_shuffle_act.cpp in csrc/cpu, .cu in csrc/cuda."""

from torch import Tensor

from fastgan import _native, memory
from fastgan.ops.layout import image_shape, image_sizes


def forward(x: Tensor, bias: Tensor | None, factor: int, act: str, alpha: float, dim: int) -> Tensor:
    """See `fastgan.reference.pixel_shuffle_act.forward`; both are contiguous, bias of the dtype computed in."""
    count, channels, height, width = image_sizes(x, dim)
    sizes = count, channels // factor**2, height, width
    y = memory.empty(image_shape(count, sizes[1], factor * height, factor * width, dim), x.dtype, x.device)
    _native.launch("pixel_shuffle_act", x.device, None, x, bias, y, factor, act, alpha, *sizes, dim != 1, x.dtype)
    return y


def backward(
    dy: Tensor, x: Tensor | None, bias: Tensor | None, factor: int, act: str, alpha: float, dim: int
) -> Tensor:
    """See `fastgan.reference.pixel_shuffle_act.backward`; all are contiguous, bias of the dtype computed in."""
    count, channels, height, width = image_sizes(dy, dim)
    sizes = count, channels, height // factor, width // factor
    dx = memory.empty(image_shape(count, channels * factor**2, *sizes[2:], dim), dy.dtype, dy.device)
    _native.launch("pixel_shuffle_act", dy.device, dy, x, bias, dx, factor, act, alpha, *sizes, dim != 1, dy.dtype)
    return dx
