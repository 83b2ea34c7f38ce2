"""Every sample times a value of its own. The gradient of x is the op again, that of c plain torch."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fastgan import backends, check
from fastgan.ops.layout import (
    accumulation_dtype,
    empty_dense,
    from_memory,
    memory_order,
    to_accumulation_dtype,
    to_memory,
)
from fastgan.ops.op import Op
from fastgan.ops.vmap import fold, unfold
from fastgan.reference import scale_samples as reference


def scale_samples(x: Tensor, c: Tensor) -> Tensor:
    """Multiply every sample of a batch by a value of its own, in one pass: y_n = c_n x_n.

    With x the gradients g_n that a penalty sees, and c_n what the penalty's derivative is in terms of them, y_n is
    d penalty / d g_n.

    Args:
        x: [N, ...], N or any other size may be 0; float64, float32, bfloat16 or float16, any strides.
        c: [N], of any of these dtypes and on x's device. Products are taken in float32 or better.

    Returns:
        A new tensor of x's shape and dtype and, where x is dense with dimension 0 outermost, its strides.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.
        RuntimeError: the backend that was asked for cannot run here.

    Derivatives: with respect to x and c, reverse mode to any order. Forward mode raises NotImplementedError.
    """
    check.samples(x, "x")
    check.per_sample(c, "c", x, "x")
    return scaled(x, to_accumulation_dtype(c, x))


def dot_samples(x: Tensor, y: Tensor) -> Tensor:
    """<x_n, y_n> for every sample, in float32 or better."""
    dtype = accumulation_dtype(x.dtype)
    return (x.to(dtype) * y.to(dtype)).unsqueeze(-1).flatten(1).sum(1)


def _run(x: Tensor, c: Tensor) -> Tensor:
    order = memory_order(x)
    out = backends.pick("scale_samples", x).forward(to_memory(x, order), c.contiguous())
    return from_memory(out, x, order)


def _fake(x: Tensor, c: Tensor) -> Tensor:
    return empty_dense(x, x.dtype)


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, c = inputs
    # Only the gradient of c reads x, which would be kept for nothing.
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, c)


def _gradient(ctx: Any, wanted: Sequence[bool], dy: Tensor) -> tuple[Tensor | None, Tensor | None]:
    x, c = ctx.saved_tensors
    return scaled(dy, c) if wanted[0] else None, dot_samples(dy, x) if wanted[1] else None


def _vmap(info: Any, in_dims: tuple, x: Tensor, c: Tensor) -> tuple[Tensor, int]:
    size = info.batch_size
    return unfold(scaled(fold(x, in_dims[0], size), fold(c, in_dims[1], size)), size), 0


# For arguments that were checked, c in the dtype that is computed in.
scaled = Op("scale_samples(Tensor x, Tensor c) -> Tensor", _run, _fake, reference.forward, _keep, _gradient, _vmap)
