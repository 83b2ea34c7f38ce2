"""Files that are whole or not there."""

import os
from pathlib import Path

TEMPORARY = ".tmp"


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path`: whole and durable, or not at all.

    Written beside the target, fsynced, renamed; a reader or a crash sees the old file or the new one. Raises OSError
    that says what could not be written; nothing is left of it.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _fsync_folder(path.parent)
    except OSError as error:
        raise OSError(f"{path}: cannot write {len(content)} bytes ({error.strerror or error})") from error


def _fsync_folder(folder: Path) -> None:
    """Make a rename durable, where the platform lets a folder be opened."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
