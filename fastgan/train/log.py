"""The run's log: one JSON object per line. The process that holds it holds the run's folder."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any


class Log:
    """Appends records to a .jsonl file, locked while it is open.

    Each record is written whole or not at all, so that a reader, a crash or a full disk finds whole lines. Raises
    BlockingIOError where another process has it open.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process that found nothing to keep removes its log: this one may be without a name by now.
            if not path.exists() or not os.path.samestat(os.fstat(self._file), path.stat()):
                raise BlockingIOError
        except BaseException:
            os.close(self._file)
            raise

    def __len__(self) -> int:
        """Bytes."""
        return os.fstat(self._file).st_size

    def write(self, **record: Any) -> None:
        """Append one record."""
        line, before = json.dumps(record, allow_nan=False).encode() + b"\n", len(self)
        written = 0
        try:
            while written < len(line):
                written += os.write(self._file, line[written:])
        except OSError as error:
            os.ftruncate(self._file, before)
            raise OSError(f"{self.path}: cannot write a record ({error.strerror or error})") from error

    def sync(self) -> None:
        """Make what was written durable."""
        try:
            os.fsync(self._file)
        except OSError as error:
            raise OSError(f"{self.path}: cannot be made durable ({error.strerror or error})") from error

    def cut(self, step: int) -> None:
        """Remove what was written after `step`, and half a line at the end. Raises ValueError for what is no log."""
        kept = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                if _record(line, self.path, number)["step"] > step:
                    break
                kept += len(line)
        os.ftruncate(self._file, kept)

    def close(self) -> None:
        """Close it, which unlocks it; without a record there is nothing to keep."""
        if not len(self):
            self.path.unlink(missing_ok=True)
        os.close(self._file)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log, which may be written at this time. Raises ValueError for what is no log."""
    records = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            records.append(_record(line, path, number))
    return records


def _record(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
        if type(record["step"]) is int and isinstance(record["event"], str):
            return record
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ValueError(f"{path}: line {number} is not a record of a run")
