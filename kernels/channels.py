"""How Triton programs share out a tensor with channels, [N, C, ...] or with the channels innermost.

A program takes a tile of POSITIONS times CHANNELS values of one sample: along the positions where they are
adjacent, along the channels where those are.
"""

import torch
import triton
import triton.language as tl

from fastgan.kernels.grouped import parts_of

WARPS = 8
SUM_TILES = 8  # most tiles that a program sums one after the other


def tile(dtype: torch.dtype, channels: int, positions: int, last: bool) -> dict[str, int]:
    """The constants CHANNELS, POSITIONS and LAST, and the warps."""
    elements = 1024 if dtype == torch.float64 else 2048  # what registers hold, so that two programs run at a time
    if last:
        columns = min(triton.next_power_of_2(max(channels, 1)), 128)
        rows = min(triton.next_power_of_2(max(positions, 1)), elements // columns)
    else:
        rows = min(triton.next_power_of_2(max(positions, 1)), 1024)
        columns = min(triton.next_power_of_2(max(channels, 1)), elements // rows)
    return {"CHANNELS": columns, "POSITIONS": rows, "LAST": last, "num_warps": WARPS}


@triton.jit
def sample_channel_part(channels, parts, CHANNELS: tl.constexpr):
    """The sample of this program, its channels [CHANNELS], and the number of its part of the positions."""
    program = tl.program_id(0).to(tl.int64)
    blocks = parts_of(channels, CHANNELS)
    part = program % parts
    block = program // parts % blocks
    return program // parts // blocks, block * CHANNELS + tl.arange(0, CHANNELS), part


@triton.jit
def places(sample, channel, position, channels, positions, LAST: tl.constexpr):
    """Where the values of a tile are, [POSITIONS, CHANNELS] or [CHANNELS, POSITIONS], and which there are."""
    if LAST:
        at = (sample * positions + position[:, None]) * channels + channel[None, :]
        inside = (position < positions)[:, None] & (channel < channels)[None, :]
    else:
        at = (sample * channels + channel[:, None]) * positions + position[None, :]
        inside = (channel < channels)[:, None] & (position < positions)[None, :]
    return at, inside


@triton.jit
def across(values, LAST: tl.constexpr):
    """Values per channel in the shape that multiplies a tile."""
    return values[None, :] if LAST else values[:, None]


@triton.jit
def per_channel(values, PER_SAMPLE: tl.constexpr, sample, channel, channels, otherwise, DTYPE: tl.constexpr,
                LAST: tl.constexpr):  # fmt: skip
    """Values [C], or [N, C] where PER_SAMPLE, or the constant that None stands for; shaped to multiply a tile."""
    if values is None:
        result = tl.full(channel.shape, otherwise, DTYPE)
    else:
        row = sample * channels if PER_SAMPLE else 0
        result = tl.load(values + row + channel, mask=channel < channels, other=0.0)
    return across(result, LAST)
