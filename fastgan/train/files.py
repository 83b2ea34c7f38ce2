"""Files, and folders of files, that are whole or not there."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def new_folder(path: Path) -> Iterator[Callable[[str, bytes], None]]:
    """Make the folder `path`, or take an empty one, and give write(name, content) into it.

    When the block raises, what was written is removed again, and so is the folder if it was made. Raises
    FileExistsError when something is there already, OSError that says what could not be written.
    """
    made, written = not path.exists(), []
    if not made and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"out = {str(path)!r}: exists: expected a new folder, or an empty one")

    def write(name: str, content: bytes) -> None:
        file = path / name
        try:
            with file.open("xb") as opened:
                written.append(file)
                opened.write(content)
        except OSError as error:
            raise OSError(f"{file}: cannot write {len(content)} bytes ({error.strerror or error})") from error

    path.mkdir(parents=True, exist_ok=True)
    try:
        yield write
    except BaseException:
        for file in written:
            file.unlink()
        if made:
            path.rmdir()
        raise


def _fsync_folder(folder: Path) -> None:
    """Make a rename durable, where the platform lets a folder be opened."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
