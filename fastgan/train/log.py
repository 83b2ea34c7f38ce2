"""The run's log: one JSON object per line."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any


class Log:
    """Appends records to a .jsonl file, each flushed, so that a reader or a crash finds whole lines."""

    def __init__(self, path: Path):
        self._file = path.open("a", encoding="utf-8")

    def write(self, **record: Any) -> None:
        """Append one record."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
