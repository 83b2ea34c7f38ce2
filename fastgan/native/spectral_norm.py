"""Spectral norm in compiled code: csrc/cpu/spectral_norm.cpp and csrc/cuda/spectral_norm.cu."""

from functools import lru_cache

import torch
from torch import Tensor

from fastgan import _native, memory


def forward(
    weights: list[Tensor],
    us: list[Tensor],
    vs: list[Tensor],
    n_power_iterations: int,
    eps: float,
    training: bool,
    u_first: bool,
    out_dtype: torch.dtype,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
    """See `fastgan.reference.spectral_norm.forward`; weights are contiguous."""
    device, dtype = weights[0].device, weights[0].dtype
    rows, cols = _sizes(us), _sizes(vs)
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    weights_out = [memory.empty_like(w, out_dtype) for w in weights]
    us_out = [torch.empty_like(u) for u in us]
    vs_out = [torch.empty_like(v) for v in vs]
    sigmas = torch.empty(len(weights), dtype=exact, device=device)
    workspace = memory.empty((_workspace_size(device, rows, cols),), exact, device)
    iterations = n_power_iterations if training else 0
    _native.launch(
        "spectral_norm_forward",
        device,
        weights,
        us,
        vs,
        weights_out,
        us_out,
        vs_out,
        rows,
        cols,
        sigmas,
        workspace,
        iterations,
        eps,
        u_first,
        dtype,
        out_dtype,
    )
    return weights_out, us_out, vs_out, sigmas


def backward(
    grads: list[Tensor],
    grad_sigmas: Tensor | None,
    weights: list[Tensor],
    us: list[Tensor],
    vs: list[Tensor],
    sigmas: Tensor,
) -> list[Tensor]:
    """See `fastgan.reference.spectral_norm.backward`; grads and weights are contiguous."""
    device, dtype = weights[0].device, weights[0].dtype
    rows, cols = _sizes(us), _sizes(vs)
    dweights = [memory.empty_like(w, dtype) for w in weights]
    workspace = memory.empty((_workspace_size(device, rows, cols),), sigmas.dtype, device)
    _native.launch(
        "spectral_norm_backward",
        device,
        grads,
        weights,
        us,
        vs,
        dweights,
        rows,
        cols,
        sigmas,
        grad_sigmas,
        workspace,
        dtype,
        grads[0].dtype,
    )
    return dweights


def _sizes(vectors: list[Tensor]) -> tuple[int, ...]:
    return tuple([vector.numel() for vector in vectors])


@lru_cache(maxsize=1024)
def _workspace_size(device: torch.device, rows: tuple[int, ...], cols: tuple[int, ...]) -> int:
    return _native.query("spectral_norm_workspace", device, rows, cols)
