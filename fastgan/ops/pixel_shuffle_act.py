"""Bias, activation and pixel shuffle: y = shuffled f(x + bias), and dx = f'(x + bias) dy at its place, in one pass.

The gradient of the bias is the sum of dx, where it is asked for. In eager mode an autograd.Function calls the backend;
where something traces, `torch.ops.fastgan.pixel_shuffle_act` is. A backward that is itself differentiated is the
reference's, plain torch: so every order is right.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan import backends, check
from fastgan.ops.activations import check_activation
from fastgan.ops.channels import as_non_leaf, fold_channels, gradients_needed_now, unfold_channels
from fastgan.ops.decompositions import register_decomposition, registered
from fastgan.ops.layout import channel_dim, channel_order, to_memory
from fastgan.ops.samples import accumulation_dtype, fold, unfold
from fastgan.ops.tracing import is_differentiated, is_traced, raise_no_forward_mode, refuse_forward_mode, untraced
from fastgan.reference import pixel_shuffle_act as reference

MOST_FACTOR = 16  # kMostFactor in csrc/pixel_shuffle_act.h

torch.library.define(
    "fastgan::pixel_shuffle_act", "(Tensor x, Tensor? bias, int factor, str act, float alpha) -> Tensor"
)
torch.library.define(
    "fastgan::pixel_shuffle_act_backward",
    "(Tensor dy, Tensor? x, Tensor? bias, int factor, str act, float alpha) -> Tensor",
)


def check_arguments(x: Any, bias: Any, factor: Any, act: Any, alpha: Any) -> None:
    """Raise TypeError or ValueError for what the op does not take."""
    check.channels(x, "x")
    if x.ndim != 4:
        raise ValueError(f"x must be [N, C, H, W], got {check.describe(x)}")
    if not isinstance(factor, int) or isinstance(factor, bool) or not 1 <= factor <= MOST_FACTOR:
        raise ValueError(f"upscale_factor must be an integer from 1 to {MOST_FACTOR}, got {check.short(factor)}")
    if x.shape[1] % factor**2:
        raise ValueError(f"x must have a multiple of {factor**2} channels, upscale_factor squared, got {list(x.shape)}")
    check.per_channel(bias, "bias", x, "x")
    if bias is not None and bias.ndim != 1:
        raise ValueError(f"bias must be [{x.shape[1]}], one number per channel, got {check.describe(bias)}")
    check_activation(act, alpha)


def pixel_shuffle_act(x: Tensor, bias: Tensor | None, factor: int, act: str, alpha: float) -> Tensor:
    """The op, for arguments that were checked."""
    bias = None if bias is None else bias.to(accumulation_dtype(x.dtype))
    tensors = [t for t in (x, bias) if t is not None]
    if is_traced(*tensors):
        refuse_forward_mode("pixel_shuffle_act")
        return registered("pixel_shuffle_act")(x, bias, factor, act, alpha)
    if torch._C._are_functorch_transforms_active():
        return _TransformedPixelShuffleAct.apply(x, bias, factor, act, alpha)
    if is_differentiated(*tensors):
        return _PixelShuffleAct.apply(as_non_leaf(x), as_non_leaf(bias), factor, act, alpha)
    return _forward(x, bias, factor, act, alpha)


# --- forward ---


@untraced
def _forward(x: Tensor, bias: Tensor | None, factor: int, act: str, alpha: float) -> Tensor:
    order = _image_order(x)
    run = backends.pick("pixel_shuffle_act", x).forward
    y = run(to_memory(x, order), None if bias is None else bias.contiguous(), factor, act, alpha, channel_dim(order))
    return _from_memory(y, order)


def _image_order(x: Tensor) -> tuple[int, ...] | None:
    """channels_last, or None."""
    return order if (order := channel_order(x)) == (0, 2, 3, 1) else None


def _from_memory(y: Tensor, order: tuple[int, ...] | None) -> Tensor:
    if order is None:
        return y
    count, height, width, channels = y.shape
    # In place: an output of an autograd.Function must not be a view.
    strides = (height * width * channels, 1, width * channels, channels)
    return y.as_strided_((count, channels, height, width), strides)


def _empty(like: Tensor, order: tuple[int, ...] | None, channels: int, height: int, width: int) -> Tensor:
    like = like.new_empty((like.shape[0], channels, height, width))
    return like if order is None else like.to(memory_format=torch.channels_last)


def _fake(x: Tensor, bias: Tensor | None, factor: int, act: str, alpha: float) -> Tensor:
    _, channels, height, width = x.shape
    return _empty(x, _image_order(x), channels // factor**2, factor * height, factor * width)


# --- backward ---


@untraced
def _backward(dy: Tensor, x: Tensor | None, bias: Tensor | None, factor: int, act: str, alpha: float) -> Tensor:
    order = _image_order(dy if x is None else x)
    bias = None if bias is None else bias.contiguous()
    run = backends.pick("pixel_shuffle_act", dy).backward
    x = None if x is None else to_memory(x, order)
    return _from_memory(run(to_memory(dy, order), x, bias, factor, act, alpha, channel_dim(order)), order)


def _fake_backward(dy: Tensor, x: Tensor | None, bias: Tensor | None, factor: int, act: str, alpha: float) -> Tensor:
    _, channels, height, width = dy.shape
    order = _image_order(dy if x is None else x)
    return _empty(dy, order, channels * factor**2, height // factor, width // factor)


def _gradients(
    run: Any, wanted: Sequence[bool], dy: Tensor | None, x: Tensor | None, bias: Tensor | None, options: Sequence
) -> tuple[Tensor | None, Tensor | None]:
    if dy is None or not any(wanted):
        return None, None
    # Under create_graph the gradient is differentiated again.
    dx = (reference.backward if torch.is_grad_enabled() else run)(dy, x, bias, *options)
    return dx if wanted[0] else None, dx.sum((0, 2, 3), dtype=accumulation_dtype(dx.dtype)) if wanted[1] else None


# --- autograd ---


class _PixelShuffleAct(torch.autograd.Function):
    """(x, bias, factor, act, alpha) -> y."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, factor: int, act: str, alpha: float) -> Tensor:
        _save(ctx, (x, bias, factor, act, alpha), None)
        return _forward(x, bias, factor, act, alpha)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        wanted = [*gradients_needed_now(ctx), False]  # there may be no bias
        return *_gradients(_backward, wanted, dy, *ctx.saved_tensors, ctx.options), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        raise_no_forward_mode("pixel_shuffle_act")


