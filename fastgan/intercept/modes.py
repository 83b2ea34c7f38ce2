"""A function mode for one call, of which nothing stays, whatever ends the call."""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


def run_under(mode: TorchFunctionMode, call: Callable[[], Any]) -> Any:
    """Return `call()`, with the mode on top of this thread's stack until it ends.

    An interrupt may arrive between any two instructions of Python: inside a mode's `__enter__`, once it is on the
    stack, and inside its `__exit__`, before it is off. So no `with` block will do: what takes it off is tried twice.
    `torch.no_grad` within the call changes the grad mode by way of function modes, where it may be interrupted.
    """
    grad = torch.is_grad_enabled()
    try:
        try:
            torch._C._push_on_torch_function_stack(mode)
            return call()
        finally:
            _take_off(mode)
    except BaseException:
        _take_off(mode)
        torch._C._set_grad_enabled(grad)
        raise


def active(kind: type | tuple[type, ...]) -> bool:
    """Whether a mode of this kind looks at the calls of this thread."""
    return any(isinstance(_at(i), kind) for i in range(_height()))


_height, _at = torch._C._len_torch_function_stack, torch._C._get_function_stack_at


def _take_off(mode: TorchFunctionMode) -> None:
    height = place = _height()
    while place and _at(place - 1) is not mode:
        place -= 1
    if not place:
        return
    # What the call itself has left on top of it, as torch.set_default_device does, stays.
    above = [torch._C._pop_torch_function_stack() for _ in range(height - place + 1)][:-1]
    for other in reversed(above):
        torch._C._push_on_torch_function_stack(other)
