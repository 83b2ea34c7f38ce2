"""What the user sees while training runs, for as long as there is a terminal."""

import contextlib
import sys
from typing import Any


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
