"""What the user sees: progress for as long as there is a terminal, results, and mistakes in one line."""

import contextlib
import sys
from collections.abc import Callable
from typing import Any

from torch import OutOfMemoryError


class Stderr:
    """The process's stderr at the time of each call; when it is closed, what is written there is lost, not the run."""

    def write(self, text: str) -> None:
        """Write, if the terminal still takes it."""
        with contextlib.suppress(OSError, ValueError):  # a closed pipe or terminal; a closed file
            sys.stderr.write(text)

    def flush(self) -> None:
        """Flush, if the terminal still takes it."""
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def say(text: str) -> None:
    """Print a line to stdout; characters that it cannot encode, as in names of files, are written as escapes."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))  # noqa: T201


def mistake(error: Exception) -> str:
    """The one line that says what the user can mend. Raises an error that is no such thing as it is."""
    if isinstance(error, BrokenPipeError):
        raise error  # the reader of stdout is gone: `fastgan.cli` ends quietly
    # torch has one class for too little memory on a GPU, on the CPU only a message
    memory = isinstance(error, OutOfMemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error))
    if not memory and not isinstance(error, (ImportError, OSError, ValueError, ArithmeticError, MemoryError)):
        raise error
    return " ".join(str(error).split()) or type(error).__name__


def finish(name: str, work: Callable[[], str]) -> int:
    """Do the work of `fastgan NAME` and print the line that it returns.

    Returns the exit status: 0, or 1 after an error, of which one line goes to stderr.
    """
    try:
        say(work())
    except Exception as error:
        Stderr().write(f"fastgan {name}: error: {mistake(error)}\n")
        return 1
    return 0