class _TransformedPixelShuffleAct(_PixelShuffleAct):
    """The same for torch.func, in a form that torch takes longer to call."""

    @staticmethod
    def forward(x: Tensor, bias: Tensor | None, factor: int, act: str, alpha: float) -> Tensor:
        return _forward(x, bias, factor, act, alpha)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _save(ctx, inputs, output)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():  # the plain formula, whose tensors may be transformed
            gradients = _gradients(_backward, ctx.needs_input_grad[:2], dy, *ctx.saved_tensors, ctx.options)
        return *gradients, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x: Tensor, bias: Tensor | None, *options: Any) -> tuple[Tensor, int]:
        size = info.batch_size
        if bias is None or in_dims[1] is None:
            return unfold(pixel_shuffle_act(fold(x, in_dims[0], size), bias, *options), size), 0
        folded = [fold_channels(t, dim, size, at) for t, dim, at in zip((x, bias), in_dims, (1, 0), strict=False)]
        return unfold_channels(pixel_shuffle_act(*folded, *options), size, 1), 1


def _save(ctx: Any, inputs: tuple, output: Tensor | None) -> None:
    ctx.set_materialize_grads(False)
    x, bias, *ctx.options = inputs
    linear = ctx.options[1] == "linear"
    ctx.save_for_backward(None if linear else x, None if linear else bias)


def _setup_traced(ctx: Any, inputs: tuple, output: Tensor) -> None:
    _save(ctx, inputs, output)
    ctx.wanted = [t is not None and t.requires_grad for t in inputs[:2]]


def _backward_traced(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
    run = registered("pixel_shuffle_act_backward")
    return *_gradients(run, ctx.wanted, dy, *ctx.saved_tensors, ctx.options), None, None, None


torch.library.impl("fastgan::pixel_shuffle_act", "default", _forward)
torch.library.register_fake("fastgan::pixel_shuffle_act", _fake)
torch.library.register_autograd("fastgan::pixel_shuffle_act", _backward_traced, setup_context=_setup_traced)
torch.library.impl("fastgan::pixel_shuffle_act_backward", "default", _backward)
torch.library.register_fake("fastgan::pixel_shuffle_act_backward", _fake_backward)
register_decomposition("pixel_shuffle_act", reference.forward)
register_decomposition("pixel_shuffle_act_backward", reference.backward)
