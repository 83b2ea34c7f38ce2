"""Chains of torch calls that one function of ours computes: how a chain begins, how it goes on, what it runs as.

A *link* is what is known behind a call of a chain, which has not run yet since the next one may take its result. Links
are pure: they look at arguments and never compute. What is not a link is a sentence that says why not.

    upsample_conv       interpolate (nearest) -> convolution
    conv_downsample     convolution -> average pooling
    norm_act            batch_norm or instance_norm [-> * gain] [-> + bias] -> activation
    bias_act            [+ bias ->] activation [-> * gain] [-> clamp], two of these or more
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastgan import check, functional
from fastgan.intercept import Call

OPS = ("upsample_conv", "conv_downsample", "norm_act", "bias_act")


@dataclass(frozen=True, eq=False)
class Link:
    """What is known behind a call.

    Args:
        inputs: the tensors that the result is made of.
        shape: of the result.
        dtype: of the result.
    """

    op: ClassVar[str]
    complete: ClassVar[bool] = False  # whether `run` computes what the calls so far would
    changes: ClassVar[tuple[Tensor, ...]] = ()  # what the calls so far change in place
    inputs: tuple[Tensor, ...]
    shape: torch.Size
    dtype: torch.dtype

    def follow(self, call: Call) -> "Link | str":
        """The link behind `call`, whose first activation is this link's result; or why it cannot be in the chain."""
        return f"its result goes to {call.name}"

    def run(self) -> Tensor:
        """The result of the chain so far, by our function."""
        raise NotImplementedError

    def again(self, call: Callable[[], Tensor]) -> Tensor:
        """What the user's call returned, after the chain has run: nothing is changed in place a second time."""
        return call()

    def loss(self) -> str:
        """Why running it as one would not pay; empty if it does."""
        return ""


def follow(link: Link, call: Call, result: Tensor) -> Link | str:
    """The link behind a call that takes the result of another link; or why it cannot be in the chain."""
    if (
        call.name not in ("add", "mul")
        and not (call.args and call.args[0] is result)
        and (call.kwargs.get("input") is not result)
    ):
        return f"its result is not the first argument of {call.name}"
    return link.follow(call)


# --- convolutions with resampling ---


@dataclass(frozen=True, eq=False)
class Upsampled(Link):
    """Nearest-neighbour upsampling, before its convolution."""

    op = "upsample_conv"
    scale: tuple[int, ...]

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
class Convolved(Link):
    """A convolution, before its pooling."""

    op = "conv_downsample"
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


@dataclass(frozen=True, eq=False)
class Resampled(Link):
    """A convolution with its resampling."""

    op = "resampled_conv"
    complete = True
    function: Callable
    arguments: tuple[Tensor, Tensor, Tensor | None]
    options: dict[str, Any]

    def run(self) -> Tensor:
        """By `upsample_conv` or `conv_downsample`."""
        return self.function(*self.arguments, **self.options)

    def loss(self) -> str:
        """Where the form that runs is the plain one."""
        form = functional.resampling_form(self.function, *self.arguments, **self.options)
        return form.reason if form.name == "plain" else ""


def begin_upsampled(call: Call) -> Link | str:
    """The link behind a call of interpolate."""
    a = call.named()
    x, mode = a["input"], a.get("mode", "nearest")
    if mode not in ("nearest", "nearest-exact"):
        return f"{mode} interpolation before a padded convolution does not fold"
    if not 3 <= x.ndim <= 5 or x.dtype not in check.DTYPES or not x.numel():
        return f"its input is {check.describe(x)}"
    scale = _scale(x, a.get("size"), a.get("scale_factor"))
    if scale is None:
        return "its scale is not a whole number"
    shape = torch.Size([*x.shape[:2], *(size * s for size, s in zip(x.shape[2:], scale, strict=True))])
    return Upsampled((x,), shape, x.dtype, scale)


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
    device = x.device.type
    cast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device) and x.dtype != torch.float64
    return torch.get_autocast_dtype(device) if cast else x.dtype


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


# --- normalization, bias and activation ---


