"""Statistics of normalization in plain torch: the definition that every backend is compared with."""

import torch
from torch import Tensor


def statistics(x: Tensor, per_sample: bool) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every channel [C], or of every sample's channel [N, C], in float32 or better.

    Differentiable to any order.
    """
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    if x.numel() == 0:  # of nothing: finite, so that gradients are 0
        shape = x.shape[:2] if per_sample else x.shape[1:2]
        return x.new_zeros(shape, dtype=exact), x.new_zeros(shape, dtype=exact)
    flat = x.unsqueeze(-1).flatten(2).to(exact)
    var, mean = torch.var_mean(flat, 2 if per_sample else (0, 2), correction=0)
    return mean, var
