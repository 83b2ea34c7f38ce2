"""Chains of a convolution and its resampling."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastgan import check, functional
from fastgan.autocast import autocast_dtype
from fastgan.fusion.chains.link import Link
from fastgan.intercept import Call
from fastgan.ops import resample
from fastgan.ops.convolution_form import Options, is_product


@dataclass(frozen=True, eq=False)
class Upsampled(Link):
    """Nearest-neighbour upsampling, before its convolution."""

    scale: tuple[int, ...]

    @property
    def op(self) -> str:
        """What it is, alone."""
        return "resample" if self.complete else "upsample_conv"

    @property
    def complete(self) -> bool:
        """Where a filter is faster."""
        return resample.is_faster(self.inputs[0], self.scale, up=True)

    def run(self) -> Tensor:
        """By a filter."""
        return resample.nearest(self.inputs[0], self.scale[0], functional.upfirdn2d)

    def follow(self, call: Call) -> Link | str:
        """A convolution."""
        n = len(self.scale)
        if call.name != f"conv{n}d":
            return super().follow(call)
        taken = _convolution(call, n)
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
        """What it is, alone."""
        return "resample" if self.complete else "upsample_conv"

    @property
    def complete(self) -> bool:
        """Where a filter is faster."""
        return _is_tent(self.inputs[0], self.call.named())

    def run(self) -> Tensor:
        """By a filter."""
        return _interpolate(self.inputs[0], self.call.named())

    def follow(self, call: Call) -> Link | str:
        """Such a convolution."""
        n, (x,) = len(self.shape) - 2, self.inputs
        if call.name != f"conv{n}d":
            return super().follow(call)
        taken = _convolution(call, n)
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
    convolved: "Convolved"
    arguments: dict[str, Any]

    def run(self) -> Tensor:
        """On the small image."""
        x, weight = self.inputs[:2]
        n = len(self.shape) - 2
        y = getattr(functional, f"conv{n}d")(x, weight, self.convolved.bias, groups=self.convolved.options["groups"])
        return _interpolate(y, self.arguments)

    def loss(self) -> str:
        """Where the convolution makes more channels of few."""
        channels, fewer = self.shape[1], self.inputs[0].shape[1]
        return f"{channels} channels would be interpolated instead of {fewer}" if channels > fewer else ""


@dataclass(frozen=True, eq=False)
class Convolved(Link):
    """A convolution, before its pooling, or alone."""

    op = "pointwise_conv"
    complete = True
    bias: Tensor | None
    options: dict[str, Any]

    def follow(self, call: Call) -> Link | str:
        """Average pooling."""
        n = len(self.shape) - 2
        scale = _pooled(call, self.shape)
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
        """By `fastgan.functional.conv2d`."""
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
    def op(self) -> str:
        """`upsample_conv` or `conv_downsample`."""
        return self.function.__name__[: -len("2d")]

    def run(self) -> Tensor:
        """By this."""
        return self.function(*self.arguments, **self.options)

    def loss(self) -> str:
        """Where the form that runs is the plain one."""
        form = functional.resampling_form(self.function, *self.arguments, **self.options)
        return form.reason if form.name == "plain" else ""


def begin_upsampled(call: Call) -> Link | str:
    """The link behind a call of interpolate."""
    a = call.named()
    x, mode = a["input"], a.get("mode", "nearest")
    if not 3 <= x.ndim <= 5 or x.dtype not in check.DTYPES or not x.numel():
        return f"its input is {check.describe(x)}"
    if mode not in ("nearest", "nearest-exact"):
        return _begin_interpolated(call, x)
    scale = _scale(x, a.get("size"), a.get("scale_factor"))
    if scale is None:
        return "its scale is not a whole number"
    shape = torch.Size([*x.shape[:2], *(size * s for size, s in zip(x.shape[2:], scale, strict=True))])
    return Upsampled((x,), shape, x.dtype, scale)


def _begin_interpolated(call: Call, x: Tensor) -> Link | str:
    a, n = call.named(), x.ndim - 2
    if a.get("size") is not None:
        size = _each(a["size"], n)
    else:
        size = tuple(int(old * factor) for old, factor in zip(x.shape[2:], _each(a["scale_factor"], n), strict=True))
    if any(new < old for new, old in zip(size, x.shape[2:], strict=True)):
        return "it makes its input smaller"
    return Interpolated((x,), torch.Size([*x.shape[:2], *size]), x.dtype, call)


@dataclass(frozen=True, eq=False)
class Pooled(Link):
    """Means of blocks of pixels."""

    op = "resample"
    complete = True
    scale: tuple[int, ...]

    def run(self) -> Tensor:
        """By a filter."""
        return resample.mean(self.inputs[0], self.scale[0], functional.upfirdn2d)

    def loss(self) -> str:
        """Where torch's own is as fast."""
        return "" if resample.is_faster(self.inputs[0], self.scale, up=False) else "torch's own is as fast"


