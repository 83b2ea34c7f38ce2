"""What the tests of the ops on channels share: their arguments and gradients."""

from collections.abc import Callable

import torch
from samples import draw
from torch import Tensor

from fastgan import functional

# x, scale or weight, shift or bias -> y.
OPS = {
    "scale_shift_act": lambda x, scale, shift: functional.scale_shift_act(x, scale, shift, "relu"),
    "batch_norm": functional.norm_act,
    "instance_norm": lambda x, weight, bias: functional.norm_act(x, weight, bias, norm="instance"),
}
# Per channel, per sample and channel, none.
NDIMS = {"C": 1, "NC": 2, "none": None}


def inputs(shape, values="C", dtype=torch.float64, device="cpu") -> list[Tensor | None]:
    """x whose mean is not 0, and values per channel as under autocast: float32 beside halves."""
    exact, ndim = torch.promote_types(dtype, torch.float32), NDIMS[values]
    x = (draw(shape) * 1.5 + 0.5).to(dtype).to(device)
    given = None if ndim is None else shape[1:2] if ndim == 1 else shape[:2]
    return [x, *(None if given is None else draw(given, exact, device, seed) for seed in range(2))]


def gradients(function: Callable[..., Tensor], tensors: list[Tensor | None], dy: Tensor) -> list[Tensor]:
    """Of y, and with respect to all tensors that are there: y first."""
    tensors = [None if t is None else t.detach().requires_grad_() for t in tensors]
    y = function(*tensors)
    return [y.detach(), *torch.autograd.grad(y, [t for t in tensors if t is not None], dy)]


def double(tensors: list[Tensor | None]) -> list[Tensor | None]:
    return [None if t is None else t.detach().double().cpu() for t in tensors]
