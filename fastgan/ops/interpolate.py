"""Interpolates of real and fake samples.

    dreal_n = eps_n dy_n      dfake_n = (1 - eps_n) dy_n      deps_n = <dy_n, real_n - fake_n>

The first two are the op scale_samples, or the backend's one pass for both where nothing differentiates or traces them;
the third is plain torch.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan import backends, check
from fastgan.ops.layout import (
    accumulation_dtype,
    empty_dense,
    from_memory,
    memory_order,
    promoted,
    to_accumulation_dtype,
    to_memory,
)
from fastgan.ops.op import Op, is_plain, untraced
from fastgan.ops.scale_samples import dot_samples, scaled
from fastgan.ops.vmap import fold, unfold
from fastgan.reference import interpolate as reference


def interpolate(real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
    """Interpolate between two batches, every sample with a value of its own, in one pass.

        y_n = eps_n real_n + (1 - eps_n) fake_n

    Args:
        real: [N, ...], N or any other size may be 0; float64, float32, bfloat16 or float16, any strides.
        fake: the other batch, of real's shape and device; float64, float32, bfloat16 or float16.
        eps: [N], of any of these dtypes and on real's device, 0 to 1 or beyond. Computed with in float32 or better.

    Returns:
        A new tensor of real's shape, in the dtype of both or that to which torch promotes them, and, where real is
        dense with dimension 0 outermost, with its strides.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.
        RuntimeError: the backend that was asked for cannot run here.

    Derivatives: with respect to real, fake and eps, reverse mode to any order. Forward mode raises NotImplementedError.

    Source: I. Gulrajani et al., Improved Training of Wasserstein GANs, NeurIPS 2017, algorithm 1.
    """
    check.samples(real, "real")
    check.samples(fake, "fake")
    if fake.shape != real.shape:
        raise ValueError(f"fake must have the shape of real, {list(real.shape)}, got {check.describe(fake)}")
    check.on_device_of(fake, "fake", real, "real")
    check.per_sample(eps, "eps", real, "real")
    real, fake = promoted(real, fake)
    return _interpolate(real, fake, to_accumulation_dtype(eps, real))


def random_interpolate(real: Tensor, fake: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Interpolate between two batches at random: `interpolate` with eps_n uniform in [0, 1), drawn once per sample.

    Args:
        real: as in `interpolate`.
        fake: as in `interpolate`.
        generator: where eps comes from, by `torch.rand(N, generator=generator)` in float64 for float64 samples, else
            in float32; on real's device. None for torch's own. One state of it gives one result.

    Returns:
        A new tensor, as from `interpolate`.

    Raises:
        TypeError, ValueError: an argument that is not as in `interpolate`; the message names it.
        RuntimeError: the backend that was asked for cannot run here, or the generator is on another device.

    Derivatives: with respect to real and fake, as `interpolate`.
    """
    check.samples(real, "real")
    check.samples(fake, "fake")
    dtype = accumulation_dtype(torch.promote_types(real.dtype, fake.dtype))
    eps = torch.rand(real.shape[0], dtype=dtype, device=real.device, generator=generator)
    return interpolate(real, fake, eps)


def _run(real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
    order = memory_order(real)
    backend = backends.pick("interpolate", real)
    out = backend.forward(to_memory(real, order), to_memory(fake, order), eps.contiguous())
    return from_memory(out, real, order)


def _fake(real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
    return empty_dense(real, real.dtype)


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    real, fake, eps = inputs
    # Only the gradient of eps reads the samples, which would be kept for nothing.
    needed = ctx.needs_input_grad[2]
    ctx.save_for_backward(real if needed else None, fake if needed else None, eps)


def _gradient(ctx: Any, wanted: Sequence[bool], dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    real, fake, eps = ctx.saved_tensors
    if wanted[0] and wanted[1] and is_plain(dy, eps):
        dreal, dfake = _run_backward(dy, eps)
    else:
        dreal = scaled(dy, eps) if wanted[0] else None
        dfake = scaled(dy, 1 - eps) if wanted[1] else None
    return dreal, dfake, dot_samples(dy, real) - dot_samples(dy, fake) if wanted[2] else None


@untraced
def _run_backward(dy: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    order = memory_order(dy)
    dreal, dfake = backends.pick("interpolate", dy).backward(to_memory(dy, order), eps.contiguous())
    return from_memory(dreal, dy, order), from_memory(dfake, dy, order)


def _vmap(info: Any, in_dims: tuple, *tensors: Tensor) -> tuple[Tensor, int]:
    folded = [fold(t, dim, info.batch_size) for t, dim in zip(tensors, in_dims, strict=True)]
    return unfold(_interpolate(*folded), info.batch_size), 0


_interpolate = Op(
    "interpolate(Tensor real, Tensor fake, Tensor eps) -> Tensor",
    _run,
    _fake,
    reference.forward,
    _keep,
    _gradient,
    _vmap,
)
