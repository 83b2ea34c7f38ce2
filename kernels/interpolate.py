"""Interpolates of two batches in Triton: y_n = eps_n real_n + (1 - eps_n) fake_n, one tile to a program."""

import torch
import triton
import triton.language as tl

from fastgan import memory
from fastgan.kernels.grouped import TRITON_DTYPES, cast, device_guard
from fastgan.kernels.samples import rows_and_part, sample_size, tile


@triton.jit
def _interpolate_samples_kernel(real, fake, eps, y, count, size, parts, DTYPE: tl.constexpr, ROWS: tl.constexpr,
                                BLOCK: tl.constexpr):  # fmt: skip
    row, part = rows_and_part(parts, ROWS)
    column = part * BLOCK + tl.arange(0, BLOCK)
    e = tl.load(eps + row, mask=row < count, other=0.0)[:, None]
    inside = (row < count)[:, None] & (column < size)[None, :]
    at = row[:, None] * size + column[None, :]
    mixed = e * tl.load(real + at, mask=inside).to(e.dtype) + (1 - e) * tl.load(fake + at, mask=inside).to(e.dtype)
    tl.store(y + at, cast(mixed, DTYPE), mask=inside)


@triton.jit
def _interpolate_samples_backward_kernel(dy, eps, dreal, dfake, count, size, parts, DTYPE: tl.constexpr,
                                         ROWS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """dreal_n = eps_n dy_n, dfake_n = (1 - eps_n) dy_n."""
    row, part = rows_and_part(parts, ROWS)
    column = part * BLOCK + tl.arange(0, BLOCK)
    e = tl.load(eps + row, mask=row < count, other=0.0)[:, None]
    inside = (row < count)[:, None] & (column < size)[None, :]
    at = row[:, None] * size + column[None, :]
    grad = tl.load(dy + at, mask=inside).to(e.dtype)
    tl.store(dreal + at, cast(e * grad, DTYPE), mask=inside)
    tl.store(dfake + at, cast((1 - e) * grad, DTYPE), mask=inside)


def forward(real: torch.Tensor, fake: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """Interpolates of real and fake [N, ...] by eps [N], all contiguous."""
    y = memory.empty_like(real, real.dtype)
    count, size = real.shape[0], sample_size(real)
    if real.numel() == 0:
        return y
    sizes = tile(size)
    parts = triton.cdiv(size, sizes["BLOCK"])
    with device_guard(real.device):
        _interpolate_samples_kernel[(triton.cdiv(count, sizes["ROWS"]) * parts,)](
            real, fake, eps, y, count, size, parts, DTYPE=TRITON_DTYPES[real.dtype], **sizes
        )
    return y


def backward(dy: torch.Tensor, eps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of real and fake from dy [N, ...] and eps [N], both contiguous."""
    dreal, dfake = memory.empty_like(dy, dy.dtype), memory.empty_like(dy, dy.dtype)
    count, size = dy.shape[0], sample_size(dy)
    if dy.numel() == 0:
        return dreal, dfake
    sizes = tile(size)
    parts = triton.cdiv(size, sizes["BLOCK"])
    with device_guard(dy.device):
        _interpolate_samples_backward_kernel[(triton.cdiv(count, sizes["ROWS"]) * parts,)](
            dy, eps, dreal, dfake, count, size, parts, DTYPE=TRITON_DTYPES[dy.dtype], **sizes
        )
    return dreal, dfake
