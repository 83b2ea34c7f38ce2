"""Minibatch standard deviation in Triton: a program takes a tile of a slice of channels in all samples of a group.

fwd     y's copy of x, and the sum of a tile's standard deviations
finish  the statistic of a slice, tiles summed in a fixed order: no atomics
slope   sums of a slice's gradients
bwd     dx

As it is stored, x is [group, groups, rows, features, columns]: a row is a position where channels are innermost, and
otherwise a sample. The rows of y are longer by [features, inner], the places of the statistics.
"""

import torch
import triton
import triton.language as tl

from fastgan import memory
from fastgan.kernels.grouped import cast, device_guard, div, parts_of, sqrt, total
from fastgan.ops.layout import channel_dim, channel_order, sizes, with_channels

TILE, WARPS = 2048, 8
MOST_SAMPLES, MOST_COLUMNS = 32, 128  # of a tile; of columns, where there are several rows
PLACES, PLACES_WARPS = 1024, 4  # of a statistic, for one program


@triton.jit
def slice_and_part(features, parts):
    """The group, the slice of channels and the part of it that this program works on."""
    program = tl.program_id(0).to(tl.int64)
    return program // parts // features, program // parts % features, program % parts


@triton.jit
def places(m, feature, part, groups, features, rows, columns, inner, SAMPLES: tl.constexpr, ROWS: tl.constexpr,
           COLUMNS: tl.constexpr):  # fmt: skip
    """Of a tile [SAMPLES, ROWS, COLUMNS]: which rows and columns there are; in x and y: where it is, and a step.

    A step is how far away the next SAMPLES samples of the group are.
    """
    across = parts_of(columns, COLUMNS)
    row = part // across * ROWS + tl.arange(0, ROWS)[None, :, None]
    column = part % across * COLUMNS + tl.arange(0, COLUMNS)[None, None, :]
    there = (row < rows) & (column < columns)
    size = tl.full([], columns, tl.int64)  # what is 1 came as a constant, which has no `.to`
    step = tl.full([], groups, tl.int64) * rows
    row += m * rows + tl.arange(0, SAMPLES)[:, None, None] * step
    column += feature * columns
    row_of_x, row_of_y = features * size, features * (size + inner)
    step *= SAMPLES
    return there, row * row_of_x + column, step * row_of_x, row * row_of_y + column, step * row_of_y


@triton.jit
def inside_group(block, there, group, SAMPLES: tl.constexpr):
    """Which values of a block of SAMPLES samples of a group there are."""
    return there & (block * SAMPLES + tl.arange(0, SAMPLES).to(tl.int64)[:, None, None] < group)


@triton.jit
def statistics(x, step, there, group, blocks, EPS: tl.constexpr, SAMPLES: tl.constexpr, EXACT: tl.constexpr):
    """The mean over the group, and the standard deviation, [1, ROWS, COLUMNS].

    The values of one block are loaded once: the compiler joins equal loads that no store is between.
    """
    sums = tl.zeros(there.shape, EXACT)
    squares = tl.zeros(there.shape, EXACT)
    share = div(tl.full([], 1.0, EXACT), tl.full([], group, EXACT))
    for block in range(blocks):
        inside = inside_group(block, there, group, SAMPLES)
        sums += tl.sum(tl.load(x + block * step, mask=inside, other=0.0).to(EXACT), 0, keep_dims=True)
    mean = sums * share
    for block in range(blocks):
        inside = inside_group(block, there, group, SAMPLES)
        distance = tl.load(x + block * step, mask=inside, other=0.0).to(EXACT) - mean
        squares += tl.sum(tl.where(inside, distance * distance, 0.0), 0, keep_dims=True)
    return mean, sqrt(squares * share + EPS)


