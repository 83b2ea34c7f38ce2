"""Signals that stop a run."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stopped(Exception):  # noqa: N818 (it is no error)
    """A signal stopped the run, after its step and its checkpoint."""

    def __init__(self, number: signal.Signals, message: str):
        super().__init__(message)
        self.number = number


class StopSignals:
    """While entered, the first SIGINT, SIGTERM or SIGHUP is noted in `received`; a second one does what it did before.

    What was ignored (nohup, a shell's job in the background) stays so. In another thread than the main one nothing is
    changed: Python handles signals there alone.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # None: installed by other code than Python's, which could not put it back
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()
