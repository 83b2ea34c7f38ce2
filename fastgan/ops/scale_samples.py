"""Every sample times a number of its own: y_n = c_n x_n.

    dx_n = c_n dy_n, the op again          dc_n = <dy_n, x_n>, plain torch: so every order is right

In eager mode an autograd.Function calls the backend; where something traces, `torch.ops.fastgan.scale_samples` is.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan import backends, check
from fastgan.ops.decompositions import register_decomposition, registered
from fastgan.ops.layout import empty_dense, from_memory, memory_order, to_memory
from fastgan.ops.samples import accumulation_dtype, fold, to_accumulation_dtype, unfold
from fastgan.ops.tracing import is_differentiated, is_traced, raise_no_forward_mode, refuse_forward_mode, untraced
from fastgan.reference import scale_samples as reference

torch.library.define("fastgan::scale_samples", "(Tensor x, Tensor c) -> Tensor")


def check_arguments(x: Any, c: Any) -> None:
    """Raise TypeError or ValueError for what the op does not take."""
    check.samples(x, "x")
    check.per_sample(c, "c", x, "x")


def scale_samples(x: Tensor, c: Tensor) -> Tensor:
    """The op, for arguments that were checked."""
    c = to_accumulation_dtype(c, x)
    if is_traced(x, c):
        refuse_forward_mode("scale_samples")
        return registered("scale_samples")(x, c)
    if torch._C._are_functorch_transforms_active():
        return _TransformedScaleSamples.apply(x, c)
    return _ScaleSamples.apply(x, c) if is_differentiated(x, c) else _forward(x, c)


@untraced
def _forward(x: Tensor, c: Tensor) -> Tensor:
    order = memory_order(x)
    out = backends.pick("scale_samples", x).forward(to_memory(x, order), c.contiguous())
    return from_memory(out, x, order)


def _fake(x: Tensor, c: Tensor) -> Tensor:
    return empty_dense(x, x.dtype)


def _gradients(wanted: Sequence[bool], dy: Tensor | None, x: Tensor, c: Tensor) -> tuple[Tensor | None, Tensor | None]:
    if dy is None:
        return None, None
    return scale_samples(dy, c) if wanted[0] else None, dot_samples(dy, x) if wanted[1] else None


def dot_samples(x: Tensor, y: Tensor) -> Tensor:
    """<x_n, y_n> for every sample, in float32 or better."""
    exact = accumulation_dtype(x.dtype)
    return (x.to(exact) * y.to(exact)).unsqueeze(-1).flatten(1).sum(1)


class _ScaleSamples(torch.autograd.Function):
    """(x, c) -> y."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, c: Tensor) -> Tensor:
        _save(ctx, (x, c))
        return _forward(x, c)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        x, c = ctx.saved_tensors
        return _gradients(ctx.needs_input_grad, dy, x, c)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        raise_no_forward_mode("scale_samples")


class _TransformedScaleSamples(_ScaleSamples):
    """The same for torch.func, in a form that torch takes longer to call."""

    @staticmethod
    def forward(x: Tensor, c: Tensor) -> Tensor:
        return _forward(x, c)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _save(ctx, inputs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x: Tensor, c: Tensor) -> tuple[Tensor, int]:
        size = info.batch_size
        return unfold(scale_samples(fold(x, in_dims[0], size), fold(c, in_dims[1], size)), size), 0


def _save(ctx: Any, inputs: tuple) -> None:
    ctx.set_materialize_grads(False)
    x, c = inputs
    # Only the gradient of c reads x, which would be kept for nothing.
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, c)


def _setup_traced(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, c = inputs
    ctx.wanted = x.requires_grad, c.requires_grad
    ctx.save_for_backward(x, c)


def _backward_traced(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    return _gradients(ctx.wanted, dy, *ctx.saved_tensors)


torch.library.impl("fastgan::scale_samples", "default", _forward)
torch.library.register_fake("fastgan::scale_samples", _fake)
torch.library.register_autograd("fastgan::scale_samples", _backward_traced, setup_context=_setup_traced)
register_decomposition("scale_samples", reference.forward)
