"""Layers that upsample before or downsample after their convolution, with nn.Conv's parameters and keys."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _ntuple

from fastgan import check, functional
from fastgan.convolution.dimensions import document
from fastgan.nn.filter_buffer import FilterBuffer

Size = int | Sequence[int]


class _ResampledConv(FilterBuffer):
    """What the layers share; nn.Conv comes after it in a layer's bases."""

    _buffer_name = "fir"
    _axes: ClassVar[int]
    _function: ClassVar[Callable[..., Tensor]]

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

    def _resampled(self, x: Tensor, padding: Size | str) -> Tensor:
        filtered = {} if self.fir is None else {"mode": "fir", "fir": self.fir}
        return self._function(
            x,
            self.weight,
            self.bias,
            scale_factor=self.scale_factor,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
            **filtered,
        )


class _UpsampleConv(_ResampledConv):
    _name, _function_name = "UpsampleConv", "upsample_conv"
    _what, _instead_of = "Upsampling, then a convolution", "repeating pixels"

    def forward(self, x: Tensor) -> Tensor:
        if self.padding_mode == "zeros":
            return self._resampled(x, self.padding)
        # What is padded is the upsampled input.
        x = F.interpolate(x, scale_factor=tuple(map(float, self.scale_factor)))
        return self._conv_forward(x, self.weight, self.bias)


class _ConvDownsample(_ResampledConv):
    _name, _function_name = "ConvDownsample", "conv_downsample"
    _what, _instead_of = "A convolution, then downsampling", "taking means"

    def forward(self, x: Tensor) -> Tensor:
        if self.padding_mode == "zeros":
            return self._resampled(x, self.padding)
        return self._resampled(F.pad(x, self._reversed_padding_repeated_twice, self.padding_mode), 0)


_DOC = """{what}, as one layer, `fastgan.functional.{function}`.

    [N, C_in, {sizes}] becomes [N, C_out, {new_sizes}]. Parameters, their start and the keys of the state_dict
    are nn.Conv{n}d's.

    Args:
        in_channels: as in nn.Conv{n}d.
        out_channels: as in nn.Conv{n}d.
        kernel_size: as in nn.Conv{n}d.
        scale_factor: a whole number of 1 or more{or_s}; in the place of nn.Conv{n}d's stride.
        padding: a number{or_p}, "same" or "valid", as in nn.Conv{n}d; None for dilation * (k // 2).
        dilation: as in nn.Conv{n}d.
        groups: as in nn.Conv{n}d.
        bias: as in nn.Conv{n}d.
        padding_mode: as in nn.Conv{n}d; others than "zeros" run step by step.
        device: as in nn.Conv{n}d.
        dtype: as in nn.Conv{n}d.
        fir: None; for images taps for `setup_filter`, to filter with them instead of {instead}.

    Raises:
        TypeError, ValueError: what nn.Conv{n}d raises; a FIR filter but for images with padding_mode "zeros".
    """


def _layer(base: type[_ResampledConv], n: int) -> type[nn.Module]:
    """The layer for 1, 2 or 3 dimensions."""
    name, function = f"{base._name}{n}d", f"{base._function_name}{n}d"
    members = {
        "__doc__": document(_DOC, n, what=base._what, function=function, instead=base._instead_of),
        "__module__": __name__,
        "_axes": n,
        "_function": staticmethod(getattr(functional, function)),
    }
    return type(name, (base, getattr(nn, f"Conv{n}d")), members)


UpsampleConv1d, UpsampleConv2d, UpsampleConv3d = (_layer(_UpsampleConv, n) for n in (1, 2, 3))
ConvDownsample1d, ConvDownsample2d, ConvDownsample3d = (_layer(_ConvDownsample, n) for n in (1, 2, 3))
