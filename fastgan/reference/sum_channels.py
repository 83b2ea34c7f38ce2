"""Sums over all dimensions but one, in plain torch. The definition of every backend."""

import torch
from torch import Tensor


def forward(x: Tensor, dim: int) -> Tensor:
    """Sum x over every dimension but `dim`, in float32 or better: [C]."""
    exact = torch.promote_types(x.dtype, torch.float32)
    return x.movedim(dim, 0).flatten(1).sum(1, dtype=exact) if x.ndim > 1 else x.to(exact, copy=True)
