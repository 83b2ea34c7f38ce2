"""Scale, shift and activation in compiled code: csrc/cpu/scale_shift_act.cpp and csrc/cuda/scale_shift_act.cu."""

from functools import lru_cache

import torch
from torch import Tensor

from fastgan import _native, memory
from fastgan.ops.layout import has_per_sample_values, sizes, strided


def forward(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, center: Tensor | None, act: str, alpha: float
) -> Tensor:
    """See `fastgan.reference.scale_shift_act.forward`; x is dense, values contiguous and of the dtype computed in."""
    y = memory.empty_like(x, x.dtype)
    _native.launch("scale_shift_act", x.device, x, y, *strided(scale, shift, center), act, alpha, *sizes(x), x.dtype)
    return y


def backward(
    dy: Tensor,
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    center: Tensor | None,
    linear: Tensor | None,
    constant: Tensor | None,
    act: str,
    alpha: float,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """See `fastgan.reference.scale_shift_act.backward`; dy has x's memory layout, as in `forward`."""
    shape, dx, dscale, dshift, workspace = sizes(x), None, None, None, None
    per_sample = has_per_sample_values(scale, shift, center)
    if wanted[0]:
        dx = memory.empty_like(x, x.dtype)
    if wanted[1]:
        exact = torch.float64 if x.dtype == torch.float64 else torch.float32
        dscale = x.new_empty(shape[:2] if per_sample else shape[1], dtype=exact)
        dshift = torch.empty_like(dscale)
        workspace = memory.empty((workspace_size(x.device, *shape),), torch.float64, x.device)
    values = strided(linear, constant, scale, shift, center)
    _native.launch(
        "scale_shift_act_backward",
        x.device,
        dy,
        x,
        dx,
        dscale,
        dshift,
        workspace,
        per_sample,
        *values,
        act,
        alpha,
        *shape,
        x.dtype,
    )
    return dx, dscale, dshift


@lru_cache(maxsize=1024)
def workspace_size(device: torch.device, *sizes: int) -> int:
    """How many doubles sums over positions are kept in."""
    return _native.query("channel_workspace", device, *sizes)
