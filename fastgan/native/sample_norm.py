"""Norms of samples in compiled code: csrc/cpu/sample_norm.cpp and csrc/cuda/sample_norm.cu."""

from functools import lru_cache

import torch
from torch import Tensor

from fastgan import _native, memory
from fastgan.native import scale_samples


def forward(x: Tensor, squared: bool) -> Tensor:
    """See `fastgan.reference.sample_norm.forward`; x is contiguous."""
    count = x.shape[0]
    size = x.numel() // count if count else 0
    norms = x.new_empty(count, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    device = x.device
    length = _workspace_size(device, count, size)
    workspace = memory.empty((length,), torch.float64, device) if length else None
    _native.launch("sample_norm", device, x, norms, workspace, count, size, squared, x.dtype)
    return norms


def backward(dy: Tensor, x: Tensor, norms: Tensor | None) -> Tensor:
    """See `fastgan.reference.sample_norm.backward`; dy and x are contiguous."""
    return scale_samples.launch(x, dy, norms, 2.0 if norms is None else 1.0)


@lru_cache(maxsize=1024)
def _workspace_size(device: torch.device, count: int, size: int) -> int:
    return _native.query("sample_norm_workspace", device, count, size)
