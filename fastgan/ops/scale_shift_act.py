"""Scale, shift and activation of channels: y = f(z) with z = scale (x - center) + shift.

    g = f'(z) dy      dx = scale g      dscale = sum of g (x - center)      dshift = sum of g

One pass over x and dy gives all three; `center` is a constant. In eager mode an autograd.Function calls the backend;
where something traces, `torch.ops.fastgan.scale_shift_act` is. A backward that is itself differentiated is the
reference's, plain torch: so every order is right.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan import backends, check
from fastgan.ops.activations import check_activation
from fastgan.ops.channels import (
    as_non_leaf,
    contiguous,
    fold_channels,
    gradients_needed_now,
    unfold_channels,
)
from fastgan.ops.decompositions import register_decomposition, registered
from fastgan.ops.layout import as_computed, empty_channels, has_per_sample_values, in_order_of
from fastgan.ops.samples import accumulation_dtype, to_accumulation_dtype
from fastgan.ops.tracing import is_differentiated, is_traced, raise_no_forward_mode, refuse_forward_mode, untraced
from fastgan.reference import scale_shift_act as reference

_NUMBERS = "Tensor? scale, Tensor? shift, Tensor? center, str act, float alpha"
torch.library.define("fastgan::scale_shift_act", f"(Tensor x, {_NUMBERS}) -> Tensor")
# A gradient that is not wanted is empty.
torch.library.define(
    "fastgan::scale_shift_act_backward",
    f"(Tensor dy, Tensor x, {_NUMBERS}, bool want_dx, bool want_sums) -> (Tensor, Tensor, Tensor)",
)


def check_arguments(x: Any, scale: Any, shift: Any, act: Any, alpha: Any) -> None:
    """Raise TypeError or ValueError for what the op does not take."""
    check.channels(x, "x")
    check.per_channel(scale, "scale", x, "x")
    check.per_channel(shift, "shift", x, "x")
    check_activation(act, alpha)


def scale_shift_act(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, center: Tensor | None, act: str, alpha: float
) -> Tensor:
    """The op, for arguments that were checked."""
    scale, shift, center = [None if t is None else to_accumulation_dtype(t, x) for t in (scale, shift, center)]
    tensors = [t for t in (x, scale, shift, center) if t is not None]
    if is_traced(*tensors):
        refuse_forward_mode("scale_shift_act")
        return registered("scale_shift_act")(x, scale, shift, center, act, alpha)
    if torch._C._are_functorch_transforms_active():
        return _TransformedScaleShiftAct.apply(x, scale, shift, center, act, alpha)
    if is_differentiated(*tensors):
        # A running mean may move before the backward.
        center = None if center is None else center.clone()
        return _ScaleShiftAct.apply(as_non_leaf(x), as_non_leaf(scale), as_non_leaf(shift), center, act, alpha)
    return forward_of(x, scale, shift, center, act, alpha)


# --- forward ---


@untraced
def forward_of(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, center: Tensor | None, act: str, alpha: float
) -> Tensor:
    """y on the backend, for tensors of any strides and numbers of the dtype computed in."""
    run = backends.pick("scale_shift_act", x).forward
    return run(as_computed(x), *contiguous(scale, shift, center), act, alpha)


def _fake(x: Tensor, *others: Any) -> Tensor:
    return empty_channels(x)


# --- backward ---


@untraced
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
    numbers = contiguous(scale, shift, center, linear, constant)
    return backends.pick("scale_shift_act", x).backward(in_order_of(dy, x), x, *numbers, act, alpha, wanted)


def _backward(
    dy: Tensor,
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    center: Tensor | None,
    act: str,
    alpha: float,
    want_dx: bool,
    want_sums: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    gradients = run_backward(dy, x, scale, shift, center, None, None, act, alpha, (want_dx, want_sums))
    return tuple(x.new_empty(0) if t is None else t for t in gradients)


def _fake_backward(dy: Tensor, x: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    *numbers, _, _, want_dx, want_sums = others
    shape = x.shape[:2] if has_per_sample_values(*numbers) else x.shape[1:2]
    sums = [x.new_empty(shape, dtype=accumulation_dtype(x.dtype)) if want_sums else x.new_empty(0) for _ in range(2)]
    return empty_channels(x) if want_dx else x.new_empty(0), *sums


def _gradients(
    run: Any, wanted: Sequence[bool], dy: Tensor, x: Tensor, scale: Tensor | None, shift: Tensor | None, *rest: Any
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    want_dx, want_dscale, want_dshift = wanted
    if not any(wanted):
        return None, None, None
    center, act, alpha = rest
    if torch.is_grad_enabled():  # under create_graph the gradient is differentiated again
        run = reference.backward
    dx, dscale, dshift = run(dy, x, scale, shift, center, None, None, act, alpha, (want_dx, want_dscale or want_dshift))
    return (
        dx if want_dx else None,
        like_numbers(dscale, scale) if want_dscale else None,
        like_numbers(dshift, shift) if want_dshift else None,
    )


def like_numbers(sums: Tensor, numbers: Tensor) -> Tensor:
    """Sums [N, C] as the gradient of numbers [C] or [N, C]; sums [C] as that of numbers [C]."""
    return sums.sum(0) if sums.ndim > numbers.ndim else sums


# --- autograd ---


class _ScaleShiftAct(torch.autograd.Function):
    """(x, scale, shift, center, act, alpha) -> y."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor | None, shift: Tensor | None, center: Tensor | None, act: str, alpha: float
    ) -> Tensor:
        _save(ctx, (x, scale, shift, center, act, alpha))
        return forward_of(x, scale, shift, center, act, alpha)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        wanted = iter(gradients_needed_now(ctx))
        return _of_saved(ctx, [given and next(wanted) for given in ctx.given], dy)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        raise_no_forward_mode("scale_shift_act")


