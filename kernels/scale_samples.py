"""Samples times values in Triton: y_n = c_n x_n, one tile to a program. Also the gradient of a norm."""

import torch
import triton
import triton.language as tl

from fastgan import memory
from fastgan.kernels.grouped import TRITON_DTYPES, cast, device_guard, div
from fastgan.kernels.samples import rows_and_part, sample_size, tile


@triton.jit
def _scale_samples_kernel(x, c, norms, y, count, size, parts, DTYPE: tl.constexpr, FACTOR: tl.constexpr,
                          ROWS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """y_n = FACTOR c_n x_n, divided by norms_n unless it is None, and 0 where that is 0."""
    row, part = rows_and_part(parts, ROWS)
    column = part * BLOCK + tl.arange(0, BLOCK)
    scale = tl.load(c + row, mask=row < count, other=0.0) * FACTOR
    if norms is not None:
        norm = tl.load(norms + row, mask=row < count, other=1.0)
        zero = norm == 0
        scale = tl.where(zero, 0.0, div(scale, tl.where(zero, 1.0, norm)))
    inside = (row < count)[:, None] & (column < size)[None, :]
    at = row[:, None] * size + column[None, :]
    tl.store(y + at, cast(scale[:, None] * tl.load(x + at, mask=inside).to(scale.dtype), DTYPE), mask=inside)


def forward(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """c_n x_n for x [N, ...] and c [N], both contiguous."""
    return launch(x, c, None, 1.0)


def launch(x: torch.Tensor, c: torch.Tensor, norms: torch.Tensor | None, factor: float) -> torch.Tensor:
    """factor c_n x_n, divided by norms_n where they are given, and 0 where those are 0."""
    y = memory.empty_like(x, x.dtype)
    count, size = x.shape[0], sample_size(x)
    if x.numel() == 0:
        return y
    sizes = tile(size)
    parts = triton.cdiv(size, sizes["BLOCK"])
    with device_guard(x.device):
        _scale_samples_kernel[(triton.cdiv(count, sizes["ROWS"]) * parts,)](
            x, c, norms, y, count, size, parts, DTYPE=TRITON_DTYPES[x.dtype], FACTOR=factor, **sizes
        )
    return y
