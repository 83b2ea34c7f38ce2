"""Checks of arguments. A message names the argument, what came and what is accepted."""

import reprlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from math import inf, prod
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from fastgan.autocast import autocast_dtype

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# kMostNumbers in csrc/sizes.h: no tensor has so many, and no count of bytes of so many overflows.
MOST_NUMBERS = 2**56
MOST_INT = 2**31 - 1
_LARGEST = sys.float_info.max


class _Short(reprlib.Repr):
    """Values in one line at most; of a tensor, wherever it is in them, what it is."""

    def repr1(self, x: Any, level: int) -> str:
        if isinstance(x, Tensor):
            return f"{x.dtype} {list(x.shape)} on {x.device}"
        if isinstance(x, int) and abs(x) >= 10**40:  # Python may refuse to write it
            return f"({x.bit_length()} bits)"
        return " ".join(super().repr1(x, level).split())


_representation = _Short()
_representation.maxstring = _representation.maxother = 80


def short(value: Any) -> str:
    """The value, or its beginning; of a tensor dtype, shape and device."""
    return _representation.repr(value)


def describe(value: Any) -> str:
    """What came: the type, but of a tensor, and `short`."""
    return short(value) if isinstance(value, Tensor) else f"{type(value).__name__} {short(value)}"


def size(shape: Sequence[int], what: str) -> None:
    """No more elements than a tensor can have, of something that is about to be made; symbolic sizes are not asked."""
    if all(type(s) is int for s in shape) and prod(shape) > MOST_NUMBERS:
        raise RuntimeError(f"{what} would have the sizes {short(list(shape))}: more than 2^56 elements")


def tensor_list(value: Any, name: str) -> None:
    """A list or tuple of at least one tensor."""
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{name} must be a list of tensors, got {describe(value)}")
    if not value:
        raise ValueError(f"{name} must hold at least one tensor, got an empty list")
    for i, item in enumerate(value):
        if not isinstance(item, Tensor):
            raise TypeError(f"{name}[{i}] must be a tensor, got {describe(item)}")


def samples(value: Any, name: str) -> None:
    """A floating-point tensor [N, ...]."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {describe(value)}")
    if value.dtype not in DTYPES:
        dtype(value.dtype, f"{name}.dtype")
    if value.ndim < 1:
        raise ValueError(f"{name} must be [N, ...] with one or more dimensions, got {describe(value)}")


def per_sample(value: Any, name: str, other: Tensor, other_name: str) -> None:
    """A floating-point number for every sample of `other`."""
    samples(value, name)
    if value.ndim != 1 or value.size(0) != other.size(0):
        raise ValueError(f"{name} must be [{other.shape[0]}], one number per sample, got {describe(value)}")
    on_device_of(value, name, other, other_name)


def same_length(**lists: Sequence) -> None:
    """As many entries in every list."""
    if len({len(items) for items in lists.values()}) > 1:
        lengths = ", ".join(f"{name} has {len(items)}" for name, items in lists.items())
        raise ValueError(f"{', '.join(lists)} must be lists of one length, got: {lengths}")


def dtype(value: Any, name: str) -> None:
    """One of the floating-point dtypes that the kernels take."""
    if not isinstance(value, torch.dtype) or value not in DTYPES:
        raise TypeError(f"{name} must be one of {', '.join(map(str, DTYPES))}, got {short(value)}")


def like(value: Tensor, name: str, other: Tensor, other_name: str) -> None:
    """The dtype and the device of another tensor."""
    if value.dtype is not other.dtype:
        raise TypeError(f"{name} must have the dtype of {other_name}, {other.dtype}, got {describe(value)}")
    on_device_of(value, name, other, other_name)


def on_device_of(value: Tensor, name: str, other: Tensor, other_name: str) -> None:
    """The device of another tensor."""
    if value.device != other.device:
        raise ValueError(f"{name} must be on the device of {other_name}, {other.device}, got {describe(value)}")


def image(value: Any, name: str) -> None:
    """A floating-point tensor [N, C, H, W] whose images have at least one pixel."""
    samples(value, name)
    if value.ndim != 4 or 0 in value.shape[2:]:
        raise ValueError(f"{name} must be [N, C, H, W] with H and W of at least 1, got {describe(value)}")


def fir_filter(value: Any, name: str, most: int) -> None:
    """A constant float32 tensor [k] or [fh, fw] of 1 to `most` taps along an axis."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor or None, got {describe(value)}")
    if value.dtype is not torch.float32:
        raise TypeError(f"{name} must be float32, as from setup_filter, got {describe(value)}")
    if value.ndim not in (1, 2) or min(value.shape) < 1 or max(value.shape) > most:
        raise ValueError(f"{name} must be [k] or [fh, fw] with 1 to {most} taps along an axis, got {describe(value)}")
    if value.requires_grad:
        raise ValueError(f"{name} must not require a gradient: it is a constant; pass {name}.detach()")


