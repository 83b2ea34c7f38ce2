"""Norms of samples in Triton.

    fwd     a part of a large sample, or several small samples: the sum of squares, or of a whole sample the norm
    finish  the norm of a sample of several parts, their sums taken in a fixed order: no atomics

The backward is one launch of scale_samples.
"""

import torch
import triton
import triton.language as tl

from fastgan import memory
from fastgan.kernels import scale_samples
from fastgan.kernels.grouped import device_guard, sqrt, total
from fastgan.kernels.samples import SUM_PROGRAMS, rows_and_part, sample_size, tile

FINISH_WARPS = 4


@triton.jit
def _sample_norm_fwd_kernel(x, sums, count, size, parts, tiles_per_part, ROOT: tl.constexpr, ROWS: tl.constexpr,
                            BLOCK: tl.constexpr):  # fmt: skip
    row, part = rows_and_part(parts, ROWS)
    acc: tl.constexpr = sums.dtype.element_ty
    column = tl.arange(0, BLOCK)
    rows = x + row[:, None] * size + column[None, :]
    first = part * tiles_per_part * BLOCK
    squares = tl.zeros([ROWS, BLOCK], acc)
    for i in range(tiles_per_part):
        start = first + i * BLOCK
        inside = (row < count)[:, None] & (start + column < size)[None, :]
        values = tl.load(rows + start, mask=inside, other=0.0).to(acc)
        squares += values * values
    result = tl.sum(squares, 1)
    tl.store(sums + row * parts + part, sqrt(result) if ROOT else result, mask=row < count)


@triton.jit
def _sample_norm_finish_kernel(sums, norms, parts, ROOT: tl.constexpr):
    sample = tl.program_id(0).to(tl.int64)
    result = total(sums + sample * parts, parts)
    tl.store(norms + sample, sqrt(result) if ROOT else result)


def forward(x: torch.Tensor, squared: bool) -> torch.Tensor:
    """Norm, or squared norm, of every sample of a contiguous x [N, ...], in one launch, or two if samples are large."""
    acc = torch.float64 if x.dtype == torch.float64 else torch.float32
    count, size = x.shape[0], sample_size(x)
    norms = memory.empty((count,), acc, x.device)
    if count == 0:
        return norms
    sizes = tile(size)
    tiles = triton.cdiv(size, sizes["BLOCK"])
    tiles_per_part = triton.cdiv(max(tiles, 1), triton.cdiv(SUM_PROGRAMS, count))
    parts = max(triton.cdiv(tiles, tiles_per_part), 1)
    sums = norms if parts == 1 else memory.empty((count, parts), acc, x.device)
    with device_guard(x.device):
        _sample_norm_fwd_kernel[(triton.cdiv(count, sizes["ROWS"]) * parts,)](
            x, sums, count, size, parts, tiles_per_part, ROOT=parts == 1 and not squared, **sizes
        )
        if parts > 1:
            _sample_norm_finish_kernel[(count,)](sums, norms, parts, ROOT=not squared, num_warps=FINISH_WARPS)
    return norms


def backward(dy: torch.Tensor, x: torch.Tensor, norms: torch.Tensor | None) -> torch.Tensor:
    """Gradient of x from dy [N] and the forward's norms [N], None where they are squared; all contiguous."""
    return scale_samples.launch(x, dy, norms, 2.0 if norms is None else 1.0)
