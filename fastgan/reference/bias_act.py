"""Bias, activation, gain and clamp in plain torch: y = clamp(gain f(x + b)). The definition of every backend.

`dim` is the dimension of x that b [C] runs along. What a derivative is taken from, `saved`, is y where `at_value`, else
x. Where |y| reaches the clamp, derivatives are 0; values are computed in float32 or better.
"""

import math

import torch
from torch import Tensor

from fastgan.reference import activations


def forward(x: Tensor, b: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float | None) -> Tensor:
    """Return y."""
    y = (gain * activations.value(act, _biased(x, b, dim), alpha)).to(x.dtype)
    if clamp is None:
        return y
    clamp = _rounded(clamp, x.dtype)
    return y.clamp(-clamp, clamp)


def gradient(
    dy: Tensor,
    saved: Tensor | None,
    b: Tensor | None,
    at_value: bool,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> Tensor:
    """Return dx = dy gain f'(x + b); saved is None where the slope is the same everywhere."""
    if saved is None:
        return gain * dy
    z = _biased(saved, b, dim)
    if at_value:
        slope = gain * activations.slope_at_value(act, z / gain, alpha)
    else:
        slope = gain * activations.slope(act, z, alpha)
    dead = _clamped(z, saved.dtype, at_value, act, alpha, gain, clamp)
    if activations.FACTS[act].piecewise_linear:
        dead = dead | (slope == 0)  # which stops an infinite gradient, as torch's relu does
    dx = dy.to(z.dtype) * slope
    return torch.where(dead, torch.zeros_like(dx), dx).to(dy.dtype)


def second(
    ddx: Tensor,
    dy: Tensor,
    saved: Tensor,
    b: Tensor | None,
    at_value: bool,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> Tensor:
    """Return the derivative of <ddx, gradient(dy, saved, b)> with respect to saved."""
    z = _biased(saved, b, dim)
    curvature = activations.curvature_at_value(act, z / gain) if at_value else gain * activations.curvature(act, z)
    out = ddx.to(z.dtype) * dy.to(z.dtype) * curvature
    dead = _clamped(z, saved.dtype, at_value, act, alpha, gain, clamp)
    return torch.where(dead, torch.zeros_like(out), out).to(dy.dtype)


def _biased(x: Tensor, b: Tensor | None, dim: int) -> Tensor:
    """Return x + b in float32 or better."""
    z = x.to(torch.promote_types(x.dtype, torch.float32))
    return z if b is None else z + b.to(z.dtype).view(-1, *[1] * (x.ndim - dim - 1))


def _clamped(
    z: Tensor, dtype: torch.dtype, at_value: bool, act: str, alpha: float, gain: float, clamp: float | None
) -> Tensor:
    if clamp is None:
        return torch.zeros_like(z, dtype=torch.bool)
    y = z if at_value else gain * activations.value(act, z, alpha)
    # The clamp as the forward rounds it, so that clamped values are not smaller.
    return y.abs() >= torch.full((), _rounded(clamp, dtype), dtype=dtype, device=z.device)


def _rounded(clamp: float, dtype: torch.dtype) -> float:
    """A clamp that is beyond what the dtype holds: its largest number, or infinity."""
    facts = torch.finfo(dtype)
    spacing = math.ldexp(facts.eps, math.frexp(facts.max)[1] - 1)
    return clamp if clamp <= facts.max else facts.max if clamp - facts.max < spacing / 2 else math.inf
