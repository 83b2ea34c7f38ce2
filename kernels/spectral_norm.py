"""Spectral norm of many matrices in Triton: one launch per phase, however many matrices there are.

Forward, per matrix W [m, n] (what is between bars is floored at eps before it divides):

    pass     one tile of rows:  t = W v;  partial[tile] = t_tile^T W_tile;  t_squares[tile] = |t_tile|^2
    combine  one block of columns:  p = (sum of partial) / |t|;  p_squares[block] = |p_block|^2
    write    one tile of rows:  u = t/|t|;  v = p/|p|;  sigma = <v, p> = |p|^2/|p|;  W_hat = W/sigma

The pass also runs with one of its halves only: v first starts with p = W^T u and ends with t = W v, sigma = |t|^2/|t|;
evaluation has t alone, sigma = <u, t>.

Backward, with u and v constant:

    dot      one tile of rows:  dots[tile] = <dW_hat_tile, W_tile>
    write    one tile of rows:  dW = (dW_hat + (dsigma sigma - <dW_hat, W>/sigma) u v^T)/sigma

A sum over tiles or blocks is taken in a fixed order by everyone who needs it: no atomics, no barriers between programs.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from fastgan import memory
from fastgan.kernels.grouped import (
    TRITON_DTYPES,
    cast,
    device_guard,
    div,
    pointer,
    pointer_table,
    program_entry,
    program_table,
    sqrt,
    total,
)

# The block sizes. A tile has few rows, so that it stays in the L2 cache between the two halves of a pass, and enough of
# them to keep the partial sums, one row per tile, small beside W. In a pass a thread holds one vector of every row, so
# that a sum over the rows is its own affair. The rest has no such sums, and saves registers with a shorter block.
TILE_ROWS, TILE_WARPS = 8, 8
VECTOR = tl.constexpr(4)
WRITE_COLUMNS = 512
COMBINE_TILES, COMBINE_COLUMNS, COMBINE_WARPS = 32, 128, 4


def pass_columns(dtype: torch.dtype) -> int:
    """The columns that a tile's threads hold at once."""
    return 512 if dtype == torch.float64 else 1024


# The columns of the table of layers: sizes, then offsets into the workspace.
M, N, TILES, BLOCKS, T_SQUARES, P_SQUARES, T, P, PARTIALS, FIELDS = (tl.constexpr(i) for i in range(10))


@triton.jit
def _floored_norm(square, EPS: tl.constexpr):
    norm = sqrt(square)
    # Not `tl.maximum`, which would turn NaN into eps.
    return tl.where(norm < EPS, EPS, norm)


