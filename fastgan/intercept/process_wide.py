"""Settings of torch that hold for all threads, changed for one call."""

import threading
from collections.abc import Callable
from typing import Any


class ProcessWide:
    """A setting with another value while calls run: the first thread that comes sets it, the last sets it back.

    Args:
        read: () -> the value that is set.
        write: sets a value.
        value: for these calls.
    """

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], object], value: Any):
        self._read, self._write, self._value = read, write, value
        self._lock, self._inside, self._is_set, self._before = threading.Lock(), set(), False, None

    def run(self, call: Callable[[], Any]) -> Any:
        """Return `call()`; nothing stays, whatever ends it."""
        this = object()
        # Twice, since an interrupt may arrive in what undoes it.
        try:
            try:
                self._enter(this)
                return call()
            finally:
                self._leave(this)
        finally:
            self._leave(this)

    def _enter(self, call: object) -> None:
        with self._lock:
            self._inside.add(call)
            if not self._is_set:
                self._before = self._read()
                self._is_set = True
                self._write(self._value)

    def _leave(self, call: object) -> None:
        with self._lock:
            self._inside.discard(call)
            if self._is_set and not self._inside:
                self._write(self._before)
                self._is_set = False
