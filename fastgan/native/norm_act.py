"""Statistics of channels in compiled code: csrc/cpu/norm_act.cpp and csrc/cuda/norm_act.cu."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from fastgan import _native, memory
from fastgan.native.scale_shift_act import workspace_size
from fastgan.ops.layout import sizes, strided


def statistics(x: Tensor, per_sample: bool) -> tuple[Tensor, Tensor]:
    """See `fastgan.reference.norm_act.statistics`; x is dense."""
    shape, device = sizes(x), x.device
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    mean, var = (memory.empty(shape[:2] if per_sample else shape[1:2], exact, device) for _ in range(2))
    workspace = memory.empty((workspace_size(device, *shape),), torch.float64, device)
    _native.launch("channel_statistics", device, x, mean, var, workspace, per_sample, *shape, x.dtype)
    return mean, var


# --- normalization as a whole, for tensors on the CPU, where a call costs as much as a small kernel ---


def forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    per_sample: bool,
    eps: float,
    act: str,
    alpha: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, mean and var of `fastgan.ops.norm_act`; x is dense, values are contiguous and of the dtype computed in."""
    shape, device = sizes(x), x.device
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    y = memory.empty_like(x, x.dtype)
    sizes_of = shape[:2] if per_sample else shape[1:2]
    mean, var = torch.empty(sizes_of, dtype=exact), torch.empty(sizes_of, dtype=exact)
    workspace = memory.empty((_whole_size(*shape),), torch.float64, device)
    of_channel = strided(weight, bias)
    _native.launch(
        "norm_act", device, x, y, mean, var, workspace, *of_channel, per_sample, eps, act, alpha, *shape, x.dtype
    )
    return y, mean, var


def backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    per_sample: bool,
    eps: float,
    act: str,
    alpha: float,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """What is wanted of dx, dweight and dbias of `fastgan.ops.norm_act`; dy has x's memory layout."""
    shape, device = sizes(x), x.device
    dx = memory.empty_like(x, x.dtype) if wanted[0] else None
    dweight = torch.empty_like(weight) if wanted[1] else None
    dbias = torch.empty_like(bias) if wanted[2] else None
    _native.launch(
        "norm_act_backward",
        device,
        dy,
        x,
        mean,
        var,
        dx,
        dweight,
        dbias,
        memory.empty((_whole_size(*shape),), torch.float64, device),
        *strided(weight, bias),
        per_sample,
        eps,
        act,
        alpha,
        *shape,
        x.dtype,
    )
    return dx, dweight, dbias


@lru_cache(maxsize=1024)
def _whole_size(*sizes: int) -> int:
    return _native.query("norm_act_workspace", _CPU, *sizes)


_CPU = torch.device("cpu")
