"""Scale, shift and activation in Triton.

fwd     a tile of y
bwd     tiles of dx, and the sums of a part of the positions
finish  the sums of all parts, in a fixed order: no atomics
"""

import torch
import triton
import triton.language as tl

from fastgan import memory
from fastgan.kernels import activations
from fastgan.kernels.channels import SUM_TILES, per_channel, places, sample_channel_part, tile
from fastgan.kernels.grouped import cast, device_guard
from fastgan.ops.layout import has_per_sample_values, sizes

FINISH_CHANNELS, FINISH_WARPS = 128, 1


@triton.jit
def _scale_shift_act_fwd_kernel(x, y, scale, shift, center, channels, positions, parts, PER_SAMPLE: tl.constexpr,
                                ALPHA: tl.constexpr, ACT: tl.constexpr, LAST: tl.constexpr, CHANNELS: tl.constexpr,
                                POSITIONS: tl.constexpr):  # fmt: skip
    exact: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    sample, channel, part = sample_channel_part(channels, parts, CHANNELS)
    a = per_channel(scale, PER_SAMPLE & 1, sample, channel, channels, 1.0, exact, LAST)
    b = per_channel(shift, PER_SAMPLE & 2, sample, channel, channels, 0.0, exact, LAST)
    m = per_channel(center, PER_SAMPLE & 4, sample, channel, channels, 0.0, exact, LAST)
    position = part * POSITIONS + tl.arange(0, POSITIONS)
    at, inside = places(sample, channel, position, channels, positions, LAST)
    z = a * (tl.load(x + at, mask=inside, other=0.0).to(exact) - m) + b
    tl.store(y + at, cast(activations.value(z, ALPHA, ACT), y.dtype.element_ty), mask=inside)


@triton.jit
def _scale_shift_act_bwd_kernel(dy, x, dx, sums, scale, shift, center, linear, constant, channels, positions, parts,
                                tiles_per_part, PER_SAMPLE: tl.constexpr, ALPHA: tl.constexpr, ACT: tl.constexpr,
                                LAST: tl.constexpr, CHANNELS: tl.constexpr, POSITIONS: tl.constexpr):  # fmt: skip
    """Sums are [N, parts, 2, C]: of g, then of g (x - center)."""
    exact: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    sample, channel, part = sample_channel_part(channels, parts, CHANNELS)
    a = per_channel(scale, PER_SAMPLE & 1, sample, channel, channels, 1.0, exact, LAST)
    b = per_channel(shift, PER_SAMPLE & 2, sample, channel, channels, 0.0, exact, LAST)
    m = per_channel(center, PER_SAMPLE & 4, sample, channel, channels, 0.0, exact, LAST)
    p = per_channel(linear, PER_SAMPLE & 8, sample, channel, channels, 0.0, exact, LAST)
    q = per_channel(constant, PER_SAMPLE & 16, sample, channel, channels, 0.0, exact, LAST)
    shifts = tl.zeros([CHANNELS], exact)
    scales = tl.zeros([CHANNELS], exact)
    for i in range(tiles_per_part):
        position = (part * tiles_per_part + i) * POSITIONS + tl.arange(0, POSITIONS)
        at, inside = places(sample, channel, position, channels, positions, LAST)
        centered = tl.load(x + at, mask=inside, other=0.0).to(exact) - m
        upstream = tl.load(dy + at, mask=inside, other=0.0).to(exact)
        g = tl.where(inside, activations.chained(a * centered + b, upstream, ALPHA, ACT), 0.0)
        if dx is not None:
            tl.store(dx + at, cast(a * g + (p * centered + q), dx.dtype.element_ty), mask=inside)
        if sums is not None:
            shifts += tl.sum(g, 0 if LAST else 1)
            scales += tl.sum(tl.where(inside, g * centered, 0.0), 0 if LAST else 1)
    if sums is not None:
        to = sums + (sample * parts + part) * 2 * channels + channel
        tl.store(to, shifts, mask=channel < channels)
        tl.store(to + channels, scales, mask=channel < channels)


