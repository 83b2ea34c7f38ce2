"""Bias and activation as a module."""

import torch
from torch import Tensor, nn

from fastgan import functional


class BiasAct(nn.Module):
    """Add a learned bias, apply an activation, scale and clamp: y = clamp(gain f(x + bias)), in one pass.

    Args:
        channels: length of the bias, the size of dimension `dim` of x.
        act: the activation; with alpha, gain and clamp as in `fastgan.functional.bias_act`.
        alpha: the slope of lrelu below 0; None for 0.2.
        gain: what the activation is multiplied by; None for its default.
        clamp: largest absolute value of a result; None for no clamp.
        dim: the dimension of x that the bias runs along.
        bias: False for no bias; `channels` then says nothing.
        device: of the bias.
        dtype: of the bias.

    Parameters: `bias` [channels], initialised with zeros.
    """

    def __init__(
        self,
        channels: int,
        act: str = "linear",
        *,
        alpha: float | None = None,
        gain: float | None = None,
        clamp: float | None = None,
        dim: int = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.act, self.alpha, self.gain, self.clamp, self.dim = channels, act, alpha, gain, clamp, dim
        self.register_parameter("bias", None)
        if bias:
            self.bias = nn.Parameter(torch.zeros(channels, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """[..., channels at `dim`, ...] to the same shape."""
        return functional.bias_act(x, self.bias, self.dim, self.act, self.alpha, self.gain, self.clamp)

    def extra_repr(self) -> str:
        """What print shows: only what is not the default."""
        options = {"alpha": self.alpha, "gain": self.gain, "clamp": self.clamp}
        shown = [f"{name}={value}" for name, value in options.items() if value is not None]
        shown += [f"dim={self.dim}"] * (self.dim != 1) + ["bias=False"] * (self.bias is None)
        return ", ".join([f"{self.channels}, act={self.act}", *shown])
