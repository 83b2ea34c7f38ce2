"""Bias, activation, gain and clamp in Triton: one kernel for the value and both derivatives, one tile to a program."""

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl

from fastgan import memory
from fastgan.kernels import activations
from fastgan.kernels.grouped import TRITON_DTYPES, cast, device_guard
from fastgan.ops.layout import along

BLOCK, WARPS = 2048, 8


@triton.jit
def _bias_act_kernel(x, b, dy, ddx, out, numbers, channels, inner, DTYPE: tl.constexpr, ORDER: tl.constexpr,
                     AT_VALUE: tl.constexpr, ACT: tl.constexpr, ALPHA: tl.constexpr, GAIN: tl.constexpr,
                     CLAMP: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    program = tl.program_id(0).to(tl.int64) if WIDE else tl.program_id(0)
    at = program * BLOCK + tl.arange(0, BLOCK)
    inside = at < numbers
    acc: tl.constexpr = tl.float64 if DTYPE == tl.float64 else tl.float32  # noqa: SIM300
    z = tl.load(x + at, mask=inside, other=0.0).to(acc)
    if b is not None:
        z += tl.load(b + at // inner % channels, mask=inside, other=0.0)
    y = z
    if not AT_VALUE and (ORDER == 0 or CLAMP is not None):
        y = GAIN * activations.value(z, ALPHA, ACT)
    if ORDER == 0:
        result = y
        if CLAMP is not None:
            limit = tl.full(y.shape, CLAMP, acc)
            result = tl.where(y > limit, limit, tl.where(y < -limit, -limit, y))
    else:
        result = tl.load(dy + at, mask=inside, other=0.0).to(acc)
        if ORDER == 2:
            result *= tl.load(ddx + at, mask=inside, other=0.0).to(acc)
            if AT_VALUE:
                factor = activations.curvature_at_value(z * (1.0 / GAIN), ACT)
            else:
                factor = GAIN * activations.curvature(z, ACT)
            result *= factor
        else:
            if AT_VALUE:
                factor = GAIN * activations.slope_at_value(z * (1.0 / GAIN), ALPHA, ACT)
            else:
                factor = GAIN * activations.slope(z, ALPHA, ACT)
            # A slope of 0 stops an infinite gradient, as torch's relu does.
            result = tl.where(factor == 0, 0.0, result * factor)
        if CLAMP is not None:
            result = tl.where(tl.abs(y) >= CLAMP, 0.0, result)
    tl.store(out + at, cast(result, DTYPE), mask=inside)


def forward(x: torch.Tensor, b: torch.Tensor | None, *spec: Any) -> torch.Tensor:
    """See `fastgan.reference.bias_act.forward`; x is dense, b contiguous and in the dtype that is computed in."""
    return _launch(0, False, x, b, None, None, *spec)


def gradient(
    dy: torch.Tensor, saved: torch.Tensor | None, b: torch.Tensor | None, at_value: bool, *spec: Any
) -> torch.Tensor:
    """See `fastgan.reference.bias_act.gradient`; all but b have one memory layout, as in `forward`."""
    # Where nothing is saved nothing depends on it: dy is as good as anything.
    return _launch(1, at_value, dy if saved is None else saved, b, dy, None, *spec)


def second(
    ddx: torch.Tensor, dy: torch.Tensor, saved: torch.Tensor, b: torch.Tensor | None, at_value: bool, *spec: Any
) -> torch.Tensor:
    """See `fastgan.reference.bias_act.second`; all but b have one memory layout, as in `forward`."""
    return _launch(2, at_value, saved, b, dy, ddx, *spec)


def _launch(
    order: int,
    at_value: bool,
    x: torch.Tensor,
    b: torch.Tensor | None,
    dy: torch.Tensor | None,
    ddx: torch.Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> torch.Tensor:
    out = memory.empty_like(x, x.dtype)
    numbers = x.numel()
    if numbers == 0:
        return out
    _, count, inner = along(x, dim)
    constants = {"ORDER": order, "AT_VALUE": at_value, "ACT": act, "ALPHA": alpha, "GAIN": gain}
    constants |= {"CLAMP": None if clamp is None else rounded(clamp, x.dtype), "WIDE": numbers + BLOCK > 2**31}
    with device_guard(x.device):
        _bias_act_kernel[(triton.cdiv(numbers, BLOCK),)](
            x, b, dy, ddx, out, numbers, count, inner, DTYPE=TRITON_DTYPES[x.dtype], **constants, BLOCK=BLOCK,
            num_warps=WARPS,
        )  # fmt: skip
    return out


@lru_cache(maxsize=1024)
def rounded(clamp: float, dtype: torch.dtype) -> float:
    """The clamp as a value of the dtype, which clamped values then equal."""
    return torch.tensor(clamp, dtype=torch.float64).to(dtype).item()