@triton.jit
def _minibatch_stddev_fwd_kernel(x, y, sums, group, blocks, groups, features, rows, columns, inner, parts,
                                 EPS: tl.constexpr, SAMPLES: tl.constexpr, ROWS: tl.constexpr,
                                 COLUMNS: tl.constexpr):  # fmt: skip
    exact: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    m, feature, part = slice_and_part(features, parts)
    there, in_x, step, in_y, step_of_y = places(m, feature, part, groups, features, rows, columns, inner, SAMPLES,
                                                ROWS, COLUMNS)  # fmt: skip
    _, deviation = statistics(x + in_x, step, there, group, blocks, EPS, SAMPLES, exact)
    result = tl.sum(tl.sum(tl.sum(tl.where(there, deviation, 0.0), 2), 1), 0)
    for block in range(blocks):
        inside = inside_group(block, there, group, SAMPLES)
        values = tl.load(x + in_x + block * step, mask=inside, other=0.0)
        tl.store(y + in_y + block * step_of_y, values, mask=inside)
    tl.store(sums + tl.program_id(0), result.to(tl.float64))


@triton.jit
def places_of_statistic(m, feature, part, group, groups, features, rows, columns, inner, PLACES: tl.constexpr):
    """Where a part of a slice's statistic is in y [PLACES], and which of it there is."""
    i = part * PLACES + tl.arange(0, PLACES)
    row = (i // inner // rows * groups + m) * rows + i // inner % rows
    size = tl.full([], columns, tl.int64)
    at = row * features * (size + inner) + features * size + feature * inner + i % inner
    return at, i < tl.full([], group, tl.int64) * rows * inner


@triton.jit
def _minibatch_stddev_finish_kernel(sums, y, group, groups, features, rows, columns, inner, parts, place_parts,
                                    PLACES: tl.constexpr):  # fmt: skip
    m, feature, part = slice_and_part(features, place_parts)
    size = tl.full([], columns, tl.float64) * rows
    mean = total(sums + (m * features + feature) * parts, parts) / size
    at, inside = places_of_statistic(m, feature, part, group, groups, features, rows, columns, inner, PLACES)
    tl.store(y + at, tl.zeros([PLACES], y.dtype.element_ty) + cast(mean, y.dtype.element_ty), mask=inside)


@triton.jit
def _minibatch_stddev_slope_kernel(dy, slopes, group, groups, features, rows, columns, inner, place_parts,
                                   PLACES: tl.constexpr):  # fmt: skip
    exact: tl.constexpr = tl.float64 if dy.dtype.element_ty == tl.float64 else tl.float32
    m, feature, part = slice_and_part(features, place_parts)
    at, inside = places_of_statistic(m, feature, part, group, groups, features, rows, columns, inner, PLACES)
    result = tl.sum(tl.load(dy + at, mask=inside, other=0.0).to(exact), 0).to(tl.float64)
    size = tl.full([], columns, tl.float64) * rows * group
    tl.store(slopes + tl.program_id(0), result / size)


@triton.jit
def _minibatch_stddev_bwd_kernel(dy, x, slopes, dx, group, blocks, groups, features, rows, columns, inner, parts,
                                 EPS: tl.constexpr, SAMPLES: tl.constexpr, ROWS: tl.constexpr,
                                 COLUMNS: tl.constexpr):  # fmt: skip
    exact: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    m, feature, part = slice_and_part(features, parts)
    there, in_x, step, in_y, step_of_y = places(m, feature, part, groups, features, rows, columns, inner, SAMPLES,
                                                ROWS, COLUMNS)  # fmt: skip
    mean, deviation = statistics(x + in_x, step, there, group, blocks, EPS, SAMPLES, exact)
    slope = tl.load(slopes + m * features + feature).to(exact)
    factor = div(tl.zeros(there.shape, exact) + slope, deviation)
    for block in range(blocks):
        inside = inside_group(block, there, group, SAMPLES)
        distance = tl.load(x + in_x + block * step, mask=inside, other=0.0).to(exact) - mean
        upstream = tl.load(dy + in_y + block * step_of_y, mask=inside, other=0.0).to(exact)
        tl.store(dx + in_x + block * step, cast(upstream + factor * distance, dx.dtype.element_ty), mask=inside)


def tile(dtype: torch.dtype, group: int, rows: int, columns: int) -> dict[str, int]:
    """The constants SAMPLES, ROWS and COLUMNS, and the warps: all samples of a group of up to MOST_SAMPLES."""
    samples = min(triton.next_power_of_2(group), MOST_SAMPLES)
    room = TILE // samples // (2 if dtype == torch.float64 else 1)
    across = min(triton.next_power_of_2(columns), room, room if rows == 1 else MOST_COLUMNS)
    return {
        "SAMPLES": samples,
        "ROWS": min(triton.next_power_of_2(rows), room // across),
        "COLUMNS": across,
        "num_warps": WARPS,
    }


def forward(x: torch.Tensor, group: int, features: int, eps: float) -> torch.Tensor:
    """See `fastgan.reference.minibatch_stddev.forward`; x is dense, its channels outermost or innermost."""
    y = memory.empty_strided(*with_channels(x, x.shape[1] + features), x.dtype, x.device)
    if y.numel() == 0:
        return y
    shape = stored(x, group, features)
    slices, parts, place_parts, tiling = plan(x.dtype, **shape)
    sums = memory.empty((slices, parts), torch.float64, x.device)
    with device_guard(x.device):
        _minibatch_stddev_fwd_kernel[(slices * parts,)](x, y, sums, **shape, parts=parts, EPS=eps, **tiling)
        _minibatch_stddev_finish_kernel[(slices * place_parts,)](
            sums, y, **shape, parts=parts, place_parts=place_parts, PLACES=PLACES, num_warps=PLACES_WARPS
        )
    return y


def backward(dy: torch.Tensor, x: torch.Tensor, group: int, features: int, eps: float) -> torch.Tensor:
    """See `fastgan.reference.minibatch_stddev.backward`; dy has the layout of the forward's result."""
    dx = memory.empty_like(x, x.dtype)
    if dx.numel() == 0:
        return dx
    shape = stored(x, group, features)
    slices, parts, place_parts, tiling = plan(x.dtype, **shape)
    slopes = memory.empty((slices, place_parts), torch.float64, x.device)
    with device_guard(x.device):
        _minibatch_stddev_slope_kernel[(slices * place_parts,)](
            dy, slopes, **shape, place_parts=place_parts, PLACES=PLACES, num_warps=PLACES_WARPS
        )
        if place_parts > 1:
            slopes = slopes.sum(1)
        _minibatch_stddev_bwd_kernel[(slices * parts,)](dy, x, slopes, dx, **shape, parts=parts, EPS=eps, **tiling)
    return dx


def stored(x: torch.Tensor, group: int, features: int) -> dict[str, int]:
    """The sizes that every kernel takes; the head of this file says what they are."""
    count, channels, positions, _ = sizes(x)
    last = channel_dim(channel_order(x)) != 1
    rows, inner = (positions, 1) if last else (1, positions)
    columns = channels // features * inner
    return {
        "group": group,
        "groups": count // group,
        "features": features,
        "rows": rows,
        "columns": columns,
        "inner": inner,
    }


def plan(
    dtype: torch.dtype, group: int, groups: int, features: int, rows: int, columns: int, inner: int
) -> tuple[int, int, int, dict[str, int]]:
    """Slices of all groups, tiles of a slice, parts of a slice's statistic, and what kernels of tiles take."""
    tiling = tile(dtype, group, rows, columns)
    parts = triton.cdiv(rows, tiling["ROWS"]) * triton.cdiv(columns, tiling["COLUMNS"])
    place_parts = triton.cdiv(group * rows * inner, PLACES)
    return groups * features, parts, place_parts, tiling | {"blocks": triton.cdiv(group, tiling["SAMPLES"])}
