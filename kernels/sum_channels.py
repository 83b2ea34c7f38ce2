"""Sums over all dimensions but that of the channels in Triton.

fwd     some channels in some of the rows of [outer, channels, inner]
finish  the sums of the parts, float64, taken in a fixed order: no atomics
"""

import torch
import triton
import triton.language as tl

from fastgan import memory
from fastgan.kernels.grouped import device_guard, parts_of
from fastgan.ops.layout import along

TILE, WARPS = 4096, 8
MOST_INNER, MOST_CHANNELS = 2048, 256  # of a tile
PROGRAMS, ROUNDS = 1024, 4  # as many programs as this, if each then has so many tiles
FINISH_CHANNELS, FINISH_WARPS = 128, 1


@triton.jit
def _sum_channels_fwd_kernel(x, sums, outer, channels, inner, parts, rounds, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
                             INNER: tl.constexpr):  # fmt: skip
    acc: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    program = tl.program_id(0).to(tl.int64)
    part = program % parts
    c = program // parts * CHANNELS + tl.arange(0, CHANNELS)
    total = tl.zeros([ROWS, CHANNELS, INNER], acc)
    for i in range(rounds):
        row = (part * rounds + i) * ROWS + tl.arange(0, ROWS)
        for block in range(parts_of(inner, INNER)):
            j = block * INNER + tl.arange(0, INNER)
            inside = (row < outer)[:, None, None] & (c < channels)[None, :, None] & (j < inner)[None, None, :]
            at = (row[:, None, None] * channels + c[None, :, None]) * inner + j[None, None, :]
            total += tl.load(x + at, mask=inside, other=0.0).to(acc)
    tl.store(sums + part * channels + c, tl.sum(tl.sum(total.to(tl.float64), 2), 0), mask=c < channels)


@triton.jit
def _sum_channels_finish_kernel(partial, sums, channels, parts, CHANNELS: tl.constexpr):
    c = tl.program_id(0).to(tl.int64) * CHANNELS + tl.arange(0, CHANNELS)
    total = tl.zeros([CHANNELS], partial.dtype.element_ty)
    row = partial + c
    for _ in range(parts):
        total += tl.load(row, mask=c < channels, other=0.0)
        row += channels
    tl.store(sums + c, total, mask=c < channels)


def tile(count: int, inner: int) -> dict[str, int]:
    """The constants ROWS, CHANNELS and INNER."""
    block = min(triton.next_power_of_2(max(inner, 1)), MOST_INNER)
    across = min(triton.next_power_of_2(max(count, 1)), MOST_CHANNELS, TILE // block)
    return {"ROWS": TILE // block // across, "CHANNELS": across, "INNER": block}


def forward(x: torch.Tensor, dim: int) -> torch.Tensor:
    """See `fastgan.reference.sum_channels.forward`; x is dense."""
    acc = torch.float64 if x.dtype == torch.float64 else torch.float32
    outer, count, inner = along(x, dim)
    if x.numel() == 0:
        return x.new_zeros(count, dtype=acc)
    sizes = tile(count, inner)
    blocks, rows = triton.cdiv(count, sizes["CHANNELS"]), triton.cdiv(outer, sizes["ROWS"])
    parts = max(min(triton.cdiv(PROGRAMS, blocks), rows // ROUNDS), 1)
    rounds = triton.cdiv(rows, parts)
    parts = triton.cdiv(rows, rounds)
    partial = memory.empty((parts, count), torch.float64, x.device)
    sums = memory.empty((count,), acc, x.device)
    with device_guard(x.device):
        _sum_channels_fwd_kernel[(blocks * parts,)](
            x, partial, outer, count, inner, parts, rounds, **sizes, num_warps=WARPS
        )
        _sum_channels_finish_kernel[(triton.cdiv(count, FINISH_CHANNELS),)](
            partial, sums, count, parts, CHANNELS=FINISH_CHANNELS, num_warps=FINISH_WARPS
        )
    return sums
