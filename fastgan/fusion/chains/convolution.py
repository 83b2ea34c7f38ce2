"""Chains that begin with a convolution, and what convolutions with resampling run as."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastgan import check, functional
from fastgan.autocast import autocast_dtype
from fastgan.convolution.forms import Options, is_product
from fastgan.fusion.chains.arguments import each, shrinkage
from fastgan.fusion.chains.link import Link
from fastgan.intercept import Call


@dataclass(frozen=True, eq=False)
class Convolved(Link):
    """A convolution, before its pooling, or alone."""

    op = "pointwise_conv"
    complete = True
    bias: Tensor | None
    options: dict[str, Any]

    def follow(self, call: Call) -> Link | str:
        n = len(self.shape) - 2
        scale = shrinkage(call, self.shape)
        if isinstance(scale, str):
            return super().follow(call) if scale == "" else scale
        x, weight = self.inputs[:2]
        shape = torch.Size([*self.shape[:2], *(size // s for size, s in zip(self.shape[2:], scale, strict=True))])
        return Resampled(
            self.inputs, shape, self.dtype,
            getattr(functional, f"conv_downsample{n}d"), (x, weight, self.bias),
            {"scale_factor": scale, **self.options},
        )  # fmt: skip

    def run(self) -> Tensor:
        n = len(self.shape) - 2
        return getattr(functional, f"conv{n}d")(*self.inputs[:2], self.bias, **self.options)

    def loss(self) -> str:
        """Where the kernel is no matrix."""
        n, (x, weight) = len(self.shape) - 2, self.inputs[:2]
        padding, dilation = list(self.options["padding"]), list(self.options["dilation"])
        options = Options([1] * n, padding, dilation, False, [0] * n, self.options["groups"])
        return "" if is_product(x, weight, options) else "torch's own form is the fastest known"


@dataclass(frozen=True, eq=False)
class Resampled(Link):
    """A convolution with its resampling."""

    complete = True
    function: Callable
    arguments: tuple[Tensor, Tensor, Tensor | None]
    options: dict[str, Any]

    @property
    def kept(self) -> tuple[Tensor, ...]:
        """The small image, where the convolution would keep the large one."""
        return self.arguments[:1] if self.op == "upsample_conv" else ()

    @property
    def op(self) -> str:
        return self.function.__name__[: -len("2d")]

    def run(self) -> Tensor:
        return self.function(*self.arguments, **self.options)

    def loss(self) -> str:
        """Where the form that runs is the plain one."""
        form = functional.resampling_form(self.function, *self.arguments, **self.options)
        return form.reason if form.name == "plain" else ""


def begin_convolved(call: Call) -> Link | str:
    """The link after a convolution."""
    return convolved(call, int(call.name[4]))


def convolved(call: Call, n: int) -> Convolved | str:
    """The link after a convolution along n axes, or what is unusual in it."""
    a = call.named()
    x, weight, bias = a["input"], a["weight"], a.get("bias")
    if x.ndim != n + 2 or not x.numel():
        return f"the convolution's input is {check.describe(x)}"
    if any(stride != 1 for stride in each(a.get("stride", 1), n)):
        return "the convolution is strided"
    dilation, groups, padding = each(a.get("dilation", 1), n, least=1), a.get("groups", 1), a.get("padding", 0)
    if weight.ndim != n + 2 or groups < 1 or (isinstance(padding, str) and padding not in ("same", "valid")):
        return "its arguments do not fit"
    reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    if padding == "same" and any(r % 2 for r in reach):
        return 'the kernel is even and padding is "same"'
    if isinstance(padding, str):
        padding = [r // 2 if padding == "same" else 0 for r in reach]
    padding = each(padding, n, least=0)
    shape = [size + 2 * p - r for size, p, r in zip(x.shape[2:], padding, reach, strict=True)]
    dtype = _convolution_dtype(x)
    fits = x.shape[1] == weight.shape[1] * groups and weight.shape[0] % groups == 0
    fits = fits and (bias is None or bias.shape == weight.shape[:1])
    if not fits or min(shape) < 1 or _convolution_dtype(weight) != dtype:
        return "its arguments do not fit"
    given = (x, weight) if bias is None else (x, weight, bias)
    options = {"padding": padding, "dilation": dilation, "groups": groups}
    return Convolved(given, torch.Size([x.shape[0], weight.shape[0], *shape]), dtype, bias, options)


def _convolution_dtype(x: Tensor) -> torch.dtype:
    cast = None if x.dtype == torch.float64 else autocast_dtype(x.device.type)
    return x.dtype if cast is None else cast
