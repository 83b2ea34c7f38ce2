"""Chains of normalization, bias and activation."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from fastgan import check, functional
from fastgan.fusion.chains.link import Link
from fastgan.intercept import Call


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
        return tuple(t for t in self.buffers if t is not None) if self.options["training"] else ()

    def again(self, call: Callable[[], Tensor]) -> Tensor:
        """From copies of the running statistics."""
        kept = [t.clone() for t in self.changes]
        out = call()
        for buffer, value in zip(self.changes, kept, strict=True):
            buffer.data.copy_(value)
        return out

    def follow(self, call: Call) -> Link | str:
        if call.name == "mul" and self.weight is None and self.bias is None:
            return self._with(call, "weight")
        if call.name == "add" and self.bias is None:
            return self._with(call, "bias")
        act = _activation(call)
        if act is None:
            return super().follow(call)
        return Activated(self.inputs, self.shape, self.dtype, self, *act)

    def _with(self, call: Call, name: str) -> Link | str:
        found = _per_channel(call, self.shape, self.dtype)
        if isinstance(found, str):
            return found
        given, values = found
        return replace(self, inputs=(*self.inputs, given), **{name: values})


@dataclass(frozen=True, eq=False)
class Activated(Link):
    """A normalization with its activation."""

    op = "norm_act"
    complete = True
    normalized: Normalized
    act: str
    alpha: float | None

    @property
    def kept(self) -> tuple[Tensor, ...]:
        """The bias: the slopes of the activation are computed again."""
        return () if self.normalized.bias is None else (self.normalized.bias,)

    def run(self) -> Tensor:
        n = self.normalized
        # As torch does it: an update of running statistics counts as no new version of them in any backward.
        buffers = [None if t is None else t.data for t in n.buffers]
        return functional.norm_act(n.inputs[0], n.weight, n.bias, *buffers, **n.options, act=self.act, alpha=self.alpha)

    def loss(self) -> str:
        x, per_sample = (
            self.normalized.inputs[0],
            any(t is not None and t.ndim == 2 for t in (self.normalized.weight, self.normalized.bias)),
        )
        usual = x.dtype == torch.float32 and x.is_contiguous()
        return _too_small(x, 2**18 if per_sample else 2**19 if usual else 2**21)


def begin_normalized(call: Call) -> Link | str:
    """The link after a call of batch_norm or instance_norm."""
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
    momentum, eps = a.get("momentum", 0.1), a.get("eps", 1e-5)
    if not _is_finite(momentum) or not _is_finite(eps) or (batch and (eps < 0 or (training and eps == 0))):
        return "its eps or momentum is not for norm_act"
    options = {"norm": "batch" if batch else "instance", "training": training, "eps": eps, "momentum": momentum}
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
    keep: str = "input"  # for a backward; "output" where torch keeps it too, and refuses that it is changed

    @property
    def kept(self) -> tuple[Tensor, ...]:
        """x and the bias, unless the activation would keep x itself."""
        if self.keep == "output" or (self.bias is None and self.act not in _KEEP_RESULTS):
            return ()
        return self.inputs

    @property
    def complete(self) -> bool:
        """An activation, and more than one call."""
        others = (self.bias, self.gain, self.clamp)
        return self.act is not None and any(other is not None for other in others)

    def follow(self, call: Call) -> Link | str:
        if self.act is None:
            act = _activation(call)
            if act is None:
                return super().follow(call)
            return replace(self, act=act[0], alpha=act[1], keep=_kept_by(call, act[0]))
        if self.keep == "output" and _in_place(call):
            return f"{call.name} changes what the backward of {self.act} needs"
        if call.name == "mul" and self.gain is None and self.clamp is None:
            gain = next((a for a in call.args if isinstance(a, (int, float))), call.kwargs.get("other"))
            return replace(self, gain=float(gain), keep="input") if _is_finite(gain) else super().follow(call)
        if call.name == "clamp" and self.clamp is None:
            low, high = (*call.args[1:], call.kwargs.get("min"), call.kwargs.get("max"))[:2]
            fits = _is_finite(low) and _is_finite(high) and 0 <= high == -low
            return replace(self, clamp=float(high), keep="input") if fits else super().follow(call)
        return super().follow(call)

    def run(self) -> Tensor:
        gain = 1.0 if self.gain is None else self.gain
        return functional.bias_act(self.x, self.bias, 1, self.act, self.alpha, gain, self.clamp, keep=self.keep)

    def loss(self) -> str:
        return _too_small(self.x, 2**15)


def _too_small(x: Tensor, least: int) -> str:
    """On a CPU, below so many elements; on a GPU the number of launches decides, and that is never larger."""
    if x.device.type != "cpu" or x.numel() >= least:
        return ""
    return f"the call would cost more than it saves for fewer than {least} values of {x.dtype}, got {x.numel()}"


def begin_biased(call: Call) -> Link | str:
    """The link after an addition or an activation."""
    x = call.args[0] if call.args else call.named().get("input")
    if not isinstance(x, Tensor) or x.dtype not in check.DTYPES or x.ndim < 2 or not x.numel():
        return "no images are added to"
    if call.name != "add":
        act = _activation(call)
        if act is None:
            return "the activation's settings are others"
        return Biased((x,), x.shape, x.dtype, x, None, *act, keep=_kept_by(call, act[0]))
    found = _per_channel(call, x.shape, x.dtype)
    if isinstance(found, str) or found[1].ndim != 1:
        return "what is added is no bias"
    given, bias = found
    return Biased((x, given), x.shape, x.dtype, x, bias)


def _per_channel(call: Call, shape: torch.Size, dtype: torch.dtype) -> tuple[Tensor, Tensor] | str:
    """The other operand of an addition or multiplication, and the same as [C] or [N, C]."""
    operands = [*call.args, *call.kwargs.values()]
    if len(operands) != 2:
        return f"{call.name} has more than two arguments"
    others = [t for t in operands if isinstance(t, Tensor) and (t.shape != shape or t.ndim < 2)]
    if len(others) != 1:
        return f"{call.name} is not with one value for each channel"
    (other,) = others
    broadcast = (1,) * (len(shape) - other.ndim) + tuple(other.shape)
    if len(broadcast) != len(shape) or any(size != 1 for size in broadcast[2:]):
        return f"{call.name} is not with one value for each channel"
    if broadcast[1] != shape[1] or broadcast[0] not in (1, shape[0]) or torch.result_type(other, other) != dtype:
        return f"{call.name} is not with one value for each channel, of the same dtype"
    return other, other.reshape(-1 if broadcast[0] == 1 else broadcast[:2])


def _is_finite(value: Any) -> bool:
    """What ours take: torch takes infinities and NaN too, and refuses larger integers."""
    return isfinite(value) if isinstance(value, float) else isinstance(value, int) and -(2**63) <= value < 2**63


def _activation(call: Call) -> tuple[str, float | None] | None:
    """Name and alpha of ours; None if it is none of them."""
    act = ACTIVATIONS.get(call.name)
    if act is None:
        return None
    a = call.named()
    if act == "lrelu":
        slope = a.get("negative_slope", 0.01)
        return (act, float(slope)) if _is_finite(slope) and slope >= 0 else None
    plain = all(a.get(name, default) == default for name, default in _DEFAULTS.get(call.name, {}).items())
    return (act, None) if plain else None


def _kept_by(call: Call, act: str) -> str:
    """What torch keeps for the backward of an activation."""
    return "output" if act in _KEEP_RESULTS or _in_place(call) else "input"


def _in_place(call: Call) -> bool:
    name = getattr(call.function, "__name__", "")
    return (
        name.endswith("_") or name.startswith("__i") or any(a is True for a in (*call.args, call.kwargs.get("inplace")))
    )


_KEEP_RESULTS = ("relu", "tanh", "sigmoid")
ACTIVATIONS = {name: name for name in ("relu", "tanh", "sigmoid", "elu", "selu", "softplus", "gelu")} | {
    "silu": "swish",
    "leaky_relu": "lrelu",
}
# What ours compute.
_DEFAULTS = {"elu": {"alpha": 1}, "softplus": {"beta": 1, "threshold": 20}, "gelu": {"approximate": "none"}}
