"""Norms of samples in compiled code: csrc/cpu/sample_norm.cpp and csrc/cuda/sample_norm.cu."""

import torch
from torch import Tensor

from fastgan import _native, memory
from fastgan.native import scale_samples


def forward(x: Tensor, squared: bool) -> Tensor:
    """See `fastgan.reference.sample_norm.forward`; x is contiguous."""
    count = x.shape[0]
    size = x.numel() // max(count, 1)
    norms = x.new_empty(count, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    length = _native.query("sample_norm_workspace", x.device, count, size)
    workspace = memory.empty((length,), torch.float64, x.device) if length else None
    _native.launch("sample_norm", x.device, x, norms, workspace, count, size, squared, x.dtype)
    return norms


def backward(dy: Tensor, x: Tensor, norms: Tensor | None) -> Tensor:
    """See `fastgan.reference.sample_norm.backward`; dy and x are contiguous."""
    return scale_samples.launch(x, dy, norms, 2.0 if norms is None else 1.0)
