"""Nearest upsampling then convolution, and convolution then average pooling, in plain torch. The definition."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def _avg_pool3d(x: Tensor, size: Sequence[int]) -> Tensor:
    """Torch's, which on a CPU has no half precision."""
    if x.is_cpu and x.dtype in (torch.bfloat16, torch.float16):
        return F.avg_pool3d(x.float(), size).to(x.dtype)
    return F.avg_pool3d(x, size)


CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: _avg_pool3d}


def upsample_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Repeat every pixel `scale` times along each axis, then convolve."""
    y = F.interpolate(x, scale_factor=tuple(map(float, scale)), mode="nearest")
    return CONVOLUTIONS[len(scale)](y, weight, bias, padding=padding, dilation=tuple(dilation), groups=groups)


def conv_downsample(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolve, then take the mean of every block of `scale` pixels; what fills no block is dropped."""
    convolution = CONVOLUTIONS[len(scale)]
    y = convolution(x, weight, bias, padding=padding, dilation=tuple(dilation), groups=groups)
    return POOLS[len(scale)](y, tuple(scale))
