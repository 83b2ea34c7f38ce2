"""Activations as torch has them, and what their backward reads."""

import torch
import torch.nn.functional as F
from torch import Tensor

from contract.compare import same
from contract.draw import Draw

ACTIVATIONS = {
    "linear": lambda z, alpha: z,
    "relu": lambda z, alpha: F.relu(z),
    "lrelu": lambda z, alpha: F.leaky_relu(z, alpha),
    "tanh": lambda z, alpha: torch.tanh(z),
    "sigmoid": lambda z, alpha: torch.sigmoid(z),
    "elu": lambda z, alpha: F.elu(z),
    "selu": lambda z, alpha: F.selu(z),
    "softplus": lambda z, alpha: F.softplus(z),
    "swish": lambda z, alpha: F.silu(z),
    "gelu": lambda z, alpha: F.gelu(z),
}
EACH = {act: {"act": act} for act in ACTIVATIONS}


def activation(d: Draw) -> tuple[str, float | None]:
    act = d.settled("act", d.one_of, list(ACTIVATIONS))
    return act, d.settled("alpha", d.one_of, [None, 0.1, 0.0, 1.5, -0.3])


def activate(z: Tensor, act: str, alpha: float | None, noise) -> Tensor:
    """f(z); slopes are taken from a y that was rounded, and are off by as much."""
    y = ACTIVATIONS[act](z, 0.2 if alpha is None else alpha)
    if noise is same or act in ("linear", "relu", "lrelu"):
        return y
    distance = z - z.detach()
    return y + (noise(torch.ones_like(z), kept=True) - 1) * (distance + distance.square() / 2)


def scaled_and_clamped(y: Tensor, act: str, gain: float | None, clamp: float | None, noise) -> Tensor:
    """Whether a value is clamped is seen in the backward from y, which was rounded."""
    y = y * ((2**0.5 if act in ("relu", "lrelu", "swish") else 1) if gain is None else gain)
    if clamp is None:
        return y
    if noise is same:
        return y.clamp(-clamp, clamp)
    return torch.where(noise(y, kept=True).abs() < clamp, y, clamp * y.detach().sign())