@triton.jit
def _scale_shift_act_finish_kernel(sums, dscale, dshift, channels, parts, CHANNELS: tl.constexpr):
    sample, channel, _ = sample_channel_part(channels, 1, CHANNELS)
    inside = channel < channels
    shifts = tl.zeros([CHANNELS], sums.dtype.element_ty)
    scales = tl.zeros([CHANNELS], sums.dtype.element_ty)
    for part in range(parts):
        at = sums + (sample * parts + part) * 2 * channels + channel
        shifts += tl.load(at, mask=inside, other=0.0)
        scales += tl.load(at + channels, mask=inside, other=0.0)
    tl.store(dshift + sample * channels + channel, shifts, mask=inside)
    tl.store(dscale + sample * channels + channel, scales, mask=inside)


def forward(
    x: torch.Tensor,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    center: torch.Tensor | None,
    act: str,
    alpha: float,
) -> torch.Tensor:
    """See `fastgan.reference.scale_shift_act.forward`; x is dense, values contiguous and of the dtype computed in."""
    y = memory.empty_like(x, x.dtype)
    if x.numel() == 0:
        return y
    count, channels, positions, last = sizes(x)
    constants = tile(x.dtype, channels, positions, last)
    parts = triton.cdiv(positions, constants["POSITIONS"])
    with device_guard(x.device):
        _scale_shift_act_fwd_kernel[(count * triton.cdiv(channels, constants["CHANNELS"]) * parts,)](
            x, y, scale, shift, center, channels, positions, parts,
            PER_SAMPLE=per_sample_bits(scale, shift, center), ALPHA=alpha, ACT=act, **constants,
        )  # fmt: skip
    return y


def backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    center: torch.Tensor | None,
    linear: torch.Tensor | None,
    constant: torch.Tensor | None,
    act: str,
    alpha: float,
    wanted: tuple[bool, bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """See `fastgan.reference.scale_shift_act.backward`; dy has the strides of x, as in `forward`."""
    count, channels, positions, last = sizes(x)
    constants = tile(x.dtype, channels, positions, last)
    tiles_per_part, parts = cut(positions, constants["POSITIONS"])
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    dx = memory.empty_like(x, x.dtype) if wanted[0] else None
    dscale = dshift = sums = None
    if wanted[1]:
        per_sample = has_per_sample_values(scale, shift, center)
        if x.numel() == 0:
            return dx, *(x.new_zeros((count, channels) if per_sample else channels, dtype=exact) for _ in range(2))
        dscale, dshift = (memory.empty((count, channels), exact, x.device) for _ in range(2))
        sums = memory.empty((count, parts, 2, channels), exact, x.device)
    if x.numel() == 0:
        return dx, None, None
    blocks = count * triton.cdiv(channels, constants["CHANNELS"])
    with device_guard(x.device):
        _scale_shift_act_bwd_kernel[(blocks * parts,)](
            dy, x, dx, sums, scale, shift, center, linear, constant, channels, positions, parts, tiles_per_part,
            PER_SAMPLE=per_sample_bits(scale, shift, center, linear, constant), ALPHA=alpha, ACT=act, **constants,
        )  # fmt: skip
        if wanted[1]:
            _scale_shift_act_finish_kernel[(count * triton.cdiv(channels, FINISH_CHANNELS),)](
                sums, dscale, dshift, channels, parts, CHANNELS=FINISH_CHANNELS, num_warps=FINISH_WARPS
            )
            if not per_sample:  # many parts in a row would take long
                dscale, dshift = dscale.sum(0), dshift.sum(0)
    return dx, dscale, dshift


def cut(positions: int, tile_positions: int) -> tuple[int, int]:
    """Tiles that a program takes one after the other, and programs to the positions of a sample."""
    tiles = max(triton.cdiv(positions, tile_positions), 1)
    parts = triton.cdiv(tiles, SUM_TILES)
    return triton.cdiv(tiles, parts), parts


def per_sample_bits(*values: torch.Tensor | None) -> int:
    """Bit i is set where the values are [N, C], and not [C] or None: one constant in place of a stride for each."""
    return sum(1 << i for i, t in enumerate(values) if t is not None and t.ndim == 2)
