"""Minibatch standard deviation in Triton: a program takes a part of a slice of channels, in all samples of a group.

fwd     y's copy of x, and the sum of a part's standard deviations
finish  the statistic of a slice, parts summed in a fixed order, at all of its places
slope   the sum of a slice's gradients
bwd     dx
"""

import torch
import triton
import triton.language as tl

from fastgan import memory
from fastgan.kernels.grouped import cast, device_guard, div, parts_of, sqrt, total
from fastgan.ops.layout import accumulation_dtype, channel_dim, channel_order, sizes, with_channels

PART, PLACES = 1024, 256


@triton.jit
def place(sample, feature, value, channels, slice_channels, positions, LAST: tl.constexpr):
    """Where a value of a slice is in a sample of [count, channels, positions] or [count, positions, channels]."""
    if LAST:
        at = (sample * positions + value // slice_channels) * channels
        at += feature * slice_channels + value % slice_channels
    else:
        at = sample * channels * positions + feature * slice_channels * positions + value
    return at


@triton.jit
def in_y(at, sample, channels, features, positions, LAST: tl.constexpr):
    """Where the value of x at a place of a sample is in y, which has more channels."""
    return at + (at // channels if LAST else sample * positions) * features


@triton.jit
def statistics(x, at, inside, step, group, eps, EXACT: tl.constexpr):
    """The mean over the group, and the standard deviation."""
    zero = tl.load(x + at, mask=inside, other=0.0).to(EXACT) * 0.0
    count = zero + group.to(EXACT)
    mean = zero
    for g in range(group):
        mean += tl.load(x + at + g * step, mask=inside, other=0.0).to(EXACT)
    mean = div(mean, count)
    squares = zero
    for g in range(group):
        distance = tl.load(x + at + g * step, mask=inside, other=0.0).to(EXACT) - mean
        squares += distance * distance
    return mean, sqrt(div(squares, count) + eps)


@triton.jit
def _minibatch_stddev_fwd_kernel(x, y, sums, eps, group, groups, channels, features, positions, parts,
                                 LAST: tl.constexpr, PART: tl.constexpr):  # fmt: skip
    exact: tl.constexpr = sums.dtype.element_ty
    program = tl.program_id(0).to(tl.int64)
    feature, m = program // parts % features, program // parts // features
    value = program % parts * PART + tl.arange(0, PART)
    slice_channels = channels // features
    inside = value < slice_channels * positions
    at = place(m, feature, value, channels, slice_channels, positions, LAST)
    step = groups.to(tl.int64) * channels * positions
    _, deviation = statistics(x, at, inside, step, group, eps, exact)
    tl.store(sums + program, tl.sum(tl.where(inside, deviation, 0.0), 0))
    to = in_y(at, m, channels, features, positions, LAST)
    to_step = groups.to(tl.int64) * (channels + features) * positions
    for g in range(group):
        tl.store(y + to + g * to_step, tl.load(x + at + g * step, mask=inside), mask=inside)


@triton.jit
def place_of_statistic(i, m, feature, groups, channels, features, positions, LAST: tl.constexpr):
    """Where place i of [group, positions] of a slice's statistic is in y."""
    sample = i // positions * groups + m
    if LAST:
        at = (sample * positions + i % positions) * (channels + features) + channels + feature
    else:
        at = (sample * (channels + features) + channels + feature) * positions + i % positions
    return at


@triton.jit
def _minibatch_stddev_finish_kernel(sums, y, group, groups, channels, features, positions, parts, LAST: tl.constexpr,
                                    PLACES: tl.constexpr):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    feature, m = program % features, program // features
    result = total(sums + program * parts, parts)
    size = (channels // features).to(tl.int64) * positions
    statistic = cast(div(result, result * 0.0 + size.to(result.dtype)), y.dtype.element_ty)
    places = group.to(tl.int64) * positions
    for block in range(parts_of(places, PLACES)):
        i = block * PLACES + tl.arange(0, PLACES).to(tl.int64)
        at = place_of_statistic(i, m, feature, groups, channels, features, positions, LAST)
        tl.store(y + at, tl.zeros([PLACES], y.dtype.element_ty) + statistic, mask=i < places)


@triton.jit
def _minibatch_stddev_slope_kernel(dy, slopes, group, groups, channels, features, positions, LAST: tl.constexpr,
                                   PLACES: tl.constexpr):  # fmt: skip
    exact: tl.constexpr = slopes.dtype.element_ty
    program = tl.program_id(0).to(tl.int64)
    feature, m = program % features, program // features
    places = group.to(tl.int64) * positions
    sums = tl.zeros([PLACES], exact)
    for block in range(parts_of(places, PLACES)):
        i = block * PLACES + tl.arange(0, PLACES).to(tl.int64)
        at = place_of_statistic(i, m, feature, groups, channels, features, positions, LAST)
        sums += tl.load(dy + at, mask=i < places, other=0.0).to(exact)
    result = tl.sum(sums, 0)
    size = group.to(tl.int64) * (channels // features) * positions
    tl.store(slopes + program, div(result, result * 0.0 + size.to(exact)))


@triton.jit
def _minibatch_stddev_bwd_kernel(dy, x, slopes, dx, eps, group, groups, channels, features, positions, parts,
                                 LAST: tl.constexpr, PART: tl.constexpr):  # fmt: skip
    exact: tl.constexpr = slopes.dtype.element_ty
    program = tl.program_id(0).to(tl.int64)
    feature, m = program // parts % features, program // parts // features
    value = program % parts * PART + tl.arange(0, PART)
    slice_channels = channels // features
    inside = value < slice_channels * positions
    at = place(m, feature, value, channels, slice_channels, positions, LAST)
    step = groups.to(tl.int64) * channels * positions
    mean, deviation = statistics(x, at, inside, step, group, eps, exact)
    slope = tl.load(slopes + m * features + feature)
    to = in_y(at, m, channels, features, positions, LAST)
    to_step = groups.to(tl.int64) * (channels + features) * positions
    for g in range(group):
        normalized = div(tl.load(x + at + g * step, mask=inside, other=0.0).to(exact) - mean, deviation)
        result = tl.load(dy + to + g * to_step, mask=inside, other=0.0).to(exact) + slope * normalized
        tl.store(dx + at + g * step, cast(result, dx.dtype.element_ty), mask=inside)


def forward(x: torch.Tensor, group: int, features: int, eps: float) -> torch.Tensor:
    """See `fastgan.reference.minibatch_stddev.forward`; x is dense, its channels outermost or innermost."""
    y = torch.empty_strided(*with_channels(x, x.shape[1] + features), dtype=x.dtype, device=x.device)
    if y.numel() == 0:
        return y
    shape, slices, parts, constants = _shape(x, group, features)
    sums = memory.empty((slices, parts), accumulation_dtype(x.dtype), x.device)
    with device_guard(x.device):
        _minibatch_stddev_fwd_kernel[(slices * parts,)](x, y, sums, eps, *shape, parts, **constants, PART=PART)
        _minibatch_stddev_finish_kernel[(slices,)](sums, y, *shape, parts, **constants, PLACES=PLACES)
    return y


def backward(dy: torch.Tensor, x: torch.Tensor, group: int, features: int, eps: float) -> torch.Tensor:
    """See `fastgan.reference.minibatch_stddev.backward`; dy has the layout of the forward's result."""
    dx = torch.empty_like(x)
    if dx.numel() == 0:
        return dx
    shape, slices, parts, constants = _shape(x, group, features)
    slopes = memory.empty((slices,), accumulation_dtype(x.dtype), x.device)
    with device_guard(x.device):
        _minibatch_stddev_slope_kernel[(slices,)](dy, slopes, *shape, **constants, PLACES=PLACES)
        _minibatch_stddev_bwd_kernel[(slices * parts,)](dy, x, slopes, dx, eps, *shape, parts, **constants, PART=PART)
    return dx


def _shape(x: torch.Tensor, group: int, features: int) -> tuple[tuple[int, ...], int, int, dict[str, bool]]:
    """What kernels take, the slices of all groups, the parts of a slice, and how x is stored."""
    count, channels, positions, _ = sizes(x)
    parts = triton.cdiv(channels // features * positions, PART)
    shape = group, count // group, channels, features, positions
    return shape, count // group * features, parts, {"LAST": channel_dim(channel_order(x)) != 1}