def integers(value: Any, name: str, lengths: Sequence[int], least: int = -MOST_INT, most: int = MOST_INT) -> None:
    """An int or a list of ints of one of these lengths, all of them from `least` to `most`."""
    if type(value) is int and least <= value <= most:
        return  # nearly every call, and a small op may take no longer than what follows
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    plain = all(isinstance(item, (int, torch.SymInt)) and not isinstance(item, bool) for item in items)
    counts = " or ".join(map(str, lengths))
    if not plain or (isinstance(value, (list, tuple)) and len(items) not in lengths):
        raise TypeError(f"{name} must be an int or a list of {counts} ints, got {describe(value)}")
    known = [item for item in items if isinstance(item, int)]  # symbolic ones are not asked
    if known and min(known) < least:
        raise ValueError(f"{name} must be {least} or more, got {describe(value)}")
    if known and max(known) > most:
        raise ValueError(f"{name} must be {most} or less, got {describe(value)}")


def convolution(x: Any, weight: Any, bias: Any, n: int, groups: int) -> None:
    """Arguments of a convolution along n axes: x [N, C_in, ...], weight [C_out, C_in / groups, ...], bias [C_out]."""
    integers(groups, "groups", (), least=1)
    axes = ", ".join("DHW"[3 - n :]) if n > 1 else "L"
    for value, name, shape in (
        (x, "x", f"[N, C_in, {axes}]"),
        (weight, "weight", f"[C_out, C_in / groups, {n} sizes]"),
    ):
        samples(value, name)
        if value.ndim != n + 2:
            raise ValueError(f"{name} must be {shape}, got {describe(value)}")
    if x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        raise ValueError(
            f"weight must be [C_out, C_in / groups, ...] with C_in = {x.shape[1]} and groups = {groups}, "
            f"got {describe(weight)}"
        )
    same = on_device_of if autocast_dtype(x.device.type) else like
    same(weight, "weight", x, "x")
    if bias is not None:
        samples(bias, "bias")
        if bias.shape != weight.shape[:1]:
            raise ValueError(f"bias must be [C_out], [{weight.shape[0]}], or None, got {describe(bias)}")
        same(bias, "bias", x, "x")


def choice(value: Any, name: str, choices: Iterable[str]) -> None:
    """One of a few names."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {describe(value)}")


def activation(act: Any, alpha: Any, facts: Mapping[str, Any]) -> float:
    """The name of one of these activations, and None or a finite slope below 0; returns that slope or its default."""
    choice(act, "act", facts)
    if alpha is None:
        return facts[act].alpha
    finite(alpha, "alpha")
    return float(alpha)


def finite(value: Any, name: str, least: float = -inf, most: float = inf) -> None:
    """A finite number from `least` to `most`, which no tensor is."""
    # A float, as most are, is seen at once: to ask an abstract class takes longer than everything else here.
    if type(value) is not float:
        if not isinstance(value, Real) or isinstance(value, bool):
            raise TypeError(f"{name} must be a number, got {describe(value)}")
        # numpy's small floats would take the bounds for their own type, and warn that they overflow.
        value = value.item() if hasattr(value, "item") else value
    if not -_LARGEST <= value <= _LARGEST:  # of a symbolic number `isfinite` would not do
        raise ValueError(f"{name} must be finite, got {short(value)}")
    if not least <= value <= most:
        accepted = f"{least:g} or more" if most == inf else f"from {least:g} to {most:g}"
        raise ValueError(f"{name} must be {accepted}, got {short(value)}")


def along(value: Any, name: str, other: Tensor, other_name: str, dim: Any) -> None:
    """A floating-point number for every index of a dimension of `other`."""
    samples(value, name)
    if not isinstance(dim, int) or not -other.ndim <= dim < other.ndim:
        raise ValueError(f"dim must be a dimension of {other_name}, {list(other.shape)}, got {describe(dim)}")
    if value.ndim != 1 or value.size(0) != other.size(dim):
        raise ValueError(
            f"{name} must be [{other.shape[dim]}], a number for every index of dimension {dim} of {other_name}, "
            f"got {describe(value)}"
        )
    on_device_of(value, name, other, other_name)


def channels(value: Any, name: str) -> None:
    """A floating-point tensor [N, C, ...]."""
    samples(value, name)
    if value.ndim < 2:
        raise ValueError(f"{name} must be [N, C, ...] with two or more dimensions, got {describe(value)}")


def per_channel(value: Any, name: str, other: Tensor, other_name: str) -> None:
    """None, or a floating-point number for every channel of `other` [N, C, ...], or for every sample and channel."""
    if value is None:
        return
    samples(value, name)
    count, size, ndim = other.size(0), other.size(1), value.ndim
    # Size by size: of symbolic ones `in` would not do.
    if ndim not in (1, 2) or value.size(-1) != size or (ndim == 2 and value.size(0) != count):
        accepted = f"[{size}], one number per channel, or [{count}, {size}], one per sample and channel"
        raise ValueError(f"{name} must be {accepted}, got {describe(value)}")
    on_device_of(value, name, other, other_name)
