"""Calls in which what torch.compile was put on runs as written."""

import sys
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


def uncompiled(function: Callable) -> Callable:
    """Run all of a call eagerly: compiled code can be neither watched nor differentiated twice."""

    @torch._disable_dynamo
    def eager(*args: Any, **kwargs: Any) -> Any:
        with _FORCE_EAGER:
            return function(*args, **kwargs)

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        # Nothing is compiled before somebody has imported Dynamo, which takes long.
        return (eager if "torch._dynamo" in sys.modules else function)(*args, **kwargs)

    return run


class _ForceEager:
    """torch.compile's stance is one for all threads: the first that comes sets it, the last that goes sets it back."""

    def __init__(self):
        self._lock, self._inside, self._stance = threading.Lock(), 0, None

    def __enter__(self):
        with self._lock:
            if self._inside == 0:
                self._stance = torch.compiler.set_stance("force_eager")
            self._inside += 1

    def __exit__(self, *error: Any):
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._stance.__exit__(*error)


_FORCE_EAGER = _ForceEager()
