"""What runs around every call of one module: before its hooks and after them, and after an interrupt too.

The module is copied and saved with it. Replicas of nn.DataParallel, torch.jit.trace and the replay of a CUDA graph call
the module without it.
"""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fastgan.mix_in import MixIn, mix_in, take_out
from fastgan.modes import keep_grad_mode

_NAME = "_fastgan_around"


class Around:
    """What may run around a call."""

    def around(self, module: nn.Module, args: tuple, call: Callable[[], Any]) -> Any:
        """Return what `call()` returns, the call of the module with its hooks; `args` are its positional arguments."""
        raise NotImplementedError

    def passed_by(self, by: str) -> None:
        """A call ran without it, in what `by` names."""

    def forget(self, module: nn.Module) -> None:
        """Let go of what is no part of the module any more: it is about to be copied, and that would be copied too."""


def surround(module: nn.Module, around: Around) -> None:
    """Have it run around every call from now on, outside of what does so already."""
    vars(module).setdefault(_NAME, []).insert(0, around)
    mix_in(module, _Surrounded)


def release(module: nn.Module, around: Around) -> None:
    """Undo `surround`."""
    known = vars(module).get(_NAME, [])
    if around in known:
        known.remove(around)
        if not known:
            del vars(module)[_NAME]
            take_out(module, _Surrounded)


def surroundings(module: nn.Module) -> list[Around]:
    """What runs around its calls, the outermost first."""
    return list(vars(module).get(_NAME, ()))


class _Surrounded(MixIn):
    def _call_impl(self, *args: Any, **kwargs: Any) -> Any:
        known = self.__dict__.get(_NAME)
        if not known:
            return super()._call_impl(*args, **kwargs)
        by = _what_passes_by(self)
        if by:
            for around in tuple(known):
                around.passed_by(by)
            return super()._call_impl(*args, **kwargs)
        call = super()._call_impl
        if torch.compiler.is_compiling():
            return _run(call, self, tuple(known), args, kwargs)
        return keep_grad_mode(lambda: _run(call, self, tuple(known), args, kwargs))

    def __reduce_ex__(self, protocol: int) -> tuple:
        for around in surroundings(self):
            around.forget(self)
        return super().__reduce_ex__(protocol)


def _run(call: Callable, module: nn.Module, around: tuple[Around, ...], args: tuple, kwargs: dict[str, Any]) -> Any:
    if not around or _is_passing_by():
        return call(*args, **kwargs)
    first, *others = around
    return first.around(module, args, lambda: _run(call, module, others, args, kwargs))


CHOICE = "a call that passes by"
REPLICA, TRACE, REPLAY = "a replica of nn.DataParallel", "torch.jit.trace", "the replay of a CUDA graph"


class _Passing(threading.local):
    by = False


_passing = _Passing()


def passing_by(call: Callable[[], Any]) -> Any:
    """Return `call()`, in which modules are called without what runs around them."""
    before = _passing.by
    try:
        _passing.by = True
        return call()
    finally:
        _passing.by = before


def _is_passing_by() -> bool:
    return not torch.compiler.is_compiling() and _passing.by


def _what_passes_by(module: nn.Module) -> str:
    state = module.__dict__
    if _is_passing_by():
        return CHOICE
    if "_is_replica" in state:
        return REPLICA
    if torch._C._get_tracing_state() is not None:
        return TRACE
    # torch.cuda.make_graphed_callables replaces the forward by one.
    if "forward" in state and getattr(state["forward"], "__module__", "") == "torch.cuda.graphs":
        return REPLAY
    return ""
