"""Chains that begin with upsampling, and pooling alone."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastgan import check, functional
from fastgan.fusion.chains.arguments import each, growth, shrinkage
from fastgan.fusion.chains.convolution import Convolved, Resampled, convolved
from fastgan.fusion.chains.link import Link
from fastgan.intercept import Call
from fastgan.ops import resample


@dataclass(frozen=True, eq=False)
class Upsampled(Link):
    """Nearest-neighbour upsampling, before its convolution."""

    scale: tuple[int, ...]

    @property
    def op(self) -> str:
        return "resample" if self.complete else "upsample_conv"

    @property
    def complete(self) -> bool:
        return resample.is_faster(self.inputs[0], self.scale, up=True)

    def run(self) -> Tensor:
        return resample.nearest(self.inputs[0], self.scale[0], functional.upfirdn2d)

    def follow(self, call: Call) -> Link | str:
        n = len(self.scale)
        if call.name != f"conv{n}d":
            return super().follow(call)
        taken = convolved(call, n)
        if isinstance(taken, str):
            return taken
        (x,), weight, bias = self.inputs, taken.inputs[1], taken.bias
        if taken.inputs[0].dtype != x.dtype:
            return "the upsampled image has another dtype"
        return Resampled(
            (x, *taken.inputs[1:]), taken.shape, taken.dtype,
            getattr(functional, f"upsample_conv{n}d"), (x, weight, bias), {"scale_factor": self.scale, **taken.options},
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Interpolated(Link):
    """Upsampling by another interpolation, before a 1x1 convolution: its weights sum to one, so the two commute."""

    call: Call

    @property
    def op(self) -> str:
        return "resample" if self.complete else "upsample_conv"

    @property
    def complete(self) -> bool:
        return _is_tent(self.inputs[0], self.call.named())

    @property
    def kept(self) -> tuple[Tensor, ...]:
        """Its margin is repeated first, which keeps it."""
        return self.inputs

    def run(self) -> Tensor:
        return _interpolate(self.inputs[0], self.call.named())

    def follow(self, call: Call) -> Link | str:
        n, (x,) = len(self.shape) - 2, self.inputs
        if call.name != f"conv{n}d":
            return super().follow(call)
        taken = convolved(call, n)
        if isinstance(taken, str):
            return taken
        if any(k > 1 for k in taken.inputs[1].shape[2:]) or any(taken.options["padding"]):
            return f"{self.call.named()['mode']} interpolation before a padded convolution does not fold"
        if taken.inputs[0].dtype != x.dtype or taken.dtype != x.dtype:
            return "the upsampled image has another dtype"
        return Exchanged((x, *taken.inputs[1:]), taken.shape, taken.dtype, taken, self.call.named())


@dataclass(frozen=True, eq=False)
class Exchanged(Link):
    """A 1x1 convolution, and then the interpolation that was called before it."""

    op = "upsample_conv"
    complete = True
    convolved: Convolved
    arguments: dict[str, Any]

    @property
    def kept(self) -> tuple[Tensor, ...]:
        """The small image, where the convolution would keep the large one."""
        return self.inputs[:1]

    def run(self) -> Tensor:
        x, weight = self.inputs[:2]
        n = len(self.shape) - 2
        y = getattr(functional, f"conv{n}d")(x, weight, self.convolved.bias, groups=self.convolved.options["groups"])
        return _interpolate(y, self.arguments)

    def loss(self) -> str:
        """Where the convolution makes more channels of few."""
        channels, fewer = self.shape[1], self.inputs[0].shape[1]
        return f"{channels} channels would be interpolated instead of {fewer}" if channels > fewer else ""


@dataclass(frozen=True, eq=False)
class Pooled(Link):
    """Means of blocks of pixels."""

    op = "resample"
    complete = True
    scale: tuple[int, ...]

    def run(self) -> Tensor:
        return resample.mean(self.inputs[0], self.scale[0], functional.upfirdn2d)

    def loss(self) -> str:
        return "" if resample.is_faster(self.inputs[0], self.scale, up=False) else "torch's own is as fast"


def begin_pooled(call: Call) -> Link | str:
    """The link after a call of avg_pool2d."""
    x = call.named()["input"]
    if x.ndim != 4 or x.dtype not in check.DTYPES or not x.numel():
        return f"its input is {check.describe(x)}"
    scale = shrinkage(call, x.shape)
    if isinstance(scale, str):
        return scale
    shape = torch.Size([*x.shape[:2], *(size // s for size, s in zip(x.shape[2:], scale, strict=True))])
    return Pooled((x,), shape, x.dtype, scale)


def begin_upsampled(call: Call) -> Link | str:
    """The link after a call of interpolate."""
    a = call.named()
    x, mode = a["input"], a.get("mode", "nearest")
    if not 3 <= x.ndim <= 5 or x.dtype not in check.DTYPES or not x.numel():
        return f"its input is {check.describe(x)}"
    if mode not in ("nearest", "nearest-exact"):
        return _begin_interpolated(call, x)
    scale = growth(x, a.get("size"), a.get("scale_factor"))
    if scale is None:
        return "its scale is not a whole number"
    shape = torch.Size([*x.shape[:2], *(size * s for size, s in zip(x.shape[2:], scale, strict=True))])
    return Upsampled((x,), shape, x.dtype, scale)


def _begin_interpolated(call: Call, x: Tensor) -> Link | str:
    a, n = call.named(), x.ndim - 2
    if a.get("size") is not None:
        size = each(a["size"], n, one_for_all=False)
    else:
        factors = each(a.get("scale_factor"), n, one_for_all=False)
        size = tuple(int(old * factor) for old, factor in zip(x.shape[2:], factors, strict=True))
    if any(new < old for new, old in zip(size, x.shape[2:], strict=True)):
        return "it makes its input smaller"
    return Interpolated((x,), torch.Size([*x.shape[:2], *size]), x.dtype, call)


def _is_tent(x: Tensor, arguments: dict[str, Any]) -> bool:
    """Whether it is bilinear upsampling that a filter does faster."""
    if arguments["mode"] != "bilinear" or arguments.get("align_corners"):
        return False
    scale = growth(x, arguments.get("size"), arguments.get("scale_factor"))
    return scale is not None and resample.is_faster(x, scale, up=True)


def _interpolate(x: Tensor, arguments: dict[str, Any]) -> Tensor:
    if _is_tent(x, arguments):
        scale = growth(x, arguments.get("size"), arguments.get("scale_factor"))
        return resample.bilinear(x, scale[0], functional.upfirdn2d)
    return torch.nn.functional.interpolate(**(arguments | {"input": x}))
