"""Operations, wherever they are called, in forms with a double backward that works and is efficient."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from fastgan import functional
from fastgan.intercept.twice import form

EFFICIENT: dict[Callable, Callable] = {
    F.conv1d: functional.conv1d,
    F.conv2d: functional.conv2d,
    F.conv3d: functional.conv3d,
    F.conv_transpose1d: functional.conv_transpose1d,
    F.conv_transpose2d: functional.conv_transpose2d,
    F.conv_transpose3d: functional.conv_transpose3d,
}


def run_for_double_backward(function: Callable, args: tuple, kwargs: dict[str, Any], reasons: dict[str, None]) -> Any:
    """A call whose result can be differentiated twice; why it is another than torch's goes to `reasons`."""
    other = form(function, args, kwargs)
    if other is None:
        return EFFICIENT.get(function, function)(*args, **kwargs)
    reasons[other.reason] = None
    return other.run(function, args, kwargs)


class EfficientConvolutions(TorchFunctionMode):
    """A context in which torch's convolutions are `fastgan.functional`'s, and all that can be is differentiable twice.

    `reasons`: what runs in another form than torch would choose, and why; of convolutions nothing is said.
    """

    def __init__(self):
        super().__init__()
        self.reasons: dict[str, None] = {}

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        return run_for_double_backward(function, args, kwargs or {}, self.reasons)
