"""Modes of a thread for one call, of which nothing stays, whatever ends the call.

An interrupt may arrive between any two instructions of Python: inside a mode's `__enter__`, once it is on the stack,
and inside its `__exit__`, before it is off. So no `with` block will do.
"""

from collections.abc import Callable
from contextlib import _GeneratorContextManager
from types import TracebackType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


def run_under(mode: TorchFunctionMode, call: Callable[[], Any]) -> Any:
    """Return `call()`, with the mode on top of this thread's stack until it ends."""
    # What takes the mode off is tried twice: it may itself be interrupted.
    try:
        try:
            torch._C._push_on_torch_function_stack(mode)
            return keep_grad_mode(call)
        finally:
            _take_off(mode)
    except BaseException as error:
        _end_contexts(error.__traceback__)
        _take_off(mode)
        raise


def keep_grad_mode(call: Callable[[], Any]) -> Any:
    """Return `call()`; if it raises, grad mode is what it was before.

    `torch.no_grad` within it may be interrupted as it begins or ends, above all under a function mode, which sees it.
    """
    grad = torch.is_grad_enabled()
    try:
        return call()
    except BaseException:
        torch._C._set_grad_enabled(grad)
        raise


def _end_contexts(traceback: TracebackType | None) -> None:
    """End the `@contextmanager`s that were interrupted as they began or ended, and wait to be collected.

    Where torch calls a mode it takes it off in one of these, which would put it back then.
    """
    while traceback is not None:
        if traceback.tb_frame.f_code in _CONTEXTS:
            traceback.tb_frame.f_locals["self"].gen.close()
        traceback = traceback.tb_next


_CONTEXTS = {method.__code__ for method in (_GeneratorContextManager.__enter__, _GeneratorContextManager.__exit__)}


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


def saved_tensor_hooks() -> Any:
    """Those in force. Non-reentrant checkpointing counts what is saved: what it surrounds must compute for itself.

    Before torch 2.8 they cannot be seen.
    """
    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return top and top(True)
