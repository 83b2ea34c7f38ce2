"""Norm or squared norm of every sample of a batch. A backward that is differentiated again is the reference's."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan import backends, check
from fastgan.ops.layout import accumulation_dtype, empty_dense, from_memory, memory_order, to_memory
from fastgan.ops.op import Op
from fastgan.ops.vmap import fold, unfold
from fastgan.reference import sample_norm as reference


def sample_norm(x: Tensor, *, squared: bool = False) -> Tensor:
    """Euclidean norm of every sample of a batch, in one pass forward and one pass backward.

        s_n = |x_n|, or with `squared` |x_n|^2      dx_n = dy_n x_n / |x_n|, 0 where |x_n| = 0, or 2 dy_n x_n

    Args:
        x: [N, ...], N or any other size may be 0; float64, float32, bfloat16 or float16, any strides. Dense tensors
            with dimension 0 outermost, channels_last too, are read in their layout.
        squared: return the squared norm.

    Returns:
        [N], float32 for half precision, else of x's dtype; computed in that dtype or better. A NaN or an infinity in
        one sample reaches only that sample's result and gradient.

    Raises:
        TypeError, ValueError: an x that is not as above.
        RuntimeError: the backend that was asked for cannot run here.

    Derivatives: with respect to x, reverse mode to any order; finite where a norm is 0, where the subgradient is 0 as
    in `torch.linalg.vector_norm`, and so are higher derivatives. Forward mode raises NotImplementedError.

    Source: the norm of gradient penalties, I. Gulrajani et al., Improved Training of Wasserstein GANs, NeurIPS 2017,
    section 4, and L. Mescheder et al., Which Training Methods for GANs do actually Converge?, ICML 2018, section 4.1.
    """
    check.samples(x, "x")
    return _sample_norm(x, bool(squared))


def _run(x: Tensor, squared: bool) -> Tensor:
    return backends.pick("sample_norm", x).forward(to_memory(x, memory_order(x)), squared)


def _fake(x: Tensor, squared: bool) -> Tensor:
    return x.new_empty(x.shape[:1], dtype=accumulation_dtype(x.dtype))


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, squared = inputs
    ctx.save_for_backward(x, None if squared else output)


def _gradient(ctx: Any, wanted: Sequence[bool], dy: Tensor) -> tuple[Tensor]:
    run = reference.backward if torch.is_grad_enabled() else _backward
    return (run(dy, *ctx.saved_tensors),)


def _vmap(info: Any, in_dims: tuple, x: Tensor, squared: bool) -> tuple[Tensor, int]:
    return unfold(_sample_norm(fold(x, in_dims[0], info.batch_size), squared), info.batch_size), 0


def _run_backward(dy: Tensor, x: Tensor, norms: Tensor | None) -> Tensor:
    order = memory_order(x)
    return from_memory(backends.pick("sample_norm", x).backward(dy.contiguous(), to_memory(x, order), norms), x, order)


def _fake_backward(dy: Tensor, x: Tensor, norms: Tensor | None) -> Tensor:
    return empty_dense(x, x.dtype)


_sample_norm = Op(
    "sample_norm(Tensor x, bool squared) -> Tensor", _run, _fake, reference.forward, _keep, _gradient, _vmap
)
_backward = Op(
    "sample_norm_backward(Tensor dy, Tensor x, Tensor? norms) -> Tensor",
    _run_backward,
    _fake_backward,
    reference.backward,
)
