"""Checks of arguments. A message names the argument, what came and what is accepted."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def describe(value: Any) -> str:
    """What came: dtype, shape and device of a tensor, else the type."""
    if isinstance(value, Tensor):
        return f"{value.dtype} {list(value.shape)} on {value.device}"
    return f"{type(value).__name__} {value!r}"


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
    dtype(value.dtype, f"{name}.dtype")
    if value.ndim < 1:
        raise ValueError(f"{name} must be [N, ...] with one or more dimensions, got {describe(value)}")


def per_sample(value: Any, name: str, other: Tensor, other_name: str) -> None:
    """A floating-point number for every sample of `other`."""
    samples(value, name)
    if value.shape != other.shape[:1]:
        raise ValueError(f"{name} must be [{other.shape[0]}], one number per sample, got {describe(value)}")
    on_device_of(value, name, other, other_name)


def same_length(**lists: Sequence) -> None:
    """As many entries in every list."""
    if len({len(items) for items in lists.values()}) > 1:
        lengths = ", ".join(f"{name} has {len(items)}" for name, items in lists.items())
        raise ValueError(f"{', '.join(lists)} must be lists of one length, got: {lengths}")


def dtype(value: Any, name: str) -> None:
    """One of the floating-point dtypes that the kernels take."""
    if value not in DTYPES:
        raise TypeError(f"{name} must be one of {', '.join(map(str, DTYPES))}, got {value}")


def like(value: Tensor, name: str, other: Tensor, other_name: str) -> None:
    """The dtype and the device of another tensor."""
    if value.dtype is not other.dtype:
        raise TypeError(f"{name} must have the dtype of {other_name}, {other.dtype}, got {describe(value)}")
    on_device_of(value, name, other, other_name)


def on_device_of(value: Tensor, name: str, other: Tensor, other_name: str) -> None:
    """The device of another tensor."""
    if value.device != other.device:
        raise ValueError(f"{name} must be on the device of {other_name}, {other.device}, got {describe(value)}")


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
    count, size = other.shape[:2]
    if value.shape not in ((size,), (count, size)):
        accepted = f"[{size}], one number per channel, or [{count}, {size}], one per sample and channel"
        raise ValueError(f"{name} must be {accepted}, got {describe(value)}")
    on_device_of(value, name, other, other_name)
