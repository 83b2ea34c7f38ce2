"""Normalization by the statistics of x, and an activation: y = f(z), z = weight (x - mean) / sqrt(var + eps) + bias.

With g = f'(z) dy, s = weight / sqrt(var + eps), and sums and means over what the statistics are of:

    dx = s g - mean of s g - (x - mean) / (var + eps) * mean of s g (x - mean)
    dweight = sum of g (x - mean) / sqrt(var + eps)          dbias = sum of g

One pass over x and dy gives the sums, a second one dx: both are scale_shift_act's. A backward that is differentiated
again takes the statistics again, in plain torch, and is made of the reference's: so every order is right.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan import backends, check
from fastgan.ops.layout import (
    accumulation_dtype,
    as_computed,
    contiguous,
    empty_channels,
    in_order_of,
    to_accumulation_dtype,
)
from fastgan.ops.op import Op, overridable
from fastgan.ops.scale_shift_act import affine_act, forward_of, like_values, run_backward
from fastgan.ops.vmap import fold_channels, unfold_channels
from fastgan.reference import norm_act as reference
from fastgan.reference import scale_shift_act as reference_affine
from fastgan.reference.activations import FACTS

NORMS = ("batch", "instance")


@overridable
def norm_act(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    *,
    norm: str = "batch",
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    act: str = "relu",
    alpha: float | None = None,
) -> Tensor:
    """Normalize every channel, scale and shift it, and apply an activation: batch or instance normalization.

        y = f(weight (x - mean) / sqrt(var + eps) + bias)

    In training mean and biased variance are those of x, over the batch and all positions (norm="batch") or over the
    positions of every sample (norm="instance"); else they are the running ones. Two passes forward and two backward.

    Args:
        x: [N, C, ...] as in `scale_shift_act`.
        weight: [C], or [N, C] for every sample its own (conditional normalization), of any floating-point dtype and on
            x's device; None for 1.
        bias: the same; None for 0.
        running_mean: [C], updated in place in training: (1 - momentum) running_mean + momentum mean. Optional there.
        running_var: [C], the same with the unbiased variance. For norm="instance" both take the mean over the batch.
        norm: "batch" or "instance".
        training: normalize by x's own statistics.
        momentum: as above.
        eps: added to the variance; more than 0 for norm="batch" in training, and 0 or more in evaluation, as in torch.
        act: as in `scale_shift_act`.
        alpha: as in `scale_shift_act`.

    Returns:
        A new tensor as from `scale_shift_act`. Statistics are taken and kept in float32 or better.

    Raises:
        TypeError, ValueError: an argument that is not as above, or one value per channel in training.
        RuntimeError: the backend that was asked for cannot run here.

    Derivatives: with respect to x, weight and bias, reverse mode to any order, and no more than was asked for. Forward
    mode raises NotImplementedError.

    Source: S. Ioffe and C. Szegedy, Batch Normalization, ICML 2015, algorithm 1; D. Ulyanov et al., Instance
    Normalization, 2016, equation 3; A. Brock et al., Large Scale GAN Training for High Fidelity Natural Image
    Synthesis, ICLR 2019, appendix B, for gains and biases from an embedding.
    """
    check.channels(x, "x")
    check.per_channel(weight, "weight", x, "x")
    check.per_channel(bias, "bias", x, "x")
    for values, name in ((running_mean, "running_mean"), (running_var, "running_var")):
        _check_running(values, name, x, training)
    check.choice(norm, "norm", NORMS)
    if training and x.numel() == (x.shape[1] if norm == "batch" else x.shape[0] * x.shape[1]) != 0:
        raise ValueError(f"x must have more than one value per channel in training, got {check.describe(x)}")
    check.finite(momentum, "momentum")
    check.finite(eps, "eps")
    if norm == "batch" and (eps < 0 or (training and eps == 0)):  # as torch.nn.functional.batch_norm has it
        least = "more than 0 in training" if training else "0 or more"
        raise ValueError(f'eps must be {least} with norm="batch", got {check.short(eps)}')
    alpha = check.activation(act, alpha, FACTS)
    if training:
        weight, bias = (None if t is None else to_accumulation_dtype(t, x) for t in (weight, bias))
        y, mean, var = _op(x, weight, bias, norm == "instance", float(eps), act, alpha)
        _update_running(running_mean, running_var, mean, var, x, momentum)
        return y
    scale = scale_of(weight, running_var.to(accumulation_dtype(x.dtype)), eps)
    return affine_act(x, scale, bias, running_mean, act, alpha)


def _check_running(values: Any, name: str, x: Tensor, training: bool) -> None:
    if values is None:
        if not training:
            raise ValueError(f"{name} must be given where training is False")
        return
    check.per_channel(values, name, x, "x")
    if values.ndim != 1:
        raise ValueError(f"{name} must be [{x.shape[1]}], one number per channel, got {check.describe(values)}")


@torch.no_grad()
def _update_running(
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


# --- forward: y, and mean and biased variance, of which no gradient is taken ---


def _run(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, per_sample: bool, eps: float, act: str, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    if run := _whole(x, "forward"):
        return run(as_computed(x), *contiguous(weight, bias), per_sample, eps, act, alpha)
    if x.numel() == 0:
        mean, var = reference.statistics(x, per_sample)
    else:
        mean, var = backends.pick("norm_act", x).statistics(as_computed(x), per_sample)
    return forward_of(x, scale_of(weight, var, eps), bias, mean, act, alpha), mean, var


def _whole(x: Tensor, name: str) -> Callable | None:
    """The backend's function that does everything, where it has one: in compiled code on the CPU."""
    return getattr(backends.pick("norm_act", x), name, None) if x.is_cpu and x.numel() else None


