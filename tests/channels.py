"""What the tests of the ops on channels share: each op as we and as torch compute it, its arguments, its gradients."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from samples import draw
from torch import Tensor
from torch.nn import functional as F

from fastgan import functional
from fastgan.reference import activations

# Of one position and many, few channels and more than a row of them holds; of whole packets and not; empty.
SHAPES = [(5, 3), (3, 130), (4, 1, 3), (2, 5, 3, 3), (3, 16, 8, 8), (2, 3, 37, 37), (2, 70, 5, 5), (2, 600, 2, 2)]
SHAPES += [(1, 2, 70, 70), (2, 64, 2, 4, 4), (21, 3, 50), (70, 40, 4, 4)]
EMPTY = [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)]


def broadcast(values: Tensor | None, x: Tensor) -> Tensor | float:
    """Numbers [C] or [N, C] in the shape that multiplies x [N, C, ...]; None is left out by its neutral element."""
    return values.view(*([1] * (2 - values.ndim)), *values.shape, *[1] * (x.ndim - 2))


def plain_scale_shift(x: Tensor, scale: Tensor | None, shift: Tensor | None, act: str = "relu", alpha: float = 0.2):
    z = x if scale is None else x * broadcast(scale, x).to(x.dtype)
    return activations.value(act, z if shift is None else z + broadcast(shift, x).to(x.dtype), alpha)


def plain_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, act: str = "relu", alpha: float = 0.2):
    """Batch normalization; values per sample are a second step, as networks write it."""
    if weight is not None and weight.ndim == 1 and bias is not None and bias.ndim == 1:
        return activations.value(act, F.batch_norm(x, None, None, weight, bias, True), alpha)
    return plain_scale_shift(F.batch_norm(x, None, None, None, None, True), weight, bias, act, alpha)


def plain_instance_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, act: str = "relu", alpha: float = 0.2):
    return plain_scale_shift(F.instance_norm(x), weight, bias, act, alpha)


def written_out(x: Tensor, weight: Tensor, bias: Tensor, dims: tuple[int, ...], act: str) -> Tensor:
    """A normalization whose third derivative is right, unlike that of torch's own."""
    centered = x - x.mean(dims, keepdim=True)
    normalized = centered / (centered.square().mean(dims, keepdim=True) + 1e-5).sqrt()
    return plain_scale_shift(normalized, weight, bias, act)


class Op(NamedTuple):
    """x, scale or weight, shift or bias, act, alpha -> y."""

    ours: Callable[..., Tensor]
    plain: Callable[..., Tensor]


OPS = {
    "scale_shift_act": Op(functional.scale_shift_act, plain_scale_shift),
    "batch_norm": Op(lambda x, w, b, act="relu", alpha=0.2: functional.norm_act(x, w, b, act=act, alpha=alpha),
                     plain_norm),
    "instance_norm": Op(
        lambda x, w, b, act="relu", alpha=0.2: functional.norm_act(x, w, b, norm="instance", act=act, alpha=alpha),
        plain_instance_norm,
    ),
}  # fmt: skip
# Which values there are: per channel, per sample and channel, none.
NUMBERS = {"C": (1, 1), "NC": (2, 2), "mixed": (2, 1), "none": (None, None), "scale": (1, None), "shift": (None, 2)}


def inputs(shape, values="C", dtype=torch.float64, device="cpu") -> list[Tensor | None]:
    """x whose mean is not 0, and values per channel as under autocast: float32 beside halves."""
    count, channels = shape[:2]
    exact = torch.promote_types(dtype, torch.float32)
    shapes = {1: (channels,), 2: (count, channels)}
    x = (draw(shape) * 1.5 + 0.5).to(dtype).to(device)
    return [
        x,
        *(None if n is None else draw(shapes[n], exact, device, seed) for seed, n in enumerate(NUMBERS[values])),
    ]


def gradients(function: Callable[..., Tensor], tensors: list[Tensor | None], dy: Tensor, **options) -> list[Tensor]:
    """Of y, and with respect to all tensors that are there: y first."""
    tensors = [None if t is None else t.detach().requires_grad_() for t in tensors]
    y = function(*tensors, **options)
    return [y.detach(), *torch.autograd.grad(y, [t for t in tensors if t is not None], dy)]


def terms(op: str, tensors: list[Tensor | None], dy: Tensor) -> list[Tensor]:
    """What `gradients` of a plain op with relu would be if no two terms of a sum had different signs, in float64.

    A normalization is taken as the affine map of x / std that it is, x and its mean being terms of x - mean.
    """
    x, *values = tensors
    sizes = [None if t is None else t.abs() for t in values]
    if op == "scale_shift_act":
        return gradients(plain_scale_shift, [x.abs(), *sizes], dy.abs(), act="linear")
    dims = tuple(d for d in range(x.ndim) if d != 1 and (d > 0 or op == "batch_norm"))
    rstd = 1 / (x.var(dims, correction=0, keepdim=True) + 1e-5).sqrt()
    x = rstd * (x.abs() + x.mean(dims, keepdim=True).abs())
    y, dx, *of_numbers = gradients(plain_scale_shift, [x, *sizes], dy.abs(), act="linear")
    dx = rstd * (dx + dx.mean(dims, keepdim=True) + x * (x * dx).mean(dims, keepdim=True))
    return [y, dx, *of_numbers]


def double(tensors: list[Tensor | None]) -> list[Tensor | None]:
    return [None if t is None else t.detach().double().cpu() for t in tensors]
