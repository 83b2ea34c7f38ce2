"""What the `op` packages of rosinality's StyleGAN2 and of BasicSR offer: the same functions with other arguments."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastgan import functional

Size = int | Sequence[int]


def fused_leaky_relu(
    input: Tensor,  # noqa: A002  the codebases' name
    bias: Tensor | None = None,
    negative_slope: float = 0.2,
    scale: float = 2**0.5,
) -> Tensor:
    """scale * leaky_relu(input + bias), with a bias for every channel of dimension 1."""
    return functional.bias_act(input, bias, act="lrelu", alpha=negative_slope, gain=scale)


class FusedLeakyReLU(nn.Module):
    """`fused_leaky_relu` with a parameter `bias` [channel]."""

    def __init__(self, channel: int, bias: bool = True, negative_slope: float = 0.2, scale: float = 2**0.5):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channel)) if bias else None
        self.negative_slope, self.scale = negative_slope, scale

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """[N, channel, ...] -> the same."""
        return fused_leaky_relu(input, self.bias, self.negative_slope, self.scale)


def upfirdn2d(
    input: Tensor,  # noqa: A002
    kernel: Tensor,
    up: Size = 1,
    down: Size = 1,
    pad: Sequence[int] = (0, 0),
) -> Tensor:
    """`fastgan.functional.upfirdn2d` with a kernel [kh, kw]; pad (p0, p1) is of both axes, or (x0, x1, y0, y1)."""
    padding = [*pad, *pad] if len(pad) == 2 else list(pad)
    return functional.upfirdn2d(input, kernel.float(), up, down, padding)
