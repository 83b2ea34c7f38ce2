"""Scale, shift and activation of channels: y = f(z) with z = scale (x - center) + shift.

    g = f'(z) dy      dx = scale g      dscale = sum of g (x - center)      dshift = sum of g

One pass over x and dy gives all three; `center` is a constant. A backward that is differentiated again is the
reference's, plain torch.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan import backends, check
from fastgan.ops.layout import (
    accumulation_dtype,
    as_computed,
    contiguous,
    empty_channels,
    has_per_sample_values,
    in_order_of,
    to_accumulation_dtype,
)
from fastgan.ops.op import Op, overridable
from fastgan.ops.vmap import fold_channels, unfold_channels
from fastgan.reference import scale_shift_act as reference
from fastgan.reference.activations import FACTS


@overridable
def scale_shift_act(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, act: str = "relu", alpha: float | None = None
) -> Tensor:
    """Scale and shift every channel, and apply an activation, in one pass: y = f(scale x + shift).

        z = scale x + shift, g = f'(z) dy      dx = scale g      dscale = sum of x g      dshift = sum of g

    Args:
        x: [N, C, ...], any size may be 0; float64, float32, bfloat16 or float16, any strides. Dense tensors with the
            channels outermost or innermost (channels_last) keep their layout, others are made contiguous.
        scale: [C], or [N, C] for every sample its own, of any of these dtypes and on x's device; None for 1.
        shift: the same; None for 0.
        act: "linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish" or "gelu".
        alpha: the slope of lrelu below 0, by default 0.2; no other activation reads it.

    Returns:
        A new tensor of x's shape and dtype, and its strides where its layout is kept; computed in float32 or
        better.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.
        RuntimeError: the backend that was asked for cannot run here.

    Derivatives: with respect to x, scale and shift, reverse mode to any order; one pass backward for all three, and no
    sum that is not asked for. Sums are taken in a fixed order. Forward mode raises NotImplementedError.

    Source: the conditional normalization of H. de Vries et al., Modulating early visual processing by language, NIPS
    2017, section 3, as generators apply it.
    """
    check.channels(x, "x")
    check.per_channel(scale, "scale", x, "x")
    check.per_channel(shift, "shift", x, "x")
    return affine_act(x, scale, shift, None, act, check.activation(act, alpha, FACTS))


def affine_act(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, center: Tensor | None, act: str, alpha: float
) -> Tensor:
    """The op, for arguments that were checked."""
    values = [None if t is None else to_accumulation_dtype(t, x) for t in (scale, shift, center)]
    return _op(x, *values, act, alpha)


# --- forward ---


def forward_of(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, center: Tensor | None, act: str, alpha: float
) -> Tensor:
    """y on the backend, for tensors of any strides and values of the dtype computed in."""
    run = backends.pick("scale_shift_act", x).forward
    return run(as_computed(x), *contiguous(scale, shift, center), act, alpha)


def _fake(x: Tensor, *others: Any) -> Tensor:
    return empty_channels(x)


# --- backward ---


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, scale, shift, center, *ctx.options = inputs
    # A running mean may move before the backward.
    ctx.save_for_backward(x, scale, shift, None if center is None else center.clone())


def _gradient(ctx: Any, wanted: Sequence[bool], dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    x, scale, shift, center = ctx.saved_tensors
    want_dx, want_dscale, want_dshift, *_ = wanted
    if not (want_dx or want_dscale or want_dshift):
        return None, None, None
    want_sums = want_dscale or want_dshift
    if torch.is_grad_enabled():
        gradients = reference.backward(dy, x, scale, shift, center, None, None, *ctx.options, (want_dx, want_sums))
    else:
        gradients = _backward(dy, x, scale, shift, center, *ctx.options, want_dx, want_sums)
    dx, dscale, dshift = gradients
    return (
        dx if want_dx else None,
        like_values(dscale, scale) if want_dscale else None,
        like_values(dshift, shift) if want_dshift else None,
    )


def like_values(sums: Tensor, values: Tensor) -> Tensor:
    """Sums [N, C] as the gradient of values [C] or [N, C]; sums [C] as that of values [C]."""
    return sums.sum(0) if sums.ndim > values.ndim else sums


def run_backward(
    dy: Tensor,
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    center: Tensor | None,
    linear: Tensor | None,
    constant: Tensor | None,
    act: str,
    alpha: float,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """`fastgan.reference.scale_shift_act.backward` on the backend, for tensors of any strides."""
    x = as_computed(x)
    values = contiguous(scale, shift, center, linear, constant)
    return backends.pick("scale_shift_act", x).backward(in_order_of(dy, x), x, *values, act, alpha, wanted)


def _run_backward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _backward_by(run_backward, *arguments)


def _plain_backward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _backward_by(reference.backward, *arguments)


def _backward_by(run: Any, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *tensors, act, alpha, want_dx, want_sums = arguments
    gradients = run(*tensors, None, None, act, alpha, (want_dx, want_sums))
    return tuple(tensors[1].new_empty(0) if t is None else t for t in gradients)


def _fake_backward(dy: Tensor, x: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    *values, _, _, want_dx, want_sums = others
    shape = x.shape[:2] if has_per_sample_values(*values) else x.shape[1:2]
    sums = [x.new_empty(shape, dtype=accumulation_dtype(x.dtype)) if want_sums else x.new_empty(0) for _ in range(2)]
    return empty_channels(x) if want_dx else x.new_empty(0), *sums


def _vmap(info: Any, in_dims: tuple, x: Tensor, *others: Any) -> tuple[Tensor, int]:
    size = info.batch_size
    values = [
        fold_channels(t, dim, size, t.ndim - 1 if dim is None else t.ndim - 2) if t is not None else None
        for t, dim in zip(others[:3], in_dims[1:4], strict=True)
    ]
    return unfold_channels(_op(fold_channels(x, in_dims[0], size, 1), *values, *others[3:]), size, 1), 1


_VALUES = "Tensor? scale, Tensor? shift, Tensor? center, str act, float alpha"
_op = Op(
    f"scale_shift_act(Tensor x, {_VALUES}) -> Tensor",
    forward_of,
    _fake,
    reference.forward,
    _keep,
    _gradient,
    _vmap,
    needed_now=True,
)
# A gradient that is not wanted is empty.
_backward = Op(
    f"scale_shift_act_backward(Tensor dy, Tensor x, {_VALUES}, bool want_dx, bool want_sums) "
    "-> (Tensor, Tensor, Tensor)",
    _run_backward,
    _fake_backward,
    _plain_backward,
)
