"""Calls in which what torch.compile was put on runs as written."""

import sys
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from fastgan.modes import keep_grad_mode


def uncompiled(function: Callable) -> Callable:
    """Run all of a call eagerly: compiled code can be neither watched nor differentiated twice."""

    @torch._disable_dynamo
    def eager(*args: Any, **kwargs: Any) -> Any:
        call = object()
        # Twice, since an interrupt may arrive in what undoes it.
        try:
            try:
                _FORCE_EAGER.enter(call)
                return function(*args, **kwargs)
            finally:
                _FORCE_EAGER.leave(call)
        finally:
            _FORCE_EAGER.leave(call)

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        # Nothing is compiled before somebody has imported Dynamo, which takes long.
        call = eager if "torch._dynamo" in sys.modules else function
        return keep_grad_mode(lambda: call(*args, **kwargs))

    return run


class _ForceEager:
    """torch.compile's stance is one for all threads: the first that comes sets it, the last that goes sets it back."""

    def __init__(self):
        self._lock, self._inside = threading.Lock(), set()
        self._is_set, self._stance = False, None

    def enter(self, call: object) -> None:
        with self._lock:
            self._inside.add(call)
            if not self._is_set:
                self._is_set = True
                self._stance = torch.compiler.set_stance("force_eager")

    def leave(self, call: object) -> None:
        """As often as one likes."""
        with self._lock:
            self._inside.discard(call)
            if self._is_set and not self._inside:
                if self._stance is None:  # interrupted within `set_stance`
                    torch.compiler.set_stance("default")
                else:
                    self._stance.__exit__(None, None, None)
                self._is_set, self._stance = False, None


_FORCE_EAGER = _ForceEager()