def begin_pooled(call: Call) -> Link | str:
    """The link behind a call of avg_pool2d."""
    x = call.named()["input"]
    if x.ndim != 4 or x.dtype not in check.DTYPES or not x.numel():
        return f"its input is {check.describe(x)}"
    scale = _pooled(call, x.shape)
    if isinstance(scale, str):
        return scale
    shape = torch.Size([*x.shape[:2], *(size // s for size, s in zip(x.shape[2:], scale, strict=True))])
    return Pooled((x,), shape, x.dtype, scale)


def _is_tent(x: Tensor, arguments: dict[str, Any]) -> bool:
    """Whether it is bilinear upsampling that a filter does faster."""
    if arguments["mode"] != "bilinear" or arguments.get("align_corners"):
        return False
    scale = _scale(x, arguments.get("size"), arguments.get("scale_factor"))
    return scale is not None and resample.is_faster(x, scale, up=True)


def _interpolate(x: Tensor, arguments: dict[str, Any]) -> Tensor:
    if _is_tent(x, arguments):
        scale = _scale(x, arguments.get("size"), arguments.get("scale_factor"))
        return resample.bilinear(x, scale[0], functional.upfirdn2d)
    return torch.nn.functional.interpolate(**(arguments | {"input": x}))


def begin_convolved(call: Call) -> Link | str:
    """The link behind a convolution."""
    return _convolution(call, int(call.name[4]))


def _scale(x: Tensor, size: Any, factor: Any) -> tuple[int, ...] | None:
    """Whole numbers by which every axis grows; None if they are none."""
    n = x.ndim - 2
    if size is not None:
        sizes = _each(size, n)
        if any(new % old for new, old in zip(sizes, x.shape[2:], strict=True)):
            return None
        scale = tuple(new // old for new, old in zip(sizes, x.shape[2:], strict=True))
    else:
        factors = _each(factor, n)
        scale = tuple(int(f) for f in factors)
        if any(s != f for s, f in zip(scale, factors, strict=True)):
            return None
    return scale if min(scale) >= 1 else None


def _convolution(call: Call, n: int) -> Convolved | str:
    a = call.named()
    x, weight, bias = a["input"], a["weight"], a.get("bias")
    if x.ndim != n + 2 or not x.numel():
        return f"the convolution's input is {check.describe(x)}"
    if any(stride != 1 for stride in _each(a.get("stride", 1), n)):
        return "the convolution is strided"
    dilation, groups, padding = _each(a.get("dilation", 1), n), a.get("groups", 1), a.get("padding", 0)
    reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    if padding == "same" and any(r % 2 for r in reach):
        return 'the kernel is even and padding is "same"'
    if isinstance(padding, str):
        padding = [r // 2 if padding == "same" else 0 for r in reach]
    padding = _each(padding, n)
    shape = [size + 2 * p - r for size, p, r in zip(x.shape[2:], padding, reach, strict=True)]
    dtype = _convolution_dtype(x)
    fits = weight.ndim == n + 2 and x.shape[1] == weight.shape[1] * groups and weight.shape[0] % groups == 0
    fits = fits and (bias is None or bias.shape == weight.shape[:1])
    if not fits or min(shape) < 1 or _convolution_dtype(weight) != dtype:
        return "its arguments do not fit"
    given = (x, weight) if bias is None else (x, weight, bias)
    options = {"padding": padding, "dilation": dilation, "groups": groups}
    return Convolved(given, torch.Size([x.shape[0], weight.shape[0], *shape]), dtype, bias, options)


def _convolution_dtype(x: Tensor) -> torch.dtype:
    cast = None if x.dtype == torch.float64 else autocast_dtype(x.device.type)
    return x.dtype if cast is None else cast


def _pooled(call: Call, shape: Sequence[int]) -> tuple[int, ...] | str:
    """By how much a call averages; else why it does not fit, "" if it is no pooling at all."""
    n, a = len(shape) - 2, call.named() if call.name.endswith(f"avg_pool{len(shape) - 2}d") else {}
    if call.name == f"avg_pool{n}d":
        scale = _each(a["kernel_size"], n)
        if (stride := a.get("stride")) not in (None, (), []) and _each(stride, n) != scale:
            return "its windows overlap or leave pixels out"
        if any(_each(a.get("padding", 0), n)) or a.get("divisor_override"):
            return "the pooling is padded or has a divisor of its own"
        if a.get("ceil_mode") and any(size % s for size, s in zip(shape[2:], scale, strict=True)):
            return "the pooling's last windows are cut off"
    elif call.name == f"adaptive_avg_pool{n}d":
        sizes = [old if new is None else new for old, new in zip(shape[2:], _each(a["output_size"], n), strict=True)]
        if any(new < 1 or old % new for old, new in zip(shape[2:], sizes, strict=True)):
            return "the windows of the pooling differ"
        scale = tuple(old // new for old, new in zip(shape[2:], sizes, strict=True))
    else:
        return ""
    return "the pooling leaves nothing" if any(size < s for size, s in zip(shape[2:], scale, strict=True)) else scale


def _each(value: Any, n: int) -> tuple:
    """One for each axis."""
    if isinstance(value, (tuple, list)):
        return tuple(value) * n if len(value) == 1 else tuple(value)
    return (value,) * n
