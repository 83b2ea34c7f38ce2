"""A convolution that makes pixels of channels."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.utils import _pair

from fastgan import check
from fastgan.functional import pixel_shuffle_act
from fastgan.reference.activations import FACTS


class PixelShuffleUpsample(torch.nn.Conv2d):
    """Convolution, bias, activation and pixel shuffle: `nn.Conv2d`, an activation and `nn.PixelShuffle` in one module.

    After the convolution, which is torch's, all is one pass: see `fastgan.functional.pixel_shuffle_act`. The keys are
    those of `torch.nn.Conv2d(in_channels, out_channels * upscale_factor ** 2, kernel_size)`.

    Args:
        in_channels: channels of x.
        out_channels: channels of the result.
        kernel_size: of the convolution; odd where `padding` is None or not given, which then keeps the size.
        upscale_factor: of both height and width.
        act: "linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish" or "gelu".
        alpha: the slope of lrelu below 0.
        **kwargs: others of `torch.nn.Conv2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        upscale_factor: int = 2,
        act: str = "linear",
        alpha: float | None = None,
        **kwargs: Any,
    ) -> None:
        check.activation(act, alpha, FACTS)
        if kwargs.get("padding") is None:
            dilation = _pair(kwargs.get("dilation", 1))
            kwargs["padding"] = [d * (k // 2) for d, k in zip(dilation, _pair(kernel_size), strict=True)]
        super().__init__(in_channels, out_channels * upscale_factor**2, kernel_size, **kwargs)
        self.upscale_factor, self.act, self.alpha = upscale_factor, act, alpha

    def forward(self, x: Tensor) -> Tensor:
        """[N, out_channels, r H, r W] of x [N, in_channels, H, W]."""
        x = self._conv_forward(x, self.weight, None)
        return pixel_shuffle_act(x, self.bias, self.upscale_factor, self.act, self.alpha)

    def extra_repr(self) -> str:
        """What torch's says, and what follows the convolution."""
        return f"{super().extra_repr()}, upscale_factor={self.upscale_factor}, act={self.act}"
