"""FIR resampling of images in Triton: every output gathers the inputs that its taps meet, none of the inserted zeros.

x and y are [planes, rows, columns, inner], see `fastgan.filters.Plan`. A program takes a tile of PIXELS
outputs, taken as [planes * rows * columns], times CHANNELS of their inner values.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from fastgan import filters
from fastgan.filters import Resampling
from fastgan.kernels import activations
from fastgan.kernels.bias_act import rounded
from fastgan.kernels.grouped import TRITON_DTYPES, cast, device_guard, parts_of

TILE, MOST_CHANNELS, WARPS = 512, 64, 4


@triton.jit
def reach(o, up, down, taps, pad):
    """The first tap of outputs o, and the input that it meets; see `reach` in csrc/upfirdn2d.h."""
    at = o * down - pad
    tap = (up - at % up) % up
    return tap, (at + tap) // up


@triton.jit
def _upfirdn2d_kernel(x, y, fy, fx, b, pixels, inner, channels, in_rows, in_columns, out_rows, out_columns,
                      pad_y, pad_x, TAPS_Y: tl.constexpr, TAPS_X: tl.constexpr, UP_Y: tl.constexpr,
                      UP_X: tl.constexpr, DOWN_Y: tl.constexpr, DOWN_X: tl.constexpr, FLIP: tl.constexpr,
                      GAIN: tl.constexpr,
                      ACT: tl.constexpr, ALPHA: tl.constexpr, ACT_GAIN: tl.constexpr, CLAMP: tl.constexpr,
                      DTYPE: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):  # fmt: skip
    parts = parts_of(inner, CHANNELS)
    program = tl.program_id(0).to(tl.int64)
    pixel = program // parts * PIXELS + tl.arange(0, PIXELS)
    channel = program % parts * CHANNELS + tl.arange(0, CHANNELS)
    inside = (pixel < pixels)[:, None] & (channel < inner)[None, :]
    plane = pixel // out_columns // out_rows
    tap_y, row = reach(pixel // out_columns % out_rows, UP_Y, DOWN_Y, TAPS_Y, pad_y)
    tap_x, column = reach(pixel % out_columns, UP_X, DOWN_X, TAPS_X, pad_x)
    acc: tl.constexpr = tl.float64 if tl.float64 == DTYPE else tl.float32
    sums = tl.zeros([PIXELS, CHANNELS], acc)
    if b is not None:
        # Planes of one channel each, or pixels of all of them.
        of = plane * inner % channels
        sums += tl.load(b + of[:, None] + channel[None, :], mask=inside, other=0.0).to(acc)
    for s in range((TAPS_Y - 1) // UP_Y + 1):
        j = tap_y + s * UP_Y
        row_there = (j < TAPS_Y) & (row + s >= 0) & (row + s < in_rows)
        stored_y = j if FLIP else TAPS_Y - 1 - j
        for t in range((TAPS_X - 1) // UP_X + 1):
            i = tap_x + t * UP_X
            there = row_there & (i < TAPS_X) & (column + t >= 0) & (column + t < in_columns)
            stored_x = i if FLIP else TAPS_X - 1 - i
            if fx is None:
                w = tl.load(fy + stored_y * TAPS_X + stored_x, mask=there, other=0.0).to(acc)
            else:
                w = tl.load(fy + stored_y, mask=there, other=0.0).to(acc)
                w *= tl.load(fx + stored_x, mask=there, other=0.0).to(acc)
            w *= GAIN
            at = ((plane * in_rows + row + s) * in_columns + column + t) * inner
            numbers = tl.load(x + at[:, None] + channel[None, :], mask=inside & there[:, None], other=0.0)
            sums += w[:, None] * numbers.to(acc)
    if ACT is not None:
        sums = ACT_GAIN * activations.value(sums, ALPHA, ACT)
        if CLAMP is not None:
            limit = tl.full(sums.shape, CLAMP, acc)
            sums = tl.where(sums > limit, limit, tl.where(sums < -limit, -limit, sums))
    tl.store(y + pixel[:, None] * inner + channel[None, :], cast(sums, DTYPE), mask=inside)


def tile(inner: int) -> dict[str, int]:
    """The constants PIXELS and CHANNELS, and the warps."""
    channels = min(triton.next_power_of_2(inner), MOST_CHANNELS)
    return {"PIXELS": TILE // channels, "CHANNELS": channels, "num_warps": WARPS}


def constants(rows: filters.Axis, columns: filters.Axis) -> dict[str, int]:
    """What a kernel is compiled for."""
    return {
        f"{name}_{letter}": getattr(axis, name.lower())
        for name in ("TAPS", "UP", "DOWN")
        for letter, axis in (("Y", rows), ("X", columns))
    }


def forward(x: torch.Tensor, f: torch.Tensor, how: Resampling) -> torch.Tensor:
    """See `fastgan.reference.upfirdn2d.forward`; x is contiguous or channels_last, f contiguous."""
    return _launch(x, f, None, how, None, 0, 1, None)


def forward_bias_act(
    x: torch.Tensor, f: torch.Tensor, b: torch.Tensor | None, how: Resampling, activation: Sequence
) -> torch.Tensor:
    """See `fastgan.reference.upfirdn2d.forward_bias_act`; the same, and b in the dtype that is computed in."""
    return _launch(x, f, b, how, *activation)


def _launch(
    x: torch.Tensor,
    f: torch.Tensor,
    b: torch.Tensor | None,
    how: Resampling,
    act: str | None,
    alpha: float,
    act_gain: float,
    clamp: float | None,
) -> torch.Tensor:
    up, down, padding, flip_filter, gain, channels_last = how
    inside = filters.channels_inside(x)
    written = inside if x.numel() else filters.output_inside(x, channels_last)
    rows, columns, planes, inner, shape, strides = filters.plan(
        x.shape, f.shape, tuple(up), tuple(down), tuple(padding), inside, written
    )
    y = torch.empty_strided(shape, strides, dtype=x.dtype, device=x.device)
    if y.numel() == 0:
        return y
    fy, fx = (f, f) if f.ndim == 1 else (f, None)
    sizes, pixels = tile(inner), planes * rows.out * columns.out
    grid = triton.cdiv(pixels, sizes["PIXELS"]) * triton.cdiv(inner, sizes["CHANNELS"])
    after = {"ACT": act, "ALPHA": alpha, "ACT_GAIN": act_gain}
    after["CLAMP"] = None if clamp is None else rounded(clamp, x.dtype)
    with device_guard(x.device):
        _upfirdn2d_kernel[(grid,)](
            x, y, fy, fx, b, pixels, inner, x.shape[1], rows.size, columns.size, rows.out, columns.out,
            rows.pad, columns.pad, **constants(rows, columns), FLIP=flip_filter, GAIN=gain,
            **after, DTYPE=TRITON_DTYPES[x.dtype], **sizes,
        )  # fmt: skip
    return y if channels_last is None else y.contiguous(memory_format=filters.memory_format(channels_last))
