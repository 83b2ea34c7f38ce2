"""Bias, activation and pixel shuffle, and dx = f'(x + bias) dy at its place, in one pass.

A backward that is differentiated again is the reference's, plain torch.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan import backends, check
from fastgan.ops.layout import (
    accumulation_dtype,
    channel_dim,
    channel_order,
    contiguous,
    to_accumulation_dtype,
    to_memory,
)
from fastgan.ops.op import Op, overridable
from fastgan.ops.vmap import fold, fold_channels, unfold, unfold_channels
from fastgan.reference import pixel_shuffle_act as reference
from fastgan.reference.activations import FACTS

MOST_FACTOR = 16  # kMostFactor in csrc/pixel_shuffle_act.h


@overridable
def pixel_shuffle_act(
    x: Tensor, bias: Tensor | None = None, upscale_factor: int = 2, act: str = "linear", alpha: float | None = None
) -> Tensor:
    """Add a bias, apply an activation and shuffle channels into pixels, in one pass.

        y[n, c, r h + i, r w + j] = f(x[n, r r c + r i + j, h, w] + bias[r r c + r i + j])      r = upscale_factor

    Args:
        x: [N, C r r, H, W], any size may be 0; float64, float32, bfloat16 or float16, any strides. channels_last is
            computed as it is stored, other layouts are made contiguous.
        bias: [C r r], of any of these dtypes and on x's device; None for 0.
        upscale_factor: r, from 1 to 16.
        act: as in `scale_shift_act`.
        alpha: as in `scale_shift_act`.

    Returns:
        [N, C, r H, r W] of x's dtype, channels_last where x is.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.
        RuntimeError: the backend that was asked for cannot run here.

    Derivatives: with respect to x and bias, reverse mode to any order; the bias's only where it is asked for. Forward
    mode raises NotImplementedError.

    Source: W. Shi et al., Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional
    Neural Network, CVPR 2016, equation 4.
    """
    check.channels(x, "x")
    factor = upscale_factor
    if x.ndim != 4:
        raise ValueError(f"x must be [N, C, H, W], got {check.describe(x)}")
    if not isinstance(factor, int) or isinstance(factor, bool) or not 1 <= factor <= MOST_FACTOR:
        raise ValueError(f"upscale_factor must be an integer from 1 to {MOST_FACTOR}, got {check.short(factor)}")
    if x.shape[1] % factor**2:
        raise ValueError(f"x must have a multiple of {factor**2} channels, upscale_factor squared, got {list(x.shape)}")
    check.per_channel(bias, "bias", x, "x")
    if bias is not None and bias.ndim != 1:
        raise ValueError(f"bias must be [{x.shape[1]}], one number per channel, got {check.describe(bias)}")
    alpha = check.activation(act, alpha, FACTS)
    return _op(x, None if bias is None else to_accumulation_dtype(bias, x), factor, act, alpha)


# --- forward ---


def _run(x: Tensor, bias: Tensor | None, factor: int, act: str, alpha: float) -> Tensor:
    order = _image_order(x)
    run = backends.pick("pixel_shuffle_act", x).forward
    y = run(to_memory(x, order), *contiguous(bias), factor, act, alpha, channel_dim(order))
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


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, bias, *ctx.options = inputs
    linear = ctx.options[1] == "linear"
    ctx.save_for_backward(None if linear else x, None if linear else bias)


def _gradient(ctx: Any, wanted: Sequence[bool], dy: Tensor) -> tuple[Tensor | None, Tensor | None]:
    run = reference.backward if torch.is_grad_enabled() else _backward
    dx = run(dy, *ctx.saved_tensors, *ctx.options)
    return dx if wanted[0] else None, dx.sum((0, 2, 3), dtype=accumulation_dtype(dx.dtype)) if wanted[1] else None


def _run_backward(dy: Tensor, x: Tensor | None, bias: Tensor | None, factor: int, act: str, alpha: float) -> Tensor:
    order = _image_order(dy if x is None else x)
    run = backends.pick("pixel_shuffle_act", dy).backward
    x = None if x is None else to_memory(x, order)
    return _from_memory(run(to_memory(dy, order), x, *contiguous(bias), factor, act, alpha, channel_dim(order)), order)


def _fake_backward(dy: Tensor, x: Tensor | None, bias: Tensor | None, factor: int, act: str, alpha: float) -> Tensor:
    _, channels, height, width = dy.shape
    order = _image_order(dy if x is None else x)
    return _empty(dy, order, channels * factor**2, height // factor, width // factor)


def _vmap(info: Any, in_dims: tuple, x: Tensor, bias: Tensor | None, *options: Any) -> tuple[Tensor, int]:
    size = info.batch_size
    if bias is None or in_dims[1] is None:
        return unfold(_op(fold(x, in_dims[0], size), bias, *options), size), 0
    folded = [fold_channels(t, dim, size, at) for t, dim, at in zip((x, bias), in_dims, (1, 0), strict=False)]
    return unfold_channels(_op(*folded, *options), size, 1), 1


_op = Op(
    "pixel_shuffle_act(Tensor x, Tensor? bias, int factor, str act, float alpha) -> Tensor",
    _run,
    _fake,
    reference.forward,
    _keep,
    _gradient,
    _vmap,
    needed_now=True,
)
_backward = Op(
    "pixel_shuffle_act_backward(Tensor dy, Tensor? x, Tensor? bias, int factor, str act, float alpha) -> Tensor",
    _run_backward,
    _fake_backward,
    reference.backward,
)
