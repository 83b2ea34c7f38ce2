"""Sums over all dimensions but that of the channels, and their adjoint, a number per channel expanded to a tensor.

    sum_channels: s_c = sum of x[:, c]          expand_channels: x[:, c] = b_c

Each is the other's derivative: so every order is right. An op that reads a bias keeps its gradient out of its own
autograd.Function by taking the expanded one too: nothing is summed unless somebody asks for the bias's gradient.
"""

from typing import Any

import torch
from torch import Tensor

from fastgan import backends
from fastgan.ops.decompositions import register_decomposition, registered
from fastgan.ops.layout import dense
from fastgan.ops.samples import accumulation_dtype
from fastgan.ops.tracing import is_differentiated, is_traced, raise_no_forward_mode, refuse_forward_mode, untraced
from fastgan.reference import sum_channels as reference

torch.library.define("fastgan::sum_channels", "(Tensor x, int dim) -> Tensor")


def sum_channels(x: Tensor, dim: int) -> Tensor:
    """[C] in float32 or better: x summed over every dimension but `dim`, which is not negative."""
    if is_traced(x):
        refuse_forward_mode("sum_channels")
        return registered("sum_channels")(x, dim)
    if torch._C._are_functorch_transforms_active():
        refuse_forward_mode("sum_channels")
        return reference.forward(x, dim)
    return _SumChannels.apply(x, dim) if is_differentiated(x) else _forward(x, dim)


def expand_channels(b: Tensor, like: Tensor, dim: int) -> Tensor:
    """b [C] as a tensor of the shape and the dtype of `like`, without memory of its own; outside of tracing."""
    return _ExpandChannels.apply(b, like.shape, like.dtype, dim)


@untraced
def _forward(x: Tensor, dim: int) -> Tensor:
    return backends.pick("sum_channels", x).forward(dense(x), dim)


def _fake(x: Tensor, dim: int) -> Tensor:
    return x.new_empty(x.shape[dim], dtype=accumulation_dtype(x.dtype))


def _expand(b: Tensor, shape: torch.Size, dtype: torch.dtype, dim: int) -> Tensor:
    return b.to(dtype).view(-1, *[1] * (len(shape) - dim - 1)).expand(shape)


class _SumChannels(torch.autograd.Function):
    """(x, dim) -> s."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.dtype, ctx.dim = x.shape, x.dtype, dim
        return _forward(x, dim)

    @staticmethod
    def backward(ctx: Any, ds: Tensor | None) -> tuple[Tensor | None, None]:
        return None if ds is None else _expand(ds, ctx.shape, ctx.dtype, ctx.dim), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        raise_no_forward_mode("sum_channels")


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


def _setup_traced(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, ctx.dim = inputs
    ctx.shape, ctx.dtype = x.shape, x.dtype


def _backward_traced(ctx: Any, ds: Tensor | None) -> tuple[Tensor | None, None]:
    return None if ds is None else _expand(ds, ctx.shape, ctx.dtype, ctx.dim), None


torch.library.impl("fastgan::sum_channels", "default", _forward)
torch.library.register_fake("fastgan::sum_channels", _fake)
torch.library.register_autograd("fastgan::sum_channels", _backward_traced, setup_context=_setup_traced)
register_decomposition("sum_channels", reference.forward)