def scale_of(weight: Tensor | None, var: Tensor, eps: float) -> Tensor:
    """weight / sqrt(var + eps)."""
    rstd = torch.rsqrt(var + eps)
    return rstd if weight is None else weight * rstd


def _fake(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, per_sample: bool, *others: Any
) -> tuple[Tensor, Tensor, Tensor]:
    shape = x.shape[:2] if per_sample else x.shape[1:2]
    mean, var = (x.new_empty(shape, dtype=accumulation_dtype(x.dtype)) for _ in range(2))
    return empty_channels(x), mean, var


def _plain(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, per_sample: bool, eps: float, act: str, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    mean, var = reference.statistics(x, per_sample)
    return reference_affine.forward(x, scale_of(weight, var, eps), bias, mean, act, alpha), mean, var


# --- backward ---


def _keep(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, weight, bias, *ctx.options = inputs
    _, mean, var = output
    ctx.mark_non_differentiable(mean, var)
    ctx.save_for_backward(x, weight, bias, mean, var)


def _gradient(ctx: Any, wanted: Sequence[bool], dy: Tensor) -> tuple[Tensor | None, ...]:
    wanted = wanted[:3]
    if not any(wanted):
        return None, None, None
    x, weight, bias, mean, var = ctx.saved_tensors
    if torch.is_grad_enabled():
        statistics = reference.statistics(x, ctx.options[0])
        return _gradients_by(reference_affine.backward, wanted, dy, x, weight, bias, *statistics, *ctx.options)
    gradients = _backward(dy, x, weight, bias, mean, var, *ctx.options, *wanted)
    return tuple(t if want else None for t, want in zip(gradients, wanted, strict=True))


def _gradients_by(
    run: Callable,
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
        # The mean of nothing is NaN: 0 of it must not be NaN to the next derivative.
        share = scale / -max(x.numel() // max(mean.numel(), 1), 1)
        linear, constant = share * rstd * products, share * sums
        if not per_sample and linear.ndim == 2:
            linear, constant = linear.sum(0), constant.sum(0)
        dx, _, _ = run(*of_x, linear, constant, act, alpha, (True, False))
    return (
        dx,
        like_values(products, weight) if wanted[1] else None,
        like_values(sums, bias) if wanted[2] else None,
    )


def _run_backward(dy: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    *rest, want_dx, want_dweight, want_dbias = rest
    wanted = want_dx, want_dweight, want_dbias
    if run := _whole(x, "backward"):
        laid_out = as_computed(x)
        gradients = run(in_order_of(dy, laid_out), laid_out, *contiguous(weight, bias), *rest, wanted)
    else:
        gradients = _gradients_by(run_backward, wanted, dy, x, weight, bias, *rest)
    return _none_as_empty(gradients, x)


def _plain_backward(dy: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return _none_as_empty(_gradients_by(reference_affine.backward, rest[-3:], dy, x, *rest[:-3]), x)


def _none_as_empty(gradients: Sequence[Tensor | None], x: Tensor) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(0) if t is None else t for t in gradients)


def _fake_backward(
    dy: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, *others: Any
) -> tuple[Tensor, Tensor, Tensor]:
    want_dx, want_dweight, want_dbias = others[-3:]
    return (
        empty_channels(x) if want_dx else x.new_empty(0),
        torch.empty_like(weight, memory_format=torch.contiguous_format) if want_dweight else x.new_empty(0),
        torch.empty_like(bias, memory_format=torch.contiguous_format) if want_dbias else x.new_empty(0),
    )


def _vmap(info: Any, in_dims: tuple, x: Tensor, weight: Any, bias: Any, *options: Any) -> tuple[tuple, tuple]:
    size = info.batch_size
    values = [
        fold_channels(t, dim, size, t.ndim - 1 if dim is None else t.ndim - 2) if t is not None else None
        for t, dim in zip((weight, bias), in_dims[1:3], strict=True)
    ]
    y, mean, var = _op(fold_channels(x, in_dims[0], size, 1), *values, *options)
    channels = mean.ndim - 1
    statistics = [unfold_channels(t, size, channels) for t in (mean, var)]
    return (unfold_channels(y, size, 1), *statistics), (1, channels, channels)


_OPTIONS = "bool per_sample, float eps, str act, float alpha"
_op = Op(
    f"norm_act(Tensor x, Tensor? weight, Tensor? bias, {_OPTIONS}) -> (Tensor y, Tensor mean, Tensor var)",
    _run,
    _fake,
    _plain,
    _keep,
    _gradient,
    _vmap,
    needed_now=True,
)
# A gradient that is not wanted is empty.
_backward = Op(
    f"norm_act_backward(Tensor dy, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, {_OPTIONS}, "
    "bool want_dx, bool want_dweight, bool want_dbias) -> (Tensor, Tensor, Tensor)",
    _run_backward,
    _fake_backward,
    _plain_backward,
)
