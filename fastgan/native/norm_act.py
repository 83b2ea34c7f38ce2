"""Statistics of channels in compiled code: csrc/cpu/norm_act.cpp and csrc/cuda/norm_act.cu."""

import torch
from torch import Tensor

from fastgan import _native, memory
from fastgan.channel_layout import sizes
from fastgan.native.scale_shift_act import workspace_size


def statistics(x: Tensor, per_sample: bool, dim: int) -> tuple[Tensor, Tensor]:
    """See `fastgan.reference.norm_act.statistics`; x is contiguous."""
    shape, device = sizes(x, dim), x.device
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    mean, var = (memory.empty(shape[:2] if per_sample else shape[1:2], exact, device) for _ in range(2))
    workspace = memory.empty((workspace_size(device, *shape),), torch.float64, device)
    _native.launch("channel_statistics", device, x, mean, var, workspace, per_sample, *shape, x.dtype)
    return mean, var