@dataclass(frozen=True, eq=False)
class Normalized(Link):
    """A normalization with gains and biases, before its activation."""

    op = "norm_act"
    weight: Tensor | None  # [C] or [N, C]
    bias: Tensor | None
    buffers: tuple[Tensor | None, Tensor | None]
    options: dict[str, Any]

    @property
    def changes(self) -> tuple[Tensor, ...]:
        """The running statistics in training."""
        return tuple(t for t in self.buffers if t is not None) if self.options["training"] else ()

    def again(self, call: Callable[[], Tensor]) -> Tensor:
        """From copies of the running statistics."""
        kept = [t.clone() for t in self.changes]
        out = call()
        for buffer, value in zip(self.changes, kept, strict=True):
            buffer.data.copy_(value)
        return out

    def follow(self, call: Call) -> Link | str:
        """Gains, biases or an activation."""
        if call.name == "mul" and self.weight is None and self.bias is None:
            return self._with(call, "weight")
        if call.name == "add" and self.bias is None:
            return self._with(call, "bias")
        act = _activation(call)
        if act is None:
            return super().follow(call)
        return Activated(self.inputs, self.shape, self.dtype, self, *act)

    def _with(self, call: Call, name: str) -> Link | str:
        found = _numbers(call, self.shape, self.dtype)
        if isinstance(found, str):
            return found
        given, numbers = found
        return replace(self, inputs=(*self.inputs, given), **{name: numbers})


@dataclass(frozen=True, eq=False)
class Activated(Link):
    """A normalization with its activation."""

    op = "norm_act"
    complete = True
    normalized: Normalized
    act: str
    alpha: float | None

    def run(self) -> Tensor:
        """By `norm_act`."""
        n = self.normalized
        # As torch does it: an update of running statistics is no new version of them, to nobody's backward.
        buffers = [None if t is None else t.data for t in n.buffers]
        return functional.norm_act(n.inputs[0], n.weight, n.bias, *buffers, **n.options, act=self.act, alpha=self.alpha)

    def loss(self) -> str:
        """Where images are small."""
        x, per_sample = (
            self.normalized.inputs[0],
            any(t is not None and t.ndim == 2 for t in (self.normalized.weight, self.normalized.bias)),
        )
        usual = x.dtype == torch.float32 and x.is_contiguous()
        return _too_small(x, 2**18 if usual else 2**20 if per_sample else 2**22)


def begin_normalized(call: Call) -> Link | str:
    """The link behind a call of batch_norm or instance_norm."""
    a, batch = call.named(), call.name == "batch_norm"
    x, weight, bias = a["input"], a.get("weight"), a.get("bias")
    training = bool(a.get("training", False) if batch else a.get("use_input_stats", True))
    buffers = a.get("running_mean"), a.get("running_var")
    if x.ndim < 2 or x.dtype not in check.DTYPES:
        return f"its input is {check.describe(x)}"
    values = x.numel() // (x.shape[1] if batch else max(x.shape[0] * x.shape[1], 1)) if x.numel() else 0
    if values < 2 or (buffers[0] is None) != (buffers[1] is None) or (buffers[0] is None and not training):
        return "its arguments are not for norm_act"
    if any(t is not None and t.shape != x.shape[1:2] for t in (weight, bias, *buffers)):
        return "its arguments do not fit"
    momentum = a.get("momentum", 0.1)
    options = {
        "norm": "batch" if batch else "instance", "training": training, "eps": a.get("eps", 1e-5),
        "momentum": momentum if momentum is not None else 0.0,
    }  # fmt: skip
    given = tuple(t for t in (x, weight, bias, *buffers) if t is not None)
    return Normalized(given, x.shape, x.dtype, weight, bias, buffers, options)


