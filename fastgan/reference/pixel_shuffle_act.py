"""Bias, activation and pixel shuffle in plain torch: the definition that every backend is compared with.

y[n, c, r h + i, r w + j] = f(z[n, r r c + r i + j, h, w])      z = x + bias      dx = f'(z) dy, at its place
"""

import torch
from torch import Tensor

from fastgan.reference import activations


def forward(x: Tensor, bias: Tensor | None, factor: int, act: str, alpha: float, dim: int = 1) -> Tensor:
    """y [N, C, r H, r W] of x [N, C r r, H, W], or both with the channels last for dim = -1, and bias [C r r]."""
    return _shuffle(activations.value(act, _biased(x, bias, dim), alpha), factor, dim).to(x.dtype)


def backward(
    dy: Tensor, x: Tensor | None, bias: Tensor | None, factor: int, act: str, alpha: float, dim: int = 1
) -> Tensor:
    """dx; x may be None for "linear". Differentiable to any order."""
    dx = _unshuffle(dy, factor, dim)
    if act == "linear":
        return dx
    z = _biased(x, bias, dim)
    return activations.chained(act, z, dx.to(z.dtype), alpha).to(x.dtype)


def _biased(x: Tensor, bias: Tensor | None, dim: int) -> Tensor:
    x = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    return x if bias is None else x + (bias.view(-1, 1, 1) if dim == 1 else bias)


# Not F.pixel_shuffle and its inverse, which give an empty image a wrong shape. A result is no view of an input: clone.
def _shuffle(z: Tensor, factor: int, dim: int) -> Tensor:
    n, channels, h, w = z.movedim(dim, 1).shape
    c, r = channels // factor**2, factor
    split = z.movedim(dim, 1).reshape(n, c, r, r, h, w).permute(0, 1, 4, 2, 5, 3)
    return split.clone(memory_format=torch.contiguous_format).view(n, c, h * r, w * r).movedim(1, dim).contiguous()


def _unshuffle(y: Tensor, factor: int, dim: int) -> Tensor:
    n, c, height, width = y.movedim(dim, 1).shape
    h, w, r = height // factor, width // factor, factor
    split = y.movedim(dim, 1).reshape(n, c, h, r, w, r).permute(0, 1, 3, 5, 2, 4)
    return split.clone(memory_format=torch.contiguous_format).view(n, c * r * r, h, w).movedim(1, dim).contiguous()
