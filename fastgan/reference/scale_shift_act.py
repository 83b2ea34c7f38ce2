"""Scale, shift and activation in plain torch: the definition that every backend is compared with.

    z = scale (x - center) + shift      y = f(z)      g = f'(z) dy
    dx = scale g + linear (x - center) + constant      dscale = sum of g (x - center)      dshift = sum of g

Numbers per channel are [C] or [N, C]; None is 1 for scale and 0 for the others. `linear` and `constant` are what
statistics of x add to its gradient.
"""

import torch
from torch import Tensor

from fastgan.reference import activations


def forward(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, center: Tensor | None, act: str, alpha: float
) -> Tensor:
    """y of x's dtype, computed in float32 or better."""
    y = activations.value(act, _affine(x, scale, shift, center)[1], alpha).to(x.dtype)
    return y.clone() if y is x else y  # an op's result is no input of it


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
    """What is wanted of dx, of x's dtype, and of the two sums dscale and dshift; differentiable to any order.

    Sums are [C] where scale, shift and center are [C] or None, else [N, C].
    """
    centered, z = _affine(x, scale, shift, center)
    g = activations.chained(act, z, dy.to(z.dtype), alpha)
    dx = dscale = dshift = None
    if wanted[0]:
        dx = g if scale is None else broadcast(scale, x) * g
        dx = dx if linear is None else dx + broadcast(linear, x) * centered
        dx = (dx if constant is None else dx + broadcast(constant, x)).to(x.dtype)
        dx = dx.clone() if dx is dy else dx
    if wanted[1]:
        dims = 2 if any(t is not None and t.ndim == 2 for t in (scale, shift, center)) else (0, 2)
        dscale, dshift = (t.unsqueeze(-1).flatten(2).sum(dims) for t in (g * centered, g))
    return dx, dscale, dshift


def broadcast(values: Tensor, x: Tensor) -> Tensor:
    """Numbers [C] or [N, C] in the shape that multiplies x."""
    return values.view(*values.shape, *[1] * (x.ndim - 2))


def _affine(x: Tensor, scale: Tensor | None, shift: Tensor | None, center: Tensor | None) -> tuple[Tensor, Tensor]:
    """x - center and z."""
    x = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    centered = x if center is None else x - broadcast(center, x)
    z = centered if scale is None else broadcast(scale, x) * centered
    return centered, z if shift is None else z + broadcast(shift, x)
