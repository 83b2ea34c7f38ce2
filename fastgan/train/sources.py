"""The files of a folder or a zip: their names in one order, and each one opened."""

import io
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

# A file may have this many bytes per pixel that an image may have: what it says about its own size comes later in it.
BYTES_PER_PIXEL = 4


class UnreadableError(ValueError):
    """One file that is damaged, or not what its name says: the files that `skip_corrupt` leaves out."""


def choose(names: list[str], suffixes: frozenset[str]) -> tuple[list[str], Counter[str]]:
    """The names that end as images do, and how many others there are of each kind."""
    left_out = Counter(kind for name in names if (kind := _left_out_as(name, suffixes)))
    return [name for name in names if not _left_out_as(name, suffixes)], left_out


def _left_out_as(name: str, suffixes: frozenset[str]) -> str:
    """The kind of a file that is no image; empty for one that is."""
    *folders, last = name.split("/")
    if "__MACOSX" in folders or last.startswith("._"):
        return "of macOS (._*)"
    suffix = PurePosixPath(last).suffix.lower()
    return "" if suffix in suffixes else suffix or "without suffix"


def _order(name: str) -> list[str]:
    return name.split("/")


def _check_size(shown: str, size: int, max_pixels: int) -> None:
    if size > (limit := BYTES_PER_PIXEL * max_pixels):
        raise ValueError(f"{shown}: {size} bytes: expected at most {BYTES_PER_PIXEL} * max_pixels = {limit}")


class Folder:
    """Files below `root`, their `names` from there on, in the order of their parts."""

    def __init__(self, root: Path):
        self._root, self.names = root, sorted(_names(root, "", []), key=_order)

    def shown(self, name: str) -> str:
        """Where the file is, for messages."""
        return str(self._root / name)

    def open(self, name: str, max_pixels: int) -> IO[bytes]:
        """The file, opened. Raises ValueError: `UnreadableError`, or it has more than 4 * max_pixels bytes."""
        path = self._root / name
        try:
            if not path.is_file():  # opening a pipe would wait for ever
                kind = "broken symbolic link" if path.is_symlink() else "not a regular file"
                raise UnreadableError(f"{path}: {kind}")
            _check_size(str(path), path.stat().st_size, max_pixels)
            return path.open("rb")
        except OSError as error:
            raise UnreadableError(f"{path}: cannot be read ({error.strerror})") from error

    def close(self) -> None:
        """Nothing is left open."""


def _names(root: Path, inside: str, above: list[tuple[int, int]]) -> Iterator[str]:
    """Names of all files below `root`, symbolic links followed. `above`: the folders from `root` to here."""
    folder = root / inside
    try:
        status = folder.stat()
        with os.scandir(folder) as scan:
            entries = [(f"{inside}{entry.name}", entry.is_dir()) for entry in scan]
    except OSError as error:
        raise ValueError(f"{folder}: cannot be read ({error.strerror})") from error
    here = status.st_dev, status.st_ino
    if here in above:
        raise ValueError(f"{folder}: a symbolic link to a folder that it is in: expected no cycle")
    for name, is_folder in entries:
        if is_folder:
            yield from _names(root, f"{name}/", [*above, here])
        else:
            yield name


class Archive:
    """Files in the zip `path`, their `names` in the order of their parts. Several threads may read at once."""

    def __init__(self, path: Path):
        self._path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            expected = "expected a folder, a .zip, .npz or .npy, or 'digits'"
            raise ValueError(f"{path}: not a readable zip ({error}); {expected}") from error
        members = [member for member in self._zip.infolist() if not member.is_dir()]
        self._members = {member.filename: member for member in members}
        self.names = sorted(self._members, key=_order)
        if len(self.names) < len(members):
            (name, times), *_ = Counter(member.filename for member in members).most_common(1)
            raise ValueError(f"{self.shown(name)}: {times} files of this name: expected one")

    def shown(self, name: str) -> str:
        """Where the file is, for messages."""
        return f"{self._path}/{name}"

    def open(self, name: str, max_pixels: int) -> IO[bytes]:
        """The file, unpacked. Raises ValueError: `UnreadableError`, or it has more than 4 * max_pixels bytes."""
        _check_size(self.shown(name), self._members[name].file_size, max_pixels)
        try:
            return io.BytesIO(self._zip.read(self._members[name]))
        # a bad header, checksum or stream; a method that is not there; encrypted
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
            raise UnreadableError(f"{self.shown(name)}: cannot be unpacked ({error})") from error

    def close(self) -> None:
        """No file is opened any more."""
        self._zip.close()


def files_of(path: Path) -> Folder | Archive:
    """The files of a folder, symbolic links followed, or of a zip. Raises ValueError naming what cannot be read."""
    return Folder(path) if path.is_dir() else Archive(path)
