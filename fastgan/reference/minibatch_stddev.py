"""Minibatch standard deviation in plain torch: the definition that every backend is compared with."""

from math import prod

import torch
from torch import Tensor


def forward(x: Tensor, group: int, features: int, eps: float) -> Tensor:
    """Return [N, C + features, ...]: x and the mean standard deviation of its group, computed in float32 or better."""
    _, deviation = _normalized(x, group, features, eps)
    statistic = deviation.flatten(2).mean(2).repeat(group, 1).to(x.dtype)
    shape = x.shape[0], features, *x.shape[2:]
    return torch.cat([x, statistic.view(*shape[:2], *[1] * (x.ndim - 2)).expand(shape)], 1)


def backward(dy: Tensor, x: Tensor, group: int, features: int, eps: float) -> Tensor:
    """Gradient of x, differentiable with respect to dy and x to any order."""
    normalized, deviation = _normalized(x, group, features, eps)
    direct, of_statistic = dy.to(deviation.dtype).split([x.shape[1], features], 1)
    sums = of_statistic.unsqueeze(-1).flatten(2).sum(2).view(group, x.shape[0] // group, features).sum(0)
    sums = sums / (group * max(prod(deviation.shape[2:]), 1))
    return (direct + (normalized * sums.view(*sums.shape, *[1] * (x.ndim - 1))).reshape(x.shape)).to(x.dtype)


def _normalized(x: Tensor, group: int, features: int, eps: float) -> tuple[Tensor, Tensor]:
    """[group, N / group, features, C / features, ...], normalized over the group, and its standard deviation."""
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    grouped = exact.reshape(group, x.shape[0] // group, features, x.shape[1] // features, *x.shape[2:])
    centered = grouped - grouped.mean(0)
    deviation = (centered.square().mean(0) + eps).sqrt()
    return centered / deviation, deviation
