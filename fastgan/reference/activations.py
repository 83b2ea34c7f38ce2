"""Activations in plain torch: value, first and second derivative, and their defaults. The definition of every backend.

    linear z        relu max(z, 0)        lrelu z > 0 ? z : alpha z        tanh, sigmoid
    elu z > 0 ? z : exp(z) - 1            selu s (z > 0 ? z : a (exp(z) - 1)), s = 1.0507..., a = 1.6732...
    softplus log(1 + exp(z)), and z beyond 20 as in torch      swish z sigmoid(z)      gelu z Phi(z), the exact one

At 0, derivatives are those of torch: 0 for relu, alpha for lrelu, 1 for elu, s a for selu; second ones are
0 there for these two. A NaN stays one.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

SELU_SCALE, SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
# Beyond this z, softplus is z itself, as in torch; and its value there.
SOFTPLUS_LINEAR, SOFTPLUS_LINEAR_VALUE = 20.0, 20.000000002061153620
DENSITY_AT_ZERO = 1 / math.sqrt(2 * math.pi)


class Facts(NamedTuple):
    """Defaults of an activation, and whether its value determines its slope (for lrelu where alpha >= 0)."""

    alpha: float
    gain: float
    piecewise_linear: bool
    slope_at_value: bool


FACTS = {
    "linear": Facts(0.0, 1.0, piecewise_linear=True, slope_at_value=True),
    "relu": Facts(0.0, math.sqrt(2), piecewise_linear=True, slope_at_value=True),
    "lrelu": Facts(0.2, math.sqrt(2), piecewise_linear=True, slope_at_value=True),
    "tanh": Facts(0.0, 1.0, piecewise_linear=False, slope_at_value=True),
    "sigmoid": Facts(0.0, 1.0, piecewise_linear=False, slope_at_value=True),
    "elu": Facts(0.0, 1.0, piecewise_linear=False, slope_at_value=True),
    "selu": Facts(0.0, 1.0, piecewise_linear=False, slope_at_value=True),
    "softplus": Facts(0.0, 1.0, piecewise_linear=False, slope_at_value=True),
    "swish": Facts(0.0, math.sqrt(2), piecewise_linear=False, slope_at_value=False),
    "gelu": Facts(0.0, 1.0, piecewise_linear=False, slope_at_value=False),
}


def value(act: str, z: Tensor, alpha: float) -> Tensor:
    """f(z)."""
    if act == "lrelu":
        return torch.where(z > 0, z, alpha * z)
    return _VALUES[act](z)


def slope(act: str, z: Tensor, alpha: float) -> Tensor:
    """f'(z), differentiable."""
    if act == "lrelu":
        return torch.where(z > 0, torch.ones_like(z), alpha)
    return _SLOPES[act](z)


def chained(act: str, z: Tensor, dy: Tensor, alpha: float) -> Tensor:
    """f'(z) dy; where f is constant, 0 for any dy, as torch's relu has it."""
    s = slope(act, z, alpha)
    return torch.where(s == 0, 0.0, s * dy) if FACTS[act].piecewise_linear else s * dy


def curvature(act: str, z: Tensor) -> Tensor:
    """f''(z), differentiable."""
    return _CURVATURES.get(act, torch.zeros_like)(z)


def slope_at_value(act: str, v: Tensor, alpha: float) -> Tensor:
    """f'(z) where f(z) = v, differentiable with respect to v."""
    if act == "lrelu":
        return torch.where(v > 0, torch.ones_like(v), alpha)
    return _SLOPES_AT_VALUE[act](v)


def curvature_at_value(act: str, v: Tensor) -> Tensor:
    """The derivative of `slope_at_value` with respect to v, differentiable."""
    return _CURVATURES_AT_VALUE.get(act, torch.zeros_like)(v)


def _below(z: Tensor) -> Tensor:
    """The part below 0: what `where` does not take must not overflow, its derivative would be NaN."""
    return torch.where(z >= 0, 0.0, z)


def _density(z: Tensor) -> Tensor:
    return DENSITY_AT_ZERO * torch.exp(-0.5 * z * z)


def _bell(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 - s)


def _swish_curvature(z: Tensor) -> Tensor:
    return _bell(z) * (2 + z * (1 - 2 * torch.sigmoid(z)))


_VALUES = {
    "linear": lambda z: z,
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "elu": F.elu,
    "selu": F.selu,
    "softplus": F.softplus,
    "swish": lambda z: z * torch.sigmoid(z),
    "gelu": F.gelu,
}
_SLOPES = {
    "linear": torch.ones_like,
    "relu": lambda z: torch.where(z <= 0, 0.0, 1.0).to(z.dtype),
    "tanh": lambda z: 1 - torch.tanh(z).square(),
    "sigmoid": _bell,
    "elu": lambda z: torch.where(z > 0, 1.0, _below(z).exp()),
    "selu": lambda z: SELU_SCALE * torch.where(z > 0, 1.0, SELU_ALPHA * _below(z).exp()),
    "softplus": lambda z: torch.where(z > SOFTPLUS_LINEAR, 1.0, torch.sigmoid(z)),
    "swish": lambda z: torch.sigmoid(z) + z * _bell(z),
    "gelu": lambda z: 0.5 * (1 + torch.erf(z * math.sqrt(0.5))) + z * _density(z),
}
_CURVATURES = {
    "tanh": lambda z: -2 * torch.tanh(z) * (1 - torch.tanh(z).square()),
    "sigmoid": lambda z: _bell(z) * (1 - 2 * torch.sigmoid(z)),
    "elu": lambda z: torch.where(z < 0, _below(z).exp(), 0.0),
    "selu": lambda z: torch.where(z < 0, SELU_SCALE * SELU_ALPHA * _below(z).exp(), 0.0),
    "softplus": lambda z: torch.where(z > SOFTPLUS_LINEAR, 0.0, _bell(z)),
    "swish": _swish_curvature,
    "gelu": lambda z: _density(z) * (2 - z * z),
}
_SLOPES_AT_VALUE = {
    "linear": torch.ones_like,
    "relu": lambda v: torch.where(v <= 0, 0.0, 1.0).to(v.dtype),
    "tanh": lambda v: 1 - v.square(),
    "sigmoid": lambda v: v * (1 - v),
    "elu": lambda v: torch.where(v > 0, 1.0, v + 1),
    "selu": lambda v: torch.where(v > 0, SELU_SCALE, v + SELU_SCALE * SELU_ALPHA),
    "softplus": lambda v: torch.where(v > SOFTPLUS_LINEAR_VALUE, 1.0, -torch.expm1(-v)),
}
_CURVATURES_AT_VALUE = {
    "tanh": lambda v: -2 * v,
    "sigmoid": lambda v: 1 - 2 * v,
    "elu": lambda v: torch.where(v < 0, 1.0, 0.0).to(v.dtype),
    "selu": lambda v: torch.where(v < 0, 1.0, 0.0).to(v.dtype),
    "softplus": lambda v: torch.where(v > SOFTPLUS_LINEAR_VALUE, 0.0, torch.exp(-v)),
}