@dataclass(frozen=True, eq=False)
class Biased(Link):
    """A bias that was added, an activation, a gain, a clamp: as many as came so far, in this order."""

    op = "bias_act"
    x: Tensor
    bias: Tensor | None
    act: str | None = None
    alpha: float | None = None
    gain: float | None = None
    clamp: float | None = None

    @property
    def complete(self) -> bool:
        """An activation, and more than one call."""
        others = (self.bias, self.gain, self.clamp)
        return self.act is not None and any(other is not None for other in others)

    def follow(self, call: Call) -> Link | str:
        """The next of them."""
        if self.act is None:
            act = _activation(call)
            return super().follow(call) if act is None else replace(self, act=act[0], alpha=act[1])
        if call.name == "mul" and self.gain is None and self.clamp is None:
            gain = next((a for a in call.args if isinstance(a, (int, float))), call.kwargs.get("other"))
            return replace(self, gain=float(gain)) if isinstance(gain, (int, float)) else super().follow(call)
        if call.name == "clamp" and self.clamp is None:
            low, high = (*call.args[1:], call.kwargs.get("min"), call.kwargs.get("max"))[:2]
            numbers = isinstance(low, (int, float)) and isinstance(high, (int, float))
            return replace(self, clamp=float(high)) if numbers and 0 <= high == -low else super().follow(call)
        return super().follow(call)

    def run(self) -> Tensor:
        """By `bias_act`."""
        gain = 1.0 if self.gain is None else self.gain
        return functional.bias_act(self.x, self.bias, 1, self.act, self.alpha, gain, self.clamp)

    def loss(self) -> str:
        """Where x is small."""
        return _too_small(self.x, 2**15)


def _too_small(x: Tensor, least: int) -> str:
    """On a CPU, below so many elements; on a GPU the number of launches decides, and that is never larger."""
    if x.device.type != "cpu" or x.numel() >= least:
        return ""
    return f"the call would cost more than it saves: {x.numel()} of {x.dtype}, where {least} pay"


def begin_biased(call: Call) -> Link | str:
    """The link behind an addition or an activation."""
    x = call.args[0] if call.args else call.named().get("input")
    if not isinstance(x, Tensor) or x.dtype not in check.DTYPES or x.ndim < 2 or not x.numel():
        return "no images are added to"
    if call.name != "add":
        act = _activation(call)
        return "the activation's settings are others" if act is None else Biased((x,), x.shape, x.dtype, x, None, *act)
    found = _numbers(call, x.shape, x.dtype)
    if isinstance(found, str) or found[1].ndim != 1:
        return "what is added is no bias"
    given, bias = found
    return Biased((x, given), x.shape, x.dtype, x, bias)


def _numbers(call: Call, shape: torch.Size, dtype: torch.dtype) -> tuple[Tensor, Tensor] | str:
    """The other operand of an addition or multiplication, and the same as [C] or [N, C]."""
    operands = [*call.args, *call.kwargs.values()]
    if len(operands) != 2:
        return f"{call.name} has more than two arguments"
    others = [t for t in operands if isinstance(t, Tensor) and (t.shape != shape or t.ndim < 2)]
    if len(others) != 1:
        return f"{call.name} is not with a number for every channel"
    (other,) = others
    broadcast = (1,) * (len(shape) - other.ndim) + tuple(other.shape)
    if len(broadcast) != len(shape) or any(size != 1 for size in broadcast[2:]):
        return f"{call.name} is not with a number for every channel"
    if broadcast[1] != shape[1] or broadcast[0] not in (1, shape[0]) or torch.result_type(other, other) != dtype:
        return f"{call.name} is not with a number for every channel, of the same dtype"
    return other, other.reshape(-1 if broadcast[0] == 1 else broadcast[:2])


def _activation(call: Call) -> tuple[str, float | None] | None:
    """Name and alpha of ours; None if it is none of them."""
    act = _ACTIVATIONS.get(call.name)
    if act is None:
        return None
    a = call.named()
    if act == "lrelu":
        slope = a.get("negative_slope", 0.01)
        return (act, float(slope)) if slope >= 0 else None
    plain = all(a.get(name, default) == default for name, default in _DEFAULTS.get(call.name, {}).items())
    return (act, None) if plain else None


_ACTIVATIONS = {name: name for name in ("relu", "tanh", "sigmoid", "elu", "selu", "softplus", "gelu")} | {
    "silu": "swish",
    "leaky_relu": "lrelu",
}
# What ours compute.
_DEFAULTS = {"elu": {"alpha": 1}, "softplus": {"beta": 1, "threshold": 20}, "gelu": {"approximate": "none"}}

BEGINNINGS: dict[str, Callable[[Call], Link | str]] = {
    "interpolate": begin_upsampled,
    "upsample": begin_upsampled,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), begin_convolved),
    **dict.fromkeys(("batch_norm", "instance_norm"), begin_normalized),
    **dict.fromkeys(("add", *_ACTIVATIONS), begin_biased),
}
