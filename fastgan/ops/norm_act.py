"""Normalization by the statistics of x, and an activation: y = f(z), z = weight (x - mean) / sqrt(var + eps) + bias.

With g = f'(z) dy, s = weight / sqrt(var + eps), and sums and means over what the statistics are of:

    dx = s g - mean of s g - (x - mean) / (var + eps) * mean of s g (x - mean)
    dweight = sum of g (x - mean) / sqrt(var + eps)          dbias = sum of g

One pass over x and dy gives the sums, a second one dx: both are scale_shift_act's. In eager mode an autograd.Function
calls the backend; where something traces, `torch.ops.fastgan.norm_act` is. A backward that is itself differentiated
takes the statistics again, in plain torch, and is made of the reference's: so every order is right.
"""

from collections.abc import Callable, Sequence
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
from fastgan.ops.layout import as_computed, empty_channels, in_order_of
from fastgan.ops.samples import accumulation_dtype
from fastgan.ops.samples import to_accumulation_dtype as exact
from fastgan.ops.scale_shift_act import forward_of, like_numbers, run_backward
from fastgan.ops.tracing import is_differentiated, is_traced, raise_no_forward_mode, refuse_forward_mode, untraced
from fastgan.reference import norm_act as reference
from fastgan.reference import scale_shift_act as reference_affine

_OPTIONS = "bool per_sample, float eps, str act, float alpha"
torch.library.define(
    "fastgan::norm_act", f"(Tensor x, Tensor? weight, Tensor? bias, {_OPTIONS}) -> (Tensor y, Tensor mean, Tensor var)"
)
# A gradient that is not wanted is empty.
torch.library.define(
    "fastgan::norm_act_backward",
    f"(Tensor dy, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, {_OPTIONS}, bool want_dx, "
    "bool want_dweight, bool want_dbias) -> (Tensor, Tensor, Tensor)",
)

NORMS = ("batch", "instance")


def check_arguments(
    x: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    norm: Any,
    training: Any,
    momentum: Any,
    eps: Any,
    act: Any,
    alpha: Any,
) -> None:
    """Raise TypeError or ValueError for what the op does not take."""
    check.channels(x, "x")
    check.per_channel(weight, "weight", x, "x")
    check.per_channel(bias, "bias", x, "x")
    for numbers, name in ((running_mean, "running_mean"), (running_var, "running_var")):
        if numbers is None:
            if not training:
                raise ValueError(f"{name} must be given where training is False")
            continue
        check.per_channel(numbers, name, x, "x")
        if numbers.ndim != 1:
            raise ValueError(f"{name} must be [{x.shape[1]}], one number per channel, got {check.describe(numbers)}")
    check.choice(norm, "norm", NORMS)
    if training and x.numel() == (x.shape[1] if norm == "batch" else x.shape[0] * x.shape[1]) != 0:
        raise ValueError(f"x must have more than one value per channel in training, got {check.describe(x)}")
    check.finite(momentum, "momentum")
    check.finite(eps, "eps")
    if norm == "batch" and (eps < 0 or (training and eps == 0)):  # as torch.nn.functional.batch_norm has it
        least = "more than 0 in training" if training else "0 or more"
        raise ValueError(f'eps must be {least} with norm="batch", got {check.short(eps)}')
    check_activation(act, alpha)


