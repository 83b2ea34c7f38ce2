"""Bias, activation and pixel shuffle in Triton: a tile of x, read or written as it is stored, and its places in y."""

import torch
import triton
import triton.language as tl

from fastgan import memory
from fastgan.kernels import activations
from fastgan.kernels.channels import across, per_channel, places, sample_channel_part, tile
from fastgan.kernels.grouped import cast, device_guard
from fastgan.ops.layout import image_shape, image_sizes


@triton.jit
def shuffled(sample, channel, position, channels, width, height, FACTOR: tl.constexpr, LAST: tl.constexpr):
    """Where the values of a tile of x [count, channels, height, width] are in y."""
    images = channels // (FACTOR * FACTOR)
    image = channel // (FACTOR * FACTOR)
    inner = channel % (FACTOR * FACTOR)
    row = across(inner // FACTOR, LAST) + across(position // width * FACTOR, not LAST)
    column = across(inner % FACTOR, LAST) + across(position % width * FACTOR, not LAST)
    if LAST:
        at = ((sample * height * FACTOR + row) * width * FACTOR + column) * images + across(image, LAST)
    else:
        at = ((sample * images + across(image, LAST)) * height * FACTOR + row) * width * FACTOR + column
    return at


@triton.jit
def _pixel_shuffle_act_fwd_kernel(x, bias, y, channels, positions, width, height, parts, FACTOR: tl.constexpr,
                                  ALPHA: tl.constexpr, ACT: tl.constexpr, LAST: tl.constexpr, CHANNELS: tl.constexpr,
                                  POSITIONS: tl.constexpr):  # fmt: skip
    exact: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    sample, channel, part = sample_channel_part(channels, parts, CHANNELS)
    position = part * POSITIONS + tl.arange(0, POSITIONS)
    at, inside = places(sample, channel, position, channels, positions, LAST)
    z = tl.load(x + at, mask=inside, other=0.0).to(exact)
    z += per_channel(bias, False, sample, channel, channels, 0.0, exact, LAST)
    to = shuffled(sample, channel, position, channels, width, height, FACTOR, LAST)
    tl.store(y + to, cast(activations.value(z, ALPHA, ACT), y.dtype.element_ty), mask=inside)


@triton.jit
def _pixel_shuffle_act_bwd_kernel(dy, x, bias, dx, channels, positions, width, height, parts, FACTOR: tl.constexpr,
                                  ALPHA: tl.constexpr, ACT: tl.constexpr, LAST: tl.constexpr, CHANNELS: tl.constexpr,
                                  POSITIONS: tl.constexpr):  # fmt: skip
    """x is None for linear."""
    exact: tl.constexpr = tl.float64 if dy.dtype.element_ty == tl.float64 else tl.float32
    sample, channel, part = sample_channel_part(channels, parts, CHANNELS)
    position = part * POSITIONS + tl.arange(0, POSITIONS)
    at, inside = places(sample, channel, position, channels, positions, LAST)
    shuffled_at = shuffled(sample, channel, position, channels, width, height, FACTOR, LAST)
    result = tl.load(dy + shuffled_at, mask=inside, other=0.0).to(exact)
    if x is not None:
        z = tl.load(x + at, mask=inside, other=0.0).to(exact)
        z += per_channel(bias, False, sample, channel, channels, 0.0, exact, LAST)
        result = activations.chained(z, result, ALPHA, ACT)
    tl.store(dx + at, cast(result, dx.dtype.element_ty), mask=inside)


def forward(x: torch.Tensor, bias: torch.Tensor | None, factor: int, act: str, alpha: float, dim: int) -> torch.Tensor:
    """See `fastgan.reference.pixel_shuffle_act.forward`; both are contiguous, bias of the dtype computed in."""
    count, channels, height, width = image_sizes(x, dim)
    y = memory.empty(image_shape(count, channels // factor**2, height * factor, width * factor, dim), x.dtype, x.device)
    launch(_pixel_shuffle_act_fwd_kernel, (x, bias, y), x, factor, act, alpha, dim)
    return y


def backward(
    dy: torch.Tensor, x: torch.Tensor | None, bias: torch.Tensor | None, factor: int, act: str, alpha: float, dim: int
) -> torch.Tensor:
    """See `fastgan.reference.pixel_shuffle_act.backward`; all are contiguous, bias of the dtype computed in."""
    count, channels, height, width = image_sizes(dy, dim)
    dx = memory.empty(
        image_shape(count, channels * factor**2, height // factor, width // factor, dim), dy.dtype, dy.device
    )
    launch(_pixel_shuffle_act_bwd_kernel, (dy, x, bias, dx), dx, factor, act, alpha, dim)
    return dx


def launch(
    kernel: triton.JITFunction, tensors: tuple, x: torch.Tensor, factor: int, act: str, alpha: float, dim: int
) -> None:
    """Over tiles of x."""
    if x.numel() == 0:
        return
    count, channels, height, width = image_sizes(x, dim)
    positions = height * width
    constants = tile(x.dtype, channels, positions, dim != 1) | {"ACT": act, "ALPHA": alpha}
    parts = triton.cdiv(positions, constants["POSITIONS"])
    with device_guard(x.device):
        kernel[(count * triton.cdiv(channels, constants["CHANNELS"]) * parts,)](
            *tensors,
            channels,
            height * width,
            width,
            height,
            parts,
            FACTOR=factor,
            **constants,
        )
