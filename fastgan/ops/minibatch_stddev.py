"""Minibatch standard deviation, its copy of x included. A backward that is differentiated again is the reference's."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan import backends, check
from fastgan.ops.layout import as_computed, channel_order, in_order_of, with_channels
from fastgan.ops.op import Op, overridable
from fastgan.reference import minibatch_stddev as reference


@overridable
def minibatch_stddev(x: Tensor, group_size: int | None = 4, num_channels: int = 1, eps: float = 1e-8) -> Tensor:
    """Append channels that say how much the samples of a group differ, in one pass over x.

        s_mf = mean over c of slice f, and positions, of sqrt(var over g of x[g M + m, c, ...] + eps)
        y = x, and after its channels s_mf at every position of sample g M + m

    M = N / G groups of G samples; slice f of num_channels slices has C / num_channels channels; the variance is biased.

    Args:
        x: [N, C, ...], C a multiple of num_channels; N or a position's size may be 0; float64, float32, bfloat16 or
            float16, any strides. Dense tensors with the channels outermost or innermost (channels_last) keep their
            layout, others are made contiguous.
        group_size: G, which N must be a multiple of where it is less than N; None for N.
        num_channels: how many channels are appended.
        eps: added to the variance; more than 0.

    Returns:
        [N, C + num_channels, ...] of x's dtype; statistics are taken in float32 or better.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.
        RuntimeError: the backend that was asked for cannot run here.

    Derivatives: with respect to x, reverse mode to any order. Forward mode raises NotImplementedError.

    Source: T. Karras et al., Progressive Growing of GANs for Improved Quality, Stability, and Variation, ICLR 2018,
    section 3; several channels as in the code that came with T. Karras et al., StyleGAN2, CVPR 2020.
    """
    check.channels(x, "x")
    count, channels = x.shape[:2]
    group = count if group_size is None else group_size
    for value, name in ((group, "group_size"), (num_channels, "num_channels")):
        check.integers(value, name, (), 1 if value is not count else 0)
    check.finite(eps, "eps", least=0)
    if eps == 0:
        raise ValueError("eps must be more than 0: the derivative at a variance of 0 is infinite without it")
    group = max(min(group, count), 1)
    if count % group:
        raise ValueError(f"x must have a multiple of group_size = {group} samples, got {check.describe(x)}")
    if channels == 0 or channels % num_channels:
        raise ValueError(f"x must have a multiple of num_channels = {num_channels} channels, got {check.describe(x)}")
    return _op(x, group, num_channels, float(eps))


def _run(x: Tensor, group: int, features: int, eps: float) -> Tensor:
    x = as_computed(x)
    y = backends.pick("minibatch_stddev", x).forward(x, group, features, eps)
    # The reference's layout is torch.cat's.
    return y if channel_order(x) is None else in_order_of(y, _fake(x, group, features, eps))


def _fake(x: Tensor, group: int, features: int, eps: float) -> Tensor:
    return x.new_empty_strided(*with_channels(x, x.shape[1] + features))


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, *ctx.options = inputs
    ctx.save_for_backward(x)


def _gradient(ctx: Any, wanted: Sequence[bool], dy: Tensor) -> tuple[Tensor]:
    run = reference.backward if torch.is_grad_enabled() else _backward
    return (run(dy, *ctx.saved_tensors, *ctx.options),)


def _run_backward(dy: Tensor, x: Tensor, group: int, features: int, eps: float) -> Tensor:
    x = as_computed(x)
    dy = in_order_of(dy, _fake(x, group, features, eps))
    return backends.pick("minibatch_stddev", x).backward(dy, x, group, features, eps)


def _fake_backward(dy: Tensor, x: Tensor, group: int, features: int, eps: float) -> Tensor:
    return torch.empty_like(as_computed(x))


def _vmap(info: Any, in_dims: tuple, x: Tensor, group: int, *options: Any) -> tuple[Tensor, int]:
    """The groups of all batches are groups of one: [group, batches, N / group]."""
    batches = x.movedim(in_dims[0], 0)
    grouped = batches.unflatten(1, (group, -1)).transpose(0, 1)
    y = _op(grouped.flatten(0, 2), group, *options)
    return y.unflatten(0, grouped.shape[:3]).transpose(0, 1).flatten(1, 2), 0


_OPTIONS = "int group, int features, float eps"
_op = Op(f"minibatch_stddev(Tensor x, {_OPTIONS}) -> Tensor", _run, _fake, reference.forward, _keep, _gradient, _vmap)
_backward = Op(
    f"minibatch_stddev_backward(Tensor dy, Tensor x, {_OPTIONS}) -> Tensor",
    _run_backward,
    _fake_backward,
    reference.backward,
)
