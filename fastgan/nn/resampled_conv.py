"""Layers that upsample before or downsample after their convolution, with nn.Conv's parameters and keys."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _ntuple

from fastgan import check, functional
from fastgan.nn.filter_buffer import FilterBuffer

Size = int | Sequence[int]


class _ResampledConv(FilterBuffer):
    """What the layers share; nn.Conv comes after it in a layer's bases."""

    _buffer_name = "fir"
    _axes: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        scale_factor: Size = 2,
        padding: Size | str | None = None,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        fir: Any = None,
    ):
        each = _ntuple(self._axes)
        if padding is None:
            padding = tuple(d * (k // 2) for d, k in zip(each(dilation), each(kernel_size), strict=True))
        super().__init__(
            in_channels, out_channels, kernel_size, 1, padding, dilation, groups, bias, padding_mode, device, dtype
        )
        if fir is not None and self._axes != 2:
            raise ValueError(f"fir must be None but for images, got {check.short(fir)}")
        if fir is not None and padding_mode != "zeros":
            raise ValueError(f'padding_mode must be "zeros" with a FIR filter, got {check.short(padding_mode)}')
        self.scale_factor = each(scale_factor)
        self._register_filter(fir, device, persistent=False)

    def extra_repr(self) -> str:
        """What nn.Conv says, and the scale."""
        return f"{super().extra_repr()}, scale_factor={self.scale_factor}"

    def _resampled(self, function: Callable[..., Tensor], x: Tensor, padding: Size | str) -> Tensor:
        filtered = {} if self.fir is None else {"mode": "fir", "fir": self.fir}
        return function(
            x,
            self.weight,
            self.bias,
            scale_factor=self.scale_factor,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
            **filtered,
        )


class UpsampleConv1d(_ResampledConv, nn.Conv1d):
    """`UpsampleConv2d` for 1 dimension, without a filter."""

    _axes = 1

    def forward(self, x: Tensor) -> Tensor:
        """[N, C_in, L] -> [N, C_out, L']."""
        if self.padding_mode == "zeros":
            return self._resampled(functional.upsample_conv1d, x, self.padding)
        # What is padded is the upsampled input.
        x = F.interpolate(x, scale_factor=tuple(map(float, self.scale_factor)))
        return self._conv_forward(x, self.weight, self.bias)


class ConvDownsample1d(_ResampledConv, nn.Conv1d):
    """`ConvDownsample2d` for 1 dimension, without a filter."""

    _axes = 1

    def forward(self, x: Tensor) -> Tensor:
        """[N, C_in, L] -> [N, C_out, L']."""
        if self.padding_mode == "zeros":
            return self._resampled(functional.conv_downsample1d, x, self.padding)
        x = F.pad(x, self._reversed_padding_repeated_twice, self.padding_mode)
        return self._resampled(functional.conv_downsample1d, x, 0)


class UpsampleConv2d(_ResampledConv, nn.Conv2d):
    """Upsampling, then a convolution, as one layer, `fastgan.functional.upsample_conv2d`.

    Parameters, their start and the keys of the state_dict are nn.Conv2d's.

    Args:
        in_channels: as in nn.Conv2d.
        out_channels: as in nn.Conv2d.
        kernel_size: as in nn.Conv2d.
        scale_factor: a whole number of 1 or more, or [sh, sw]; in the place of nn.Conv2d's stride.
        padding: a number or [ph, pw], "same" or "valid", as in nn.Conv2d; None for dilation * (k // 2).
        dilation: as in nn.Conv2d.
        groups: as in nn.Conv2d.
        bias: as in nn.Conv2d.
        padding_mode: as in nn.Conv2d; others than "zeros" run step by step.
        device: as in nn.Conv2d.
        dtype: as in nn.Conv2d.
        fir: taps for `setup_filter`, to filter with them instead of repeating pixels.

    Raises:
        TypeError, ValueError: what nn.Conv2d raises; a FIR filter with another padding_mode than "zeros".
    """

    _axes = 2

    def forward(self, x: Tensor) -> Tensor:
        """[N, C_in, H, W] -> [N, C_out, H', W']."""
        if self.padding_mode == "zeros":
            return self._resampled(functional.upsample_conv2d, x, self.padding)
        # What is padded is the upsampled input.
        x = F.interpolate(x, scale_factor=tuple(map(float, self.scale_factor)))
        return self._conv_forward(x, self.weight, self.bias)


class ConvDownsample2d(_ResampledConv, nn.Conv2d):
    """A convolution, then downsampling, as one layer, `fastgan.functional.conv_downsample2d`.

    Parameters, their start and the keys of the state_dict are nn.Conv2d's.

    Args:
        in_channels: as in nn.Conv2d.
        out_channels: as in nn.Conv2d.
        kernel_size: as in nn.Conv2d.
        scale_factor: a whole number of 1 or more, or [sh, sw]; in the place of nn.Conv2d's stride.
        padding: a number or [ph, pw], "same" or "valid", as in nn.Conv2d; None for dilation * (k // 2).
        dilation: as in nn.Conv2d.
        groups: as in nn.Conv2d.
        bias: as in nn.Conv2d.
        padding_mode: as in nn.Conv2d.
        device: as in nn.Conv2d.
        dtype: as in nn.Conv2d.
        fir: taps for `setup_filter`, to filter with them instead of taking means.

    Raises:
        TypeError, ValueError: what nn.Conv2d raises; a FIR filter with another padding_mode than "zeros".
    """

    _axes = 2

    def forward(self, x: Tensor) -> Tensor:
        """[N, C_in, H, W] -> [N, C_out, H', W']."""
        if self.padding_mode == "zeros":
            return self._resampled(functional.conv_downsample2d, x, self.padding)
        x = F.pad(x, self._reversed_padding_repeated_twice, self.padding_mode)
        return self._resampled(functional.conv_downsample2d, x, 0)


class UpsampleConv3d(_ResampledConv, nn.Conv3d):
    """`UpsampleConv2d` for 3 dimensions, without a filter."""

    _axes = 3

    def forward(self, x: Tensor) -> Tensor:
        """[N, C_in, D, H, W] -> [N, C_out, D', H', W']."""
        if self.padding_mode == "zeros":
            return self._resampled(functional.upsample_conv3d, x, self.padding)
        # What is padded is the upsampled input.
        x = F.interpolate(x, scale_factor=tuple(map(float, self.scale_factor)))
        return self._conv_forward(x, self.weight, self.bias)


class ConvDownsample3d(_ResampledConv, nn.Conv3d):
    """`ConvDownsample2d` for 3 dimensions, without a filter."""

    _axes = 3

    def forward(self, x: Tensor) -> Tensor:
        """[N, C_in, D, H, W] -> [N, C_out, D', H', W']."""
        if self.padding_mode == "zeros":
            return self._resampled(functional.conv_downsample3d, x, self.padding)
        x = F.pad(x, self._reversed_padding_repeated_twice, self.padding_mode)
        return self._resampled(functional.conv_downsample3d, x, 0)
