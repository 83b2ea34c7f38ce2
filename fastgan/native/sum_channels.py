"""Sums over all dimensions but one in compiled code: csrc/cpu/sum_channels.cpp and csrc/cuda/sum_channels.cu."""

from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from fastgan import _native, memory


def forward(x: Tensor, dim: int) -> Tensor:
    """See `fastgan.reference.sum_channels.forward`; x is contiguous."""
    shape = channels(x, dim)
    sums = x.new_empty(shape[1], dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    length = _workspace_size(x.device, *shape)
    workspace = memory.empty((length,), torch.float64, x.device) if length else None
    _native.launch("sum_channels", x.device, x, sums, workspace, *shape, x.dtype)
    return sums


def channels(x: Tensor, dim: int) -> tuple[int, int, int]:
    """The tensor as [outer, channels, inner]."""
    return prod(x.shape[:dim]), x.shape[dim], prod(x.shape[dim + 1 :])


@lru_cache(maxsize=1024)
def _workspace_size(device: torch.device, outer: int, channels: int, inner: int) -> int:
    return _native.query("sum_channels_workspace", device, outer, channels, inner)
