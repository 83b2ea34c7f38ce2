"""Sums over all dimensions but one in compiled code: csrc/cpu/sum_channels.cpp and csrc/cuda/sum_channels.cu."""

from functools import lru_cache

import torch
from torch import Tensor

from fastgan import _native, memory
from fastgan.ops.layout import along


def forward(x: Tensor, dim: int) -> Tensor:
    """See `fastgan.reference.sum_channels.forward`; x is dense."""
    shape = along(x, dim)
    sums = x.new_empty(shape[1], dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    length = _workspace_size(x.device, *shape)
    workspace = memory.empty((length,), torch.float64, x.device) if length else None
    _native.launch("sum_channels", x.device, x, sums, workspace, *shape, x.dtype)
    return sums


@lru_cache(maxsize=1024)
def _workspace_size(device: torch.device, outer: int, channels: int, inner: int) -> int:
    return _native.query("sum_channels_workspace", device, outer, channels, inner)
