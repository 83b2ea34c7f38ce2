"""Random interpolates of real and fake samples: y_n = eps_n real_n + (1 - eps_n) fake_n.

    dreal_n = eps_n dy_n      dfake_n = (1 - eps_n) dy_n      deps_n = <dy_n, real_n - fake_n>

The first two are the op scale_samples, or the backend's one pass for both where nobody differentiates or traces them;
the third is plain torch: so every order is right. In eager mode an autograd.Function calls the backend; where something
traces, `torch.ops.fastgan.interpolate` is.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan import backends, check
from fastgan.ops.decompositions import register_decomposition, registered
from fastgan.ops.layout import empty_dense, from_memory, memory_order, to_memory
from fastgan.ops.samples import fold, to_accumulation_dtype, unfold
from fastgan.ops.scale_samples import dot_samples, scale_samples
from fastgan.ops.tracing import (
    is_differentiated,
    is_plain,
    is_traced,
    raise_no_forward_mode,
    refuse_forward_mode,
    untraced,
)
from fastgan.reference import interpolate as reference

torch.library.define("fastgan::interpolate", "(Tensor real, Tensor fake, Tensor eps) -> Tensor")


def check_arguments(real: Any, fake: Any, eps: Any) -> None:
    """Raise TypeError or ValueError for what the op does not take."""
    check.samples(real, "real")
    check.samples(fake, "fake")
    if fake.shape != real.shape:
        raise ValueError(f"fake must have the shape of real, {list(real.shape)}, got {check.describe(fake)}")
    check.on_device_of(fake, "fake", real, "real")
    check.per_sample(eps, "eps", real, "real")


def interpolate(real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
    """The op, for arguments that were checked, and samples of one dtype."""
    eps = to_accumulation_dtype(eps, real)
    if is_traced(real, fake, eps):
        refuse_forward_mode("interpolate")
        return registered("interpolate")(real, fake, eps)
    if torch._C._are_functorch_transforms_active():
        return _TransformedInterpolate.apply(real, fake, eps)
    return _Interpolate.apply(real, fake, eps) if is_differentiated(real, fake, eps) else _forward(real, fake, eps)


@untraced
def _forward(real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
    order = memory_order(real)
    backend = backends.pick("interpolate", real)
    out = backend.forward(to_memory(real, order), to_memory(fake, order), eps.contiguous())
    return from_memory(out, real, order)


def _fake(real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
    return empty_dense(real, real.dtype)


@untraced
def _backward(dy: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    order = memory_order(dy)
    dreal, dfake = backends.pick("interpolate", dy).backward(to_memory(dy, order), eps.contiguous())
    return from_memory(dreal, dy, order), from_memory(dfake, dy, order)


def _gradients(
    wanted: Sequence[bool], dy: Tensor | None, real: Tensor, fake: Tensor, eps: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    if dy is None:
        return None, None, None
    if wanted[0] and wanted[1] and is_plain(dy, eps):
        dreal, dfake = _backward(dy, eps)
    else:
        dreal = scale_samples(dy, eps) if wanted[0] else None
        dfake = scale_samples(dy, 1 - eps) if wanted[1] else None
    return dreal, dfake, dot_samples(dy, real) - dot_samples(dy, fake) if wanted[2] else None


class _Interpolate(torch.autograd.Function):
    """(real, fake, eps) -> y."""

    @staticmethod
    def forward(ctx: Any, real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
        _save(ctx, (real, fake, eps))
        return _forward(real, fake, eps)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        return _gradients(ctx.needs_input_grad, dy, *ctx.saved_tensors)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        raise_no_forward_mode("interpolate")


class _TransformedInterpolate(_Interpolate):
    """The same for torch.func, in a form that torch takes longer to call."""

    @staticmethod
    def forward(real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
        return _forward(real, fake, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _save(ctx, inputs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *tensors: Tensor) -> tuple[Tensor, int]:
        folded = [fold(t, dim, info.batch_size) for t, dim in zip(tensors, in_dims, strict=True)]
        return unfold(interpolate(*folded), info.batch_size), 0


def _save(ctx: Any, inputs: tuple) -> None:
    ctx.set_materialize_grads(False)
    real, fake, eps = inputs
    # Only the gradient of eps reads the samples, which would be kept for nothing.
    wanted = ctx.needs_input_grad[2]
    ctx.save_for_backward(real if wanted else None, fake if wanted else None, eps)


def _setup_traced(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.wanted = [tensor.requires_grad for tensor in inputs]
    ctx.save_for_backward(*inputs)


def _backward_traced(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    return _gradients(ctx.wanted, dy, *ctx.saved_tensors)


torch.library.impl("fastgan::interpolate", "default", _forward)
torch.library.register_fake("fastgan::interpolate", _fake)
torch.library.register_autograd("fastgan::interpolate", _backward_traced, setup_context=_setup_traced)
register_decomposition("interpolate", reference.forward)
