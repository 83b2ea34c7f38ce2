"""The image files of a folder or a zip, in one order, and what was left out."""

import io
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

# A file may have this many bytes per pixel that an image may have: what it says about its own size comes later in it.
BYTES_PER_PIXEL = 4


def image_files(
    path: Path, suffixes: Iterable[str], max_pixels: int, left_out: Counter[str]
) -> Iterator[tuple[str, IO[bytes]]]:
    """(name, opened file) of every image at any depth of a folder or zip, in the order of the names' parts.

    Files of other suffixes, and those that macOS puts beside the images, are counted by kind in `left_out`. Raises
    ValueError naming the file or folder that cannot be read.
    """
    chosen, max_bytes = frozenset(suffixes), BYTES_PER_PIXEL * max_pixels

    def kept(name: str) -> bool:
        kind = _left_out_as(PurePosixPath(name), chosen)
        if kind:
            left_out[kind] += 1
        return not kind

    return _of_folder(path, kept, max_bytes) if path.is_dir() else _of_zip(path, kept, max_bytes)


def _left_out_as(name: PurePosixPath, suffixes: frozenset[str]) -> str:
    """The kind of a file that is no image; empty for one that is."""
    if "__MACOSX" in name.parts or name.name.startswith("._"):
        return "of macOS (._*)"
    suffix = name.suffix.lower()
    return "" if suffix in suffixes else suffix or "without suffix"


def _order(name: str) -> list[str]:
    return name.split("/")


def _too_large(name: str, size: int, max_bytes: int) -> ValueError:
    return ValueError(f"{name}: {size} bytes: expected at most {BYTES_PER_PIXEL} * max_pixels = {max_bytes}")


# --- folders ---


def _of_folder(root: Path, kept: Callable[[str], bool], max_bytes: int) -> Iterator[tuple[str, IO[bytes]]]:
    for name in sorted(filter(kept, _names(root, "", [])), key=_order):
        path = root / name
        try:
            if not path.is_file():  # opening a pipe would wait for ever
                raise ValueError(f"{path}: {'broken symbolic link' if path.is_symlink() else 'not a regular file'}")
            if (size := path.stat().st_size) > max_bytes:
                raise _too_large(str(path), size, max_bytes)
            file = path.open("rb")
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
        with file:
            yield str(path), file


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


# --- zips ---


def _of_zip(path: Path, kept: Callable[[str], bool], max_bytes: int) -> Iterator[tuple[str, IO[bytes]]]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable zip ({error}); expected a folder, a .zip, or 'digits'") from error
    with archive:
        members = [member for member in archive.infolist() if not member.is_dir() and kept(member.filename)]
        for member in sorted(members, key=lambda member: _order(member.filename)):
            name = f"{path}/{member.filename}"
            if member.file_size > max_bytes:
                raise _too_large(name, member.file_size, max_bytes)
            try:
                content = archive.read(member)
            # a bad header, checksum or stream; a method that is not there; encrypted
            except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
                raise ValueError(f"{name}: cannot be unpacked ({error})") from error
            yield name, io.BytesIO(content)
