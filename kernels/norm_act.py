"""Mean and variance of channels in Triton.

fwd     of a part of the positions: tiles one after the other, each about its own mean
finish  of all parts, in a fixed order: no atomics
"""

import torch
import triton
import triton.language as tl

from fastgan import memory
from fastgan.kernels.channels import across, places, sample_channel_part, tile
from fastgan.kernels.grouped import device_guard, div
from fastgan.kernels.scale_shift_act import cut
from fastgan.ops.layout import sizes

FINISH_PARTS, FINISH_CHANNELS, FINISH_WARPS = 32, 32, 4


@triton.jit
def _norm_act_fwd_kernel(x, moments, channels, positions, parts, tiles_per_part, EXACT: tl.constexpr,
                         LAST: tl.constexpr, CHANNELS: tl.constexpr, POSITIONS: tl.constexpr):  # fmt: skip
    """Moments are [N, parts, 2, C]: the mean, then the sum of squares about it."""
    sample, channel, part = sample_channel_part(channels, parts, CHANNELS)
    mean = tl.zeros([CHANNELS], EXACT)
    squares = tl.zeros([CHANNELS], EXACT)
    first = part * tiles_per_part * POSITIONS
    for i in range(tiles_per_part):
        start = first + i * POSITIONS
        at, inside = places(sample, channel, start + tl.arange(0, POSITIONS), channels, positions, LAST)
        values = tl.load(x + at, mask=inside, other=0.0).to(EXACT)
        count = tl.maximum(tl.minimum(positions - start, POSITIONS), 0).to(EXACT)
        before = (tl.minimum(start, positions) - first).to(EXACT)
        tile_mean = div(tl.sum(values, 0 if LAST else 1), mean * 0.0 + tl.maximum(count, 1.0))
        distance = tl.where(inside, values - across(tile_mean, LAST), 0.0)
        share = div(mean * 0.0 + count, mean * 0.0 + tl.maximum(before + count, 1.0))
        step = tile_mean - mean
        squares += tl.sum(distance * distance, 0 if LAST else 1) + step * step * (before * share)
        mean += step * share
    to = moments + (sample * parts + part) * 2 * channels + channel
    tl.store(to, mean, mask=channel < channels)
    tl.store(to + channels, squares, mask=channel < channels)


@triton.jit
def _norm_act_finish_kernel(moments, mean_of, var_of, channels, positions, parts, part_size, samples,
                            PARTS: tl.constexpr, CHANNELS: tl.constexpr):  # fmt: skip
    """Of `samples` samples at a time."""
    acc: tl.constexpr = moments.dtype.element_ty
    group, channel, _ = sample_channel_part(channels, 1, CHANNELS)
    row = tl.arange(0, PARTS)
    # What is 1 came as a constant, which has no `.to`.
    all_parts = tl.full([], samples, tl.int64) * parts
    from_here = moments + group * all_parts * 2 * channels + channel[None, :]
    sums = tl.zeros([PARTS, CHANNELS], acc)
    for start in range(0, all_parts, PARTS):
        part = start + row
        inside = (part < all_parts)[:, None] & (channel < channels)[None, :]
        count = tl.minimum(positions - part % parts * part_size, part_size).to(acc)
        sums += count[:, None] * tl.load(from_here + part[:, None] * 2 * channels, mask=inside, other=0.0)
    total = tl.zeros([CHANNELS], acc) + tl.full([], samples, acc) * positions
    mean = div(tl.sum(sums, 0), total)
    sums = tl.zeros([PARTS, CHANNELS], acc)
    for start in range(0, all_parts, PARTS):
        part = start + row
        inside = (part < all_parts)[:, None] & (channel < channels)[None, :]
        count = tl.minimum(positions - part % parts * part_size, part_size).to(acc)
        at = from_here + part[:, None] * 2 * channels
        distance = tl.load(at, mask=inside, other=0.0) - mean[None, :]
        squares = tl.load(at + channels, mask=inside, other=0.0) + count[:, None] * distance * distance
        sums += tl.where(inside, squares, 0.0)
    tl.store(mean_of + group * channels + channel, mean, mask=channel < channels)
    tl.store(var_of + group * channels + channel, div(tl.sum(sums, 0), total), mask=channel < channels)


def statistics(x: torch.Tensor, per_sample: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """See `fastgan.reference.norm_act.statistics`; x is dense."""
    count, channels, positions, last = sizes(x)
    exact, exact_triton = (torch.float64, tl.float64) if x.dtype == torch.float64 else (torch.float32, tl.float32)
    shape = (count, channels) if per_sample else (channels,)
    mean, var = (memory.empty(shape, exact, x.device) for _ in range(2))
    constants = tile(x.dtype, channels, positions, last)
    tiles_per_part, parts = cut(positions, constants["POSITIONS"])
    moments = memory.empty((count, parts, 2, channels), exact, x.device)
    groups, samples = (count, 1) if per_sample else (1, count)
    with device_guard(x.device):
        _norm_act_fwd_kernel[(count * triton.cdiv(channels, constants["CHANNELS"]) * parts,)](
            x,
            moments,
            channels,
            positions,
            parts,
            tiles_per_part,
            EXACT=exact_triton,
            **constants,
        )
        _norm_act_finish_kernel[(groups * triton.cdiv(channels, FINISH_CHANNELS),)](
            moments, mean, var, channels, positions, parts, tiles_per_part * constants["POSITIONS"], samples,
            PARTS=FINISH_PARTS, CHANNELS=FINISH_CHANNELS, num_warps=FINISH_WARPS,
        )  # fmt: skip
    return mean, var
