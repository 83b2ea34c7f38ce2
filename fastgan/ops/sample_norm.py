"""Norm or squared norm of every sample of a batch.

    s_n = sum of x_n^2, or its root |x_n|          dx_n = 2 dy_n x_n, or dy_n x_n / |x_n|, and 0 where |x_n| = 0

In eager mode an autograd.Function calls the backend; where something traces, `torch.ops.fastgan.sample_norm` is. A
backward that is itself differentiated is the reference's, plain torch: so every order is right.
"""

from typing import Any

import torch
from torch import Tensor

from fastgan import backends, check
from fastgan.ops.decompositions import register_decomposition, registered
from fastgan.ops.layout import empty_dense, from_memory, memory_order, to_memory
from fastgan.ops.samples import accumulation_dtype, fold, unfold
from fastgan.ops.tracing import is_differentiated, is_traced, raise_no_forward_mode, refuse_forward_mode, untraced
from fastgan.reference import sample_norm as reference

torch.library.define("fastgan::sample_norm", "(Tensor x, bool squared) -> Tensor")
torch.library.define("fastgan::sample_norm_backward", "(Tensor dy, Tensor x, Tensor? norms) -> Tensor")


def check_arguments(x: Any) -> None:
    """Raise TypeError or ValueError for what the op does not take."""
    check.samples(x, "x")


def sample_norm(x: Tensor, squared: bool) -> Tensor:
    """The op, for arguments that were checked."""
    if is_traced(x):
        refuse_forward_mode("sample_norm")
        return registered("sample_norm")(x, squared)
    if torch._C._are_functorch_transforms_active():
        return _TransformedSampleNorm.apply(x, squared)
    return _SampleNorm.apply(x, squared) if is_differentiated(x) else _forward(x, squared)


# --- forward ---


@untraced
def _forward(x: Tensor, squared: bool) -> Tensor:
    return backends.pick("sample_norm", x).forward(to_memory(x, memory_order(x)), squared)


def _fake(x: Tensor, squared: bool) -> Tensor:
    return x.new_empty(x.shape[:1], dtype=accumulation_dtype(x.dtype))


# --- backward ---


@untraced
def _backward(dy: Tensor, x: Tensor, norms: Tensor | None) -> Tensor:
    order = memory_order(x)
    return from_memory(backends.pick("sample_norm", x).backward(dy.contiguous(), to_memory(x, order), norms), x, order)


def _fake_backward(dy: Tensor, x: Tensor, norms: Tensor | None) -> Tensor:
    return empty_dense(x, x.dtype)


def _gradient(run: Any, dy: Tensor | None, x: Tensor, norms: Tensor | None) -> Tensor | None:
    if dy is None:
        return None
    # Under create_graph the gradient is differentiated again.
    return (reference.backward if torch.is_grad_enabled() else run)(dy, x, norms)


# --- autograd ---


class _SampleNorm(torch.autograd.Function):
    """(x, squared) -> norms."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, squared: bool) -> Tensor:
        norms = _forward(x, squared)
        ctx.set_materialize_grads(False)
        _save(ctx, (x, squared), norms)
        return norms

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, None]:
        return _gradient(_backward, dy, *ctx.saved_tensors), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        raise_no_forward_mode("sample_norm")


class _TransformedSampleNorm(_SampleNorm):
    """The same for torch.func, in a form that torch takes longer to call."""

    @staticmethod
    def forward(x: Tensor, squared: bool) -> Tensor:
        return _forward(x, squared)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.set_materialize_grads(False)
        _save(ctx, inputs, output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x: Tensor, squared: bool) -> tuple[Tensor, int]:
        return unfold(sample_norm(fold(x, in_dims[0], info.batch_size), squared), info.batch_size), 0


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, squared = inputs
    ctx.save_for_backward(x, None if squared else output)


def _backward_traced(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, None]:
    return _gradient(torch.ops.fastgan.sample_norm_backward, dy, *ctx.saved_tensors), None


torch.library.impl("fastgan::sample_norm", "default", _forward)
torch.library.register_fake("fastgan::sample_norm", _fake)
torch.library.register_autograd("fastgan::sample_norm", _backward_traced, setup_context=_save)
torch.library.impl("fastgan::sample_norm_backward", "default", _backward)
torch.library.register_fake("fastgan::sample_norm_backward", _fake_backward)
register_decomposition("sample_norm", reference.forward)
register_decomposition("sample_norm_backward", reference.backward)
