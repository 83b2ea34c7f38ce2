"""Images in a .npz or .npy file."""

from pathlib import Path
from typing import Any

import numpy as np

from fastgan.train.labels import checked

SUFFIXES = (".npz", ".npy")
IMAGES, LABELS = ("images", "arr_0", "x"), ("labels", "y")
CHANNELS = (1, 3, 4)


def read_arrays(path: Path) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """The images uint8 [M, H, W, C], C = 1, 3 or 4; labels int64 [M], or none; the names of arrays that are neither.

    A .npy file holds images alone; it is mapped into memory: read where it is used, and read-only.
    Raises ValueError naming the file.
    """
    arrays = _opened(path)
    if isinstance(arrays, np.ndarray):
        return _images(arrays, str(path)), None, []
    images, labels = (_one_of(arrays, names, path) for names in (IMAGES, LABELS))
    if images is None:
        raise ValueError(f"{path}: holds {_told(arrays)}: expected images in an array named {', '.join(IMAGES)}")
    others = sorted(set(arrays) - {images, labels})
    pixels = _images(arrays[images], f"{path}: array {images!r}")
    return pixels, None if labels is None else _labels(arrays[labels], f"{path}: array {labels!r}", len(pixels)), others


def _opened(path: Path) -> np.ndarray | dict[str, Any]:
    """The array of a .npy, those of a .npz by name."""
    try:
        if path.suffix.lower() == ".npy":
            return np.lib.format.open_memmap(path, mode="r")
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    # numpy raises about anything on malformed bytes
    except Exception as error:
        raise ValueError(f"{path}: not a readable {path.suffix.lower()} ({error})") from error


def _one_of(arrays: dict[str, Any], names: tuple[str, ...], path: Path) -> str | None:
    found = [name for name in names if name in arrays]
    if len(found) > 1:
        raise ValueError(f"{path}: holds {' and '.join(map(repr, found))}: expected one of them")
    return found[0] if found else None


def _told(arrays: dict[str, Any]) -> str:
    return ", ".join(map(repr, sorted(arrays)[:5])) or "nothing"


def _images(array: Any, shown: str) -> np.ndarray:
    """As [M, H, W, C], whichever of the three layouts it has."""
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        raise ValueError(f"{shown}: {getattr(array, 'dtype', 'no array')}: expected uint8")
    expected = "expected [M, H, W], [M, H, W, C] or [M, C, H, W] with C = 1, 3 or 4"
    told = f"{shown}: shape {list(array.shape)}"
    if array.ndim not in (3, 4) or array.size == 0:
        raise ValueError(f"{told}: {expected}, none of them 0")
    if array.ndim == 3:
        return array[..., None]
    first, last = array.shape[1] in CHANNELS, array.shape[3] in CHANNELS
    if first == last:
        raise ValueError(f"{told}: {expected}" + (": this may be either of the last two" if first else ""))
    return array.transpose(0, 2, 3, 1) if first else array


def _labels(array: Any, shown: str, count: int) -> np.ndarray:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu" or array.shape != (count,):
        came = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else "no array"
        raise ValueError(f"{shown}: {came}: expected integers [{count}], one for each image")
    return checked(array, shown)
