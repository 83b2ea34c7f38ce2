"""The tensors in nested arguments and results."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested arguments or results."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))


def replaced(value: Any, replacement: Callable[[Tensor], Any]) -> Any:
    """Nested arguments with every tensor replaced."""
    if isinstance(value, Tensor):
        return replacement(value)
    if isinstance(value, torch.Size):
        return value
    if isinstance(value, tuple | list):
        items = (replaced(item, replacement) for item in value)
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {key: replaced(item, replacement) for key, item in value.items()}
    return value
