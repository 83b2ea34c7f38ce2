"""Sums over all dimensions but that of the channels, and their adjoint, a value per channel expanded to a tensor.

    sum_channels: s_c = sum of x[:, c]          expand_channels: x[:, c] = b_c

Each is the other's derivative: so every order is right. An op that reads a bias keeps its gradient out of its own
autograd.Function by taking the expanded one too: nothing is summed unless the bias's gradient is asked for.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan import backends
from fastgan.ops.layout import accumulation_dtype, dense
from fastgan.ops.op import Op, raise_no_forward_mode
from fastgan.reference import sum_channels as reference


def expand_channels(b: Tensor, like: Tensor, dim: int) -> Tensor:
    """b [C] as a tensor of the shape and the dtype of `like`, without memory of its own; outside of tracing."""
    return _ExpandChannels.apply(b, like.shape, like.dtype, dim)


def _run(x: Tensor, dim: int) -> Tensor:
    return backends.pick("sum_channels", x).forward(dense(x), dim)


def _fake(x: Tensor, dim: int) -> Tensor:
    return x.new_empty(x.shape[dim], dtype=accumulation_dtype(x.dtype))


def _expand(b: Tensor, shape: torch.Size, dtype: torch.dtype, dim: int) -> Tensor:
    return b.to(dtype).view(-1, *[1] * (len(shape) - dim - 1)).expand(shape)


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, ctx.dim = inputs
    ctx.shape, ctx.dtype = x.shape, x.dtype


def _gradient(ctx: Any, wanted: Sequence[bool], ds: Tensor) -> tuple[Tensor]:
    return (_expand(ds, ctx.shape, ctx.dtype, ctx.dim),)


# [C] in float32 or better: x summed over every dimension but `dim`, which is not negative.
sum_channels = Op("sum_channels(Tensor x, int dim) -> Tensor", _run, _fake, reference.forward, _keep, _gradient)


class _ExpandChannels(torch.autograd.Function):
    """(b, shape, dtype, dim) -> x."""

    @staticmethod
    def forward(ctx: Any, b: Tensor, shape: torch.Size, dtype: torch.dtype, dim: int) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.dtype, ctx.dim = b.dtype, dim
        return _expand(b, shape, dtype, dim)

    @staticmethod
    def backward(ctx: Any, dx: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        return None if dx is None else sum_channels(dx, ctx.dim).to(ctx.dtype), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        raise_no_forward_mode("expand_channels")
