"""Norms of samples in plain torch: the definition that every backend is compared with.

s_n = sum of x_n^2, or its root |x_n|          dx_n = 2 dy_n x_n, or dy_n x_n / |x_n|, and 0 where |x_n| = 0
"""

import torch
from torch import Tensor


def forward(x: Tensor, squared: bool) -> Tensor:
    """Norm, or squared norm, of every sample of x [N, ...]: [N], float64 for float64, else float32."""
    flat = x.to(_accumulation_dtype(x.dtype)).unsqueeze(-1).flatten(1)
    return flat.square().sum(1) if squared else torch.linalg.vector_norm(flat, dim=1)


def backward(dy: Tensor, x: Tensor, norms: Tensor | None) -> Tensor:
    """Gradient of x from dy [N]; `norms` [N] are those that the forward returned, None for squared norms.

    Differentiable with respect to `dy`, `x` and `norms`, to any order, and finite where a norm is 0.
    """
    if norms is None:
        scale = 2 * dy
    else:
        zero = norms == 0
        # Both of the places: a derivative of dy / 0 is NaN, and NaN times 0 too.
        scale = torch.where(zero, 0, dy / torch.where(zero, 1, norms))
    return (x.to(dy.dtype) * scale.view(-1, *[1] * (x.ndim - 1))).to(x.dtype)


def _accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
