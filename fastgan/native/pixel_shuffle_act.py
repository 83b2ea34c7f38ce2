"""Bias, activation and pixel shuffle in compiled code: csrc/cpu/pixel_shuffle_act.cpp, csrc/cuda/pixel_shuffle_act.cu."""

from torch import Tensor

from fastgan import _native, memory


def forward(x: Tensor, bias: Tensor | None, factor: int, act: str, alpha: float, dim: int) -> Tensor:
    """See `fastgan.reference.pixel_shuffle_act.forward`; both are contiguous, bias of the dtype computed in."""
    count, channels, height, width = _sizes(x, dim)
    sizes = count, channels // factor**2, height, width
    y = memory.empty(_shape(count, sizes[1], factor * height, factor * width, dim), x.dtype, x.device)
    _native.launch("pixel_shuffle_act", x.device, None, x, bias, y, factor, act, alpha, *sizes, dim != 1, x.dtype)
    return y


def backward(
    dy: Tensor, x: Tensor | None, bias: Tensor | None, factor: int, act: str, alpha: float, dim: int
) -> Tensor:
    """See `fastgan.reference.pixel_shuffle_act.backward`; all are contiguous, bias of the dtype computed in."""
    count, channels, height, width = _sizes(dy, dim)
    sizes = count, channels, height // factor, width // factor
    dx = memory.empty(_shape(count, channels * factor**2, *sizes[2:], dim), dy.dtype, dy.device)
    _native.launch("pixel_shuffle_act", dy.device, dy, x, bias, dx, factor, act, alpha, *sizes, dim != 1, dy.dtype)
    return dx


def _sizes(x: Tensor, dim: int) -> tuple[int, int, int, int]:
    """Samples, channels, height, width."""
    return x.shape if dim == 1 else (x.shape[0], x.shape[3], x.shape[1], x.shape[2])


def _shape(count: int, channels: int, height: int, width: int, dim: int) -> tuple[int, int, int, int]:
    return (count, channels, height, width) if dim == 1 else (count, height, width, channels)