@triton.jit
def _pass_tile(w, u, v, v_norm, t, t_square, partial, first_row, m, n, DTYPE: tl.constexpr, ROWS: tl.constexpr,
               COLUMNS: tl.constexpr, FIRST: tl.constexpr, TRAINING: tl.constexpr, VECTOR: tl.constexpr,
               TILE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """ROWS: t = W v / v_norm, else t is u; COLUMNS: partial = t^T W."""
    acc: tl.constexpr = t.dtype.element_ty
    n = n // VECTOR * VECTOR
    row = first_row + tl.arange(0, TILE)
    column = tl.arange(0, BLOCK)
    in_rows = row < m
    tile = pointer(w, DTYPE, VECTOR) + row[:, None] * n + column[None, :]
    if ROWS:
        v_column = (pointer(v, DTYPE, VECTOR) if FIRST else v) + column
        products = tl.zeros([TILE, BLOCK], acc)
        for start in range(0, n, BLOCK):
            inside = start + column < n
            x = tl.load(tile + start, mask=in_rows[:, None] & inside[None, :], other=0.0)
            y = tl.load(v_column + start, mask=inside, other=0.0)
            products += x.to(acc) * y.to(acc)[None, :]
        c = tl.where(in_rows, div(tl.sum(products, 1), v_norm), 0.0)
    else:
        c = tl.load(pointer(u, DTYPE, 1) + row, mask=in_rows, other=0.0).to(acc)
    if ROWS and TRAINING:
        tl.store(t + row, c, mask=in_rows)
        tl.store(t_square, tl.sum(c * c, 0))
    if not TRAINING:
        tl.store(t_square, tl.sum(c * tl.load(pointer(u, DTYPE, 1) + row, mask=in_rows, other=0.0).to(acc), 0))
    if COLUMNS:
        blocks = tl.cdiv(n, BLOCK)
        for done in range(blocks):
            # Backwards: the end of the tile was read last, so it is still in the cache.
            start = (blocks - 1 - done) * BLOCK
            inside = start + column < n
            x = tl.load(tile + start, mask=in_rows[:, None] & inside[None, :], other=0.0)
            tl.store(partial + start + column, tl.sum(x.to(acc) * c[:, None], 0), mask=inside)


@triton.jit
def _spectral_norm_pass_kernel(pointers, programs, layers, work, DTYPE: tl.constexpr, EPS: tl.constexpr,
                               ROWS: tl.constexpr, COLUMNS: tl.constexpr, FIRST: tl.constexpr, TRAINING: tl.constexpr,
                               TILE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """FIRST: v is the one that was given, else the p that the last combine left in the workspace."""
    index, tile = program_entry(programs)
    w, u = tl.load(pointers + 6 * index), tl.load(pointers + 6 * index + 1)
    layer = layers + FIELDS * index
    m, n = tl.load(layer + M), tl.load(layer + N)
    t = work + tl.load(layer + T)
    t_square = work + tl.load(layer + T_SQUARES) + tile
    partial = work + tl.multiple_of(tl.load(layer + PARTIALS), VECTOR) + tile * (tl.cdiv(n, VECTOR) * VECTOR)
    v_norm = tl.full([], 1.0, work.dtype.element_ty)
    if FIRST:
        v = tl.load(pointers + 6 * index + 2)
        aligned = (w | v) % 16 + n % VECTOR == 0
    else:
        v = work + tl.multiple_of(tl.load(layer + P), VECTOR)
        aligned = w % 16 + n % VECTOR == 0
    if ROWS and not FIRST:
        v_norm = _floored_norm(total(work + tl.load(layer + P_SQUARES), tl.load(layer + BLOCKS)), EPS)
    if aligned:
        _pass_tile(w, u, v, v_norm, t, t_square, partial, tile * TILE, m, n,
                   DTYPE, ROWS, COLUMNS, FIRST, TRAINING, VECTOR, TILE, BLOCK)  # fmt: skip
    else:
        _pass_tile(w, u, v, v_norm, t, t_square, partial, tile * TILE, m, n,
                   DTYPE, ROWS, COLUMNS, FIRST, TRAINING, 1, TILE, BLOCK)  # fmt: skip


@triton.jit
def _spectral_norm_combine_kernel(programs, layers, work, EPS: tl.constexpr, BY_T: tl.constexpr,
                                  COMBINED: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """BY_T: the rows were weighted with t, which is not normalised; otherwise with the u that was given."""
    index, block = program_entry(programs)
    layer = layers + FIELDS * index
    n, tiles = tl.load(layer + N), tl.load(layer + TILES)
    pitch = tl.cdiv(n, VECTOR) * VECTOR
    column = block * BLOCK + tl.arange(0, BLOCK)
    partial = work + tl.multiple_of(tl.load(layer + PARTIALS), VECTOR) + column[None, :]
    sums = tl.zeros([COMBINED, BLOCK], work.dtype.element_ty)
    for start in range(0, tiles, COMBINED):
        tile = start + tl.arange(0, COMBINED)
        inside = (tile < tiles)[:, None] & (column < pitch)[None, :]
        sums += tl.load(partial + tile[:, None] * pitch, mask=inside, other=0.0)
    # The columns between n and pitch were never written.
    p = tl.where(column < n, tl.sum(sums, 0), 0.0)
    if BY_T:
        p = div(p, _floored_norm(total(work + tl.load(layer + T_SQUARES), tiles), EPS))
    tl.store(work + tl.load(layer + P) + column, p, mask=column < n)
    tl.store(work + tl.load(layer + P_SQUARES) + block, tl.sum(p * p, 0))


@triton.jit
def _write_tile(w, w_hat, sigma, first_row, m, n, DTYPE: tl.constexpr, OUT_DTYPE: tl.constexpr, VECTOR: tl.constexpr,
                TILE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    n = n // VECTOR * VECTOR
    row = first_row + tl.arange(0, TILE)
    column = tl.arange(0, BLOCK)
    tile = row[:, None] * n + column[None, :]
    w_tile, w_hat_tile = pointer(w, DTYPE, VECTOR) + tile, pointer(w_hat, OUT_DTYPE, VECTOR) + tile
    for start in range(0, n, BLOCK):
        inside = (row < m)[:, None] & (start + column < n)[None, :]
        x = tl.load(w_tile + start, mask=inside, other=0.0).to(sigma.dtype)
        tl.store(w_hat_tile + start, cast(div(x, sigma), OUT_DTYPE), mask=inside)


@triton.jit
def _spectral_norm_write_kernel(pointers, programs, layers, work, sigmas, DTYPE: tl.constexpr, OUT_DTYPE: tl.constexpr,
                                EPS: tl.constexpr, TRAINING: tl.constexpr, U_FIRST: tl.constexpr,
                                TILE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    index, tile = program_entry(programs)
    entry = pointers + 6 * index
    w, w_hat = tl.load(entry), tl.load(entry + 3)
    new_u, new_v = pointer(tl.load(entry + 4), DTYPE, 1), pointer(tl.load(entry + 5), DTYPE, 1)
    layer = layers + FIELDS * index
    m, n, tiles = tl.load(layer + M), tl.load(layer + N), tl.load(layer + TILES)
    row = tile * TILE + tl.arange(0, TILE)
    column = tl.arange(0, BLOCK)
    t_square = total(work + tl.load(layer + T_SQUARES), tiles)
    if TRAINING:
        p_square = total(work + tl.load(layer + P_SQUARES), tl.load(layer + BLOCKS))
        t_norm, p_norm = _floored_norm(t_square, EPS), _floored_norm(p_square, EPS)
        sigma = div(p_square, p_norm) if U_FIRST else div(t_square, t_norm)
        u, v = work + tl.load(layer + T), work + tl.load(layer + P)
    else:
        sigma = t_square
        u, v = pointer(tl.load(entry + 1), DTYPE, 1), pointer(tl.load(entry + 2), DTYPE, 1)
    if tile == 0:
        tl.store(sigmas + index, sigma)
    t = tl.load(u + row, mask=row < m, other=0.0)
    tl.store(new_u + row, cast(div(t, t_norm), DTYPE) if TRAINING else t, mask=row < m)
    # The layer's tiles share out the blocks of v.
    for start in range(tile * BLOCK, n, tiles * BLOCK):
        p = tl.load(v + start + column, mask=start + column < n, other=0.0)
        tl.store(new_v + start + column, cast(div(p, p_norm), DTYPE) if TRAINING else p, mask=start + column < n)
    if (w | w_hat) % 16 + n % VECTOR == 0:
        _write_tile(w, w_hat, sigma, tile * TILE, m, n, DTYPE, OUT_DTYPE, VECTOR, TILE, BLOCK)
    else:
        _write_tile(w, w_hat, sigma, tile * TILE, m, n, DTYPE, OUT_DTYPE, 1, TILE, BLOCK)


@triton.jit
def _dot_tile(g, w, dot, first_row, m, n, DTYPE: tl.constexpr, GRAD_DTYPE: tl.constexpr, VECTOR: tl.constexpr,
              TILE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    acc: tl.constexpr = dot.dtype.element_ty
    n = n // VECTOR * VECTOR
    row = first_row + tl.arange(0, TILE)
    column = tl.arange(0, BLOCK)
    tile = row[:, None] * n + column[None, :]
    g_tile, w_tile = pointer(g, GRAD_DTYPE, VECTOR) + tile, pointer(w, DTYPE, VECTOR) + tile
    products = tl.zeros([TILE, BLOCK], acc)
    for start in range(0, n, BLOCK):
        inside = (row < m)[:, None] & (start + column < n)[None, :]
        x = tl.load(g_tile + start, mask=inside, other=0.0).to(acc)
        products += x * tl.load(w_tile + start, mask=inside, other=0.0).to(acc)
    tl.store(dot, tl.sum(tl.sum(products, 1), 0))


@triton.jit
def _spectral_norm_dot_kernel(pointers, programs, layers, dots, DTYPE: tl.constexpr, GRAD_DTYPE: tl.constexpr,
                              TILE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    index, tile = program_entry(programs)
    g, w = tl.load(pointers + 5 * index), tl.load(pointers + 5 * index + 1)
    layer = layers + FIELDS * index
    m, n = tl.load(layer + M), tl.load(layer + N)
    dot = dots + tl.load(layer + T_SQUARES) + tile
    if (g | w) % 16 + n % VECTOR == 0:
        _dot_tile(g, w, dot, tile * TILE, m, n, DTYPE, GRAD_DTYPE, VECTOR, TILE, BLOCK)
    else:
        _dot_tile(g, w, dot, tile * TILE, m, n, DTYPE, GRAD_DTYPE, 1, TILE, BLOCK)


@triton.jit
def _bwd_tile(g, u, v, dw, scale, sigma, first_row, m, n, DTYPE: tl.constexpr, GRAD_DTYPE: tl.constexpr,
              VECTOR: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Write dW = (g + scale u v^T)/sigma."""
    n = n // VECTOR * VECTOR
    row = first_row + tl.arange(0, TILE)
    column = tl.arange(0, BLOCK)
    tile = row[:, None] * n + column[None, :]
    g_tile, dw_tile = pointer(g, GRAD_DTYPE, VECTOR) + tile, pointer(dw, DTYPE, VECTOR) + tile
    v_column = pointer(v, DTYPE, VECTOR) + column
    u_row = scale * tl.load(pointer(u, DTYPE, 1) + row, mask=row < m, other=0.0).to(sigma.dtype)
    for start in range(0, n, BLOCK):
        inside = (row < m)[:, None] & (start + column < n)[None, :]
        x = tl.load(g_tile + start, mask=inside, other=0.0).to(sigma.dtype)
        y = tl.load(v_column + start, mask=start + column < n, other=0.0).to(sigma.dtype)
        tl.store(dw_tile + start, cast(div(x + u_row[:, None] * y[None, :], sigma), DTYPE), mask=inside)


@triton.jit
def _spectral_norm_bwd_kernel(pointers, programs, layers, dots, sigmas, grad_sigmas, DTYPE: tl.constexpr,
                              GRAD_DTYPE: tl.constexpr, TILE: tl.constexpr,
                              BLOCK: tl.constexpr):  # fmt: skip
    index, tile = program_entry(programs)
    entry = pointers + 5 * index
    g, u, v, dw = tl.load(entry), tl.load(entry + 2), tl.load(entry + 3), tl.load(entry + 4)
    layer = layers + FIELDS * index
    m, n = tl.load(layer + M), tl.load(layer + N)
    sigma = tl.load(sigmas + index)
    scale = -div(total(dots + tl.load(layer + T_SQUARES), tl.load(layer + TILES)), sigma)
    if grad_sigmas is not None:
        scale += tl.load(grad_sigmas + index) * sigma
    if (g | v | dw) % 16 + n % VECTOR == 0:
        _bwd_tile(g, u, v, dw, scale, sigma, tile * TILE, m, n, DTYPE, GRAD_DTYPE, VECTOR, TILE, BLOCK)
    else:
        _bwd_tile(g, u, v, dw, scale, sigma, tile * TILE, m, n, DTYPE, GRAD_DTYPE, 1, TILE, BLOCK)


class _Plan(NamedTuple):
    """Everything about a list of weights that does not change from call to call."""

    acc_dtype: torch.dtype
    layers: torch.Tensor  # [L, FIELDS] int64
    tiles: torch.Tensor  # [number of tiles, 2] int32: the layer, and the tile in it
    blocks: torch.Tensor  # [number of blocks, 2] int32: the layer, and the block of columns in it
    work_size: int


def forward(
    weights: Sequence[torch.Tensor],
    us: Sequence[torch.Tensor],
    vs: Sequence[torch.Tensor],
    n_power_iterations: int,
    eps: float,
    training: bool,
    u_first: bool,
    out_dtype: torch.dtype,
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """W/sigma, u, v of every matrix and all sigmas, in 2k + 1 launches, 2k + 2 if v comes first, 2 in evaluation."""
    dtype, device = weights[0].dtype, weights[0].device
    plan = _plan(tuple([(len(u), len(v)) for u, v in zip(us, vs, strict=True)]), dtype, device)
    w_hats = [memory.empty(w.shape, out_dtype, device) for w in weights]
    new_us = [memory.empty(u.shape, dtype, device) for u in us]
    new_vs = [memory.empty(v.shape, dtype, device) for v in vs]
    sigmas = memory.empty((len(weights),), plan.acc_dtype, device)
    work = memory.empty((plan.work_size,), plan.acc_dtype, device)
    pointers = pointer_table("spectral_norm", device, weights, us, vs, w_hats, new_us, new_vs)

    def run_pass(rows: bool, columns: bool, first: bool) -> None:
        _spectral_norm_pass_kernel[(len(plan.tiles),)](
            pointers, plan.tiles, plan.layers, work,
            DTYPE=TRITON_DTYPES[dtype], EPS=eps, ROWS=rows, COLUMNS=columns, FIRST=first, TRAINING=training,
            TILE=TILE_ROWS, BLOCK=pass_columns(dtype), num_warps=TILE_WARPS,
        )  # fmt: skip
        if columns:
            _spectral_norm_combine_kernel[(len(plan.blocks),)](
                plan.blocks, plan.layers, work,
                EPS=eps, BY_T=rows, COMBINED=COMBINE_TILES, BLOCK=COMBINE_COLUMNS, num_warps=COMBINE_WARPS,
            )  # fmt: skip

    with device_guard(device):
        if not training:
            run_pass(rows=True, columns=False, first=True)
        elif u_first:
            for iteration in range(n_power_iterations):
                run_pass(rows=True, columns=True, first=iteration == 0)
        else:
            run_pass(rows=False, columns=True, first=True)
            for _ in range(n_power_iterations - 1):
                run_pass(rows=True, columns=True, first=False)
            run_pass(rows=True, columns=False, first=False)
        _spectral_norm_write_kernel[(len(plan.tiles),)](
            pointers, plan.tiles, plan.layers, work, sigmas,
            DTYPE=TRITON_DTYPES[dtype], OUT_DTYPE=TRITON_DTYPES[out_dtype], EPS=eps, TRAINING=training, U_FIRST=u_first,
            TILE=TILE_ROWS, BLOCK=WRITE_COLUMNS, num_warps=TILE_WARPS,
        )  # fmt: skip
    return w_hats, new_us, new_vs, sigmas


def backward(
    grads: Sequence[torch.Tensor],
    grad_sigmas: torch.Tensor | None,
    weights: Sequence[torch.Tensor],
    us: Sequence[torch.Tensor],
    vs: Sequence[torch.Tensor],
    sigmas: torch.Tensor,
) -> list[torch.Tensor]:
    """Gradient dW of every matrix in two launches; us, vs and sigmas are what `forward` returned."""
    dtype, device = weights[0].dtype, weights[0].device
    plan = _plan(tuple([(len(u), len(v)) for u, v in zip(us, vs, strict=True)]), dtype, device)
    dws = [memory.empty(w.shape, dtype, device) for w in weights]
    dots = memory.empty((len(plan.tiles),), plan.acc_dtype, device)
    pointers = pointer_table("spectral_norm", device, grads, weights, us, vs, dws)
    constants = {"DTYPE": TRITON_DTYPES[dtype], "GRAD_DTYPE": TRITON_DTYPES[grads[0].dtype]}
    constants |= {"TILE": TILE_ROWS, "BLOCK": WRITE_COLUMNS, "num_warps": TILE_WARPS}
    grid = (len(plan.tiles),)
    with device_guard(device):
        _spectral_norm_dot_kernel[grid](pointers, plan.tiles, plan.layers, dots, **constants)
        _spectral_norm_bwd_kernel[grid](pointers, plan.tiles, plan.layers, dots, sigmas, grad_sigmas, **constants)
    return dws


@lru_cache(maxsize=64)
def _plan(shapes: tuple[tuple[int, int], ...], dtype: torch.dtype, device: torch.device) -> _Plan:
    counts = [(triton.cdiv(m, TILE_ROWS), triton.cdiv(n, COMBINE_COLUMNS)) for m, n in shapes]
    first_tile, first_block = 0, sum(tiles for tiles, _ in counts)
    offset = _padded(first_block + sum(blocks for _, blocks in counts))
    layers = []
    for (m, n), (tiles, blocks) in zip(shapes, counts, strict=True):
        t, p = offset, offset + _padded(m)
        partials = p + _padded(n)
        layers.append([m, n, tiles, blocks, first_tile, first_block, t, p, partials])
        first_tile, first_block, offset = first_tile + tiles, first_block + blocks, partials + tiles * _padded(n)
    # The longest tiles start first, so that the last ones to finish are short.
    longest_first = sorted(range(len(shapes)), key=lambda layer: -shapes[layer][1])
    return _Plan(
        acc_dtype=torch.float64 if dtype == torch.float64 else torch.float32,
        layers=torch.tensor(layers, dtype=torch.int64, device=device),
        tiles=program_table(longest_first, [tiles for tiles, _ in counts], device),
        blocks=program_table(longest_first, [blocks for _, blocks in counts], device),
        work_size=offset,
    )


def _padded(size: int) -> int:
    return triton.cdiv(size, VECTOR.value) * VECTOR.value