class _TransformedScaleShiftAct(_ScaleShiftAct):
    """The same for torch.func, in a form that torch takes longer to call."""

    @staticmethod
    def forward(
        x: Tensor, scale: Tensor | None, shift: Tensor | None, center: Tensor | None, act: str, alpha: float
    ) -> Tensor:
        return forward_of(x, scale, shift, center, act, alpha)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _save(ctx, inputs)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():  # the plain formula, whose tensors may be transformed
            return _of_saved(ctx, ctx.needs_input_grad[:3], dy)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x: Tensor, *others: Any) -> tuple[Tensor, int]:
        size = info.batch_size
        numbers = [
            fold_channels(t, dim, size, t.ndim - 1 if dim is None else t.ndim - 2) if t is not None else None
            for t, dim in zip(others[:3], in_dims[1:4], strict=True)
        ]
        y = scale_shift_act(fold_channels(x, in_dims[0], size, 1), *numbers, *others[3:])
        return unfold_channels(y, size, 1), 1


def _of_saved(ctx: Any, wanted: Sequence[bool], dy: Tensor | None) -> tuple[Tensor | None, ...]:
    if dy is None:
        return (None,) * 6
    x, scale, shift, center = ctx.saved_tensors
    return *_gradients(run_backward, wanted, dy, x, scale, shift, center, *ctx.options), None, None, None


def _save(ctx: Any, inputs: tuple) -> None:
    ctx.set_materialize_grads(False)
    *tensors, act, alpha = inputs
    ctx.save_for_backward(*tensors)
    ctx.given = [t is not None for t in tensors[:3]]
    ctx.options = act, alpha


def _setup_traced(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, act, alpha = inputs
    ctx.save_for_backward(*tensors)
    ctx.wanted = [t is not None and t.requires_grad for t in tensors[:3]]
    ctx.options = act, alpha


def _run_traced(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *tensors, _, _, act, alpha, wanted = arguments
    return registered("scale_shift_act_backward")(*tensors, act, alpha, *wanted)


def _backward_traced(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
    if dy is None:
        return (None,) * 6
    x, scale, shift, center = ctx.saved_tensors
    return *_gradients(_run_traced, ctx.wanted, dy, x, scale, shift, center, *ctx.options), None, None, None


def _decomposed_backward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *tensors, act, alpha, want_dx, want_sums = arguments
    gradients = reference.backward(*tensors, None, None, act, alpha, (want_dx, want_sums))
    return tuple(arguments[1].new_empty(0) if t is None else t for t in gradients)


torch.library.impl("fastgan::scale_shift_act", "default", forward_of)
torch.library.register_fake("fastgan::scale_shift_act", _fake)
torch.library.register_autograd("fastgan::scale_shift_act", _backward_traced, setup_context=_setup_traced)
torch.library.impl("fastgan::scale_shift_act_backward", "default", _backward)
torch.library.register_fake("fastgan::scale_shift_act_backward", _fake_backward)
register_decomposition("scale_shift_act", reference.forward)
register_decomposition("scale_shift_act_backward", _decomposed_backward)
