"""Convolutions, wherever they are called, with an efficient double backward."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from fastgan import functional

EFFICIENT: dict[Callable, Callable] = {
    F.conv1d: functional.conv1d,
    F.conv2d: functional.conv2d,
    F.conv3d: functional.conv3d,
    F.conv_transpose1d: functional.conv_transpose1d,
    F.conv_transpose2d: functional.conv_transpose2d,
    F.conv_transpose3d: functional.conv_transpose3d,
}


class EfficientConvolutions(TorchFunctionMode):
    """A context in which torch's convolutions are `fastgan.functional`'s."""

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        """Every call of torch."""
        return EFFICIENT.get(function, function)(*args, **(kwargs or {}))