def norm_act(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, per_sample: bool, eps: float, act: str, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The op, for arguments that were checked: y, and mean and biased variance, of which no gradient is taken."""
    weight, bias = [None if t is None else exact(t, x) for t in (weight, bias)]
    tensors = [t for t in (x, weight, bias) if t is not None]
    options = per_sample, eps, act, alpha
    if is_traced(*tensors):
        refuse_forward_mode("norm_act")
        return registered("norm_act")(x, weight, bias, *options)
    if torch._C._are_functorch_transforms_active():
        return _TransformedNormAct.apply(x, weight, bias, *options)
    if is_differentiated(*tensors):
        return _NormAct.apply(as_non_leaf(x), as_non_leaf(weight), as_non_leaf(bias), *options)
    return _forward(x, weight, bias, *options)


# --- forward ---


@untraced
def _forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, per_sample: bool, eps: float, act: str, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    if run := _whole(x, "forward"):
        return run(as_computed(x), *contiguous(weight, bias), per_sample, eps, act, alpha)
    mean, var = _statistics(x, per_sample)
    return forward_of(x, scale_of(weight, var, eps), bias, mean, act, alpha), mean, var


def _whole(x: Tensor, name: str) -> Callable | None:
    """The backend's function that does everything, where it has one: in compiled code on the CPU."""
    return getattr(backends.pick("norm_act", x), name, None) if x.is_cpu and x.numel() else None


@untraced
def _statistics(x: Tensor, per_sample: bool) -> tuple[Tensor, Tensor]:
    if x.numel() == 0:
        return reference.statistics(x, per_sample)
    return backends.pick("norm_act", x).statistics(as_computed(x), per_sample)


def scale_of(weight: Tensor | None, var: Tensor, eps: float) -> Tensor:
    """weight / sqrt(var + eps)."""
    rstd = torch.rsqrt(var + eps)
    return rstd if weight is None else weight * rstd


def _fake(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, per_sample: bool, *others: Any
) -> tuple[Tensor, Tensor, Tensor]:
    mean, var = (
        x.new_empty(x.shape[:2] if per_sample else x.shape[1:2], dtype=accumulation_dtype(x.dtype)) for _ in range(2)
    )
    return empty_channels(x), mean, var


@torch.no_grad()
def update_running(
    running_mean: Tensor | None, running_var: Tensor | None, mean: Tensor, var: Tensor, x: Tensor, momentum: float
) -> None:
    """Move the running statistics [C] towards those of x, as torch's normalizations do."""
    if (running_mean is None and running_var is None) or x.numel() == 0:
        return
    count = x.numel() // mean.numel()
    for running, new in ((running_mean, mean), (running_var, var)):
        if running is not None:
            factor = momentum * count / (count - 1) if new is var else momentum  # the unbiased variance
            new = new.mean(0) if new.ndim == 2 else new
            if torch.promote_types(running.dtype, new.dtype) == running.dtype:
                running.mul_(1 - momentum).add_(new, alpha=factor)
            else:
                running.copy_(running.to(new.dtype).mul_(1 - momentum).add_(new, alpha=factor))


# --- backward ---


def _gradients(
    run: Any,
    wanted: Sequence[bool],
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    per_sample: bool,
    eps: float,
    act: str,
    alpha: float,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """What is wanted of dx, dweight and dbias; `run` is scale_shift_act's backward on a backend or the reference's."""
    rstd = torch.rsqrt(var + eps)
    scale = rstd if weight is None else weight * rstd
    of_x = dy, x, scale, bias, mean
    _, products, sums = run(*of_x, None, None, act, alpha, (False, True))
    products = products * rstd
    dx = None
    if wanted[0]:
        # Of nothing the mean is no number: 0 of it must not be NaN to the next derivative.
        share = scale / -max(x.numel() // max(mean.numel(), 1), 1)
        linear, constant = share * rstd * products, share * sums
        if not per_sample and linear.ndim == 2:
            linear, constant = linear.sum(0), constant.sum(0)
        dx, _, _ = run(*of_x, linear, constant, act, alpha, (True, False))
    return (
        dx,
        like_numbers(products, weight) if wanted[1] else None,
        like_numbers(sums, bias) if wanted[2] else None,
    )


@untraced
def _run_gradients(
    wanted: Sequence[bool], dy: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, *rest: Any
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """`_gradients` on the backend, for tensors of any strides."""
    run = _whole(x, "backward")
    if run is None:
        return _gradients(run_backward, wanted, dy, x, weight, bias, *rest)
    x = as_computed(x)
    return run(in_order_of(dy, x), x, *contiguous(weight, bias), *rest, wanted)


def _differentiable_gradients(
    wanted: Sequence[bool], dy: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, *options: Any
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    statistics = reference.statistics(x, options[0])
    return _gradients(reference_affine.backward, wanted, dy, x, weight, bias, *statistics, *options)


def _backward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    gradients = _run_gradients(arguments[-3:], *arguments[:-3])
    return tuple(arguments[1].new_empty(0) if t is None else t for t in gradients)


def _fake_backward(
    dy: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, *others: Any
) -> tuple[Tensor, Tensor, Tensor]:
    want_dx, want_dweight, want_dbias = others[-3:]
    return (
        empty_channels(x) if want_dx else x.new_empty(0),
        torch.empty_like(weight, memory_format=torch.contiguous_format) if want_dweight else x.new_empty(0),
        torch.empty_like(bias, memory_format=torch.contiguous_format) if want_dbias else x.new_empty(0),
    )


# --- autograd ---


class _NormAct(torch.autograd.Function):
    """(x, weight, bias, per_sample, eps, act, alpha) -> y, mean, var."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        outputs = _forward(*inputs)
        _save(ctx, inputs, outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        wanted = iter(gradients_needed_now(ctx))
        return _of_saved(ctx, [given and next(wanted) for given in ctx.given], dy)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        raise_no_forward_mode("norm_act")


class _TransformedNormAct(_NormAct):
    """The same for torch.func, in a form that torch takes longer to call."""

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        return _forward(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        _save(ctx, inputs, output)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():  # the plain formula, whose tensors may be transformed
            return _of_saved(ctx, ctx.needs_input_grad[:3], dy)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x: Tensor, weight: Any, bias: Any, *options: Any) -> tuple[tuple, tuple]:
        size = info.batch_size
        numbers = [
            fold_channels(t, dim, size, t.ndim - 1 if dim is None else t.ndim - 2) if t is not None else None
            for t, dim in zip((weight, bias), in_dims[1:3], strict=True)
        ]
        y, mean, var = norm_act(fold_channels(x, in_dims[0], size, 1), *numbers, *options)
        channels = mean.ndim - 1
        statistics = [unfold_channels(t, size, channels) for t in (mean, var)]
        return (unfold_channels(y, size, 1), *statistics), (1, channels, channels)


def _save(ctx: Any, inputs: tuple, outputs: tuple) -> None:
    ctx.set_materialize_grads(False)
    _, mean, var = outputs
    ctx.mark_non_differentiable(mean, var)
    x, weight, bias, *ctx.options = inputs
    ctx.given = True, weight is not None, bias is not None
    ctx.save_for_backward(x, weight, bias, mean, var)


def _of_saved(ctx: Any, wanted: Sequence[bool], dy: Tensor | None) -> tuple[Tensor | None, ...]:
    if dy is None or not any(wanted):
        return (None,) * 7
    x, weight, bias, mean, var = ctx.saved_tensors
    if torch.is_grad_enabled():  # under create_graph the gradient is differentiated again
        gradients = _differentiable_gradients(wanted, dy, x, weight, bias, *ctx.options)
    else:
        gradients = _run_gradients(wanted, dy, x, weight, bias, mean, var, *ctx.options)
    return *gradients, None, None, None, None


def _setup_traced(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, weight, bias, *ctx.options = inputs
    ctx.save_for_backward(x, weight, bias, *output[1:])
    ctx.wanted = [t is not None and t.requires_grad for t in (x, weight, bias)]


def _backward_traced(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if dy is None:
        return (None,) * 7
    x, weight, bias, mean, var = ctx.saved_tensors
    if torch.is_grad_enabled():
        gradients = _differentiable_gradients(ctx.wanted, dy, x, weight, bias, *ctx.options)
    else:
        of_backward = registered("norm_act_backward")
        gradients = of_backward(dy, x, weight, bias, mean, var, *ctx.options, *ctx.wanted)
        gradients = [t if wanted else None for t, wanted in zip(gradients, ctx.wanted, strict=True)]
    return *gradients, None, None, None, None


def _decomposed(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, per_sample: bool, eps: float, act: str, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    mean, var = reference.statistics(x, per_sample)
    return reference_affine.forward(x, scale_of(weight, var, eps), bias, mean, act, alpha), mean, var


def _decomposed_backward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    gradients = _gradients(reference_affine.backward, arguments[-3:], *arguments[:-3])
    return tuple(arguments[1].new_empty(0) if t is None else t for t in gradients)


torch.library.impl("fastgan::norm_act", "default", _forward)
torch.library.register_fake("fastgan::norm_act", _fake)
torch.library.register_autograd("fastgan::norm_act", _backward_traced, setup_context=_setup_traced)
torch.library.impl("fastgan::norm_act_backward", "default", _backward)
torch.library.register_fake("fastgan::norm_act_backward", _fake_backward)
register_decomposition("norm_act", _decomposed)
register_decomposition("norm_act_backward", _decomposed_backward)
