"""Whether tensors change: what a call does to its arguments, and the versions that torch counts."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch._ops import OpOverload


def may_change(function: Callable, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether a call may change one of its arguments in place."""
    if isinstance(function, OpOverload):
        return function._schema.is_mutable
    name = getattr(function, "__name__", "")
    return (
        (name.endswith("_") and not name.endswith("__"))
        or name in ("__setitem__", "__set__")
        or (name.startswith("__i") and name not in ("__index__", "__int__", "__invert__", "__iter__"))
        or bool(kwargs.get("inplace"))
        or kwargs.get("out") is not None
        or ("pool" not in name and any(argument is True for argument in args))  # `inplace` by position
    )


def hands_out_memory(function: Callable) -> bool:
    """Whether what a call returns may be changed without torch."""
    names = ("numpy", "__array__", "__dlpack__", "data_ptr", "untyped_storage", "storage")
    return getattr(function, "__name__", "") in names


def share_memory(memory: set[int | None], tensors: tuple[Tensor, ...]) -> bool:
    """Whether one of the tensors is stored in one of these memories, or may be."""
    return bool(memory and tensors) and (None in memory or any(memory_of(t) in memory for t in tensors))


def memory_of(tensor: Tensor) -> int | None:
    """What tells a tensor's memory from others'; None where that cannot be known."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse tensors, those that torch.func transforms
        return None


def versions(tensors: tuple[Tensor, ...]) -> tuple[int, ...]:
    """How often each was changed in place."""
    # Tensors made in inference mode count no versions.
    return tuple(0 if tensor.is_inference() else tensor._version for tensor in tensors)
