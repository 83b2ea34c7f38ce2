"""Real images, in memory."""

import hashlib
import json
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.train import arrays, labels
from fastgan.train.extras import require
from fastgan.train.pixels import CROPS, DONE, ENLARGED, FRAMES, Decoder, at_most, suffixes
from fastgan.train.sources import UnreadableError, choose, files_of
from fastgan.train.workers import in_order

MAX_PIXELS = 2**26
RESOLUTIONS = (32, 64, 128, 256, 512)
CHANNELS = (1, 3)
SHOWN = 3  # files, in a message about many
LOGGER = logging.getLogger("fastgan.train")


@dataclass(frozen=True, eq=False)
class Images:
    """pixels: uint8 [M, C, H, W], not to be written; labels: int64 [M], or None; classes: the name of each label."""

    pixels: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pixels)


def load_images(
    source: str,
    channels: int,
    resolution: int = 32,
    *,
    crop: str = "center",
    allow_enlarging: bool = True,
    skip_corrupt: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Images:
    """All images of a folder, a zip, a .npz or .npy file, or the built-in `digits`, and their classes.

    source: a folder or .zip, searched at any depth, symbolic links followed; a .npz or .npy, see
    `fastgan.train.arrays`; or "digits". channels: 1 (grey) or 3 (RGB). resolution: one of `RESOLUTIONS`.
    crop: "center" cuts images to squares around their centres, "none" refuses those that are not square.
    allow_enlarging: whether images smaller than the resolution are taken; larger ones are reduced. skip_corrupt:
    whether files that cannot be read are left out. max_pixels: of the largest image that is read; a file has at most
    four bytes for each.

    The images come in the order of the sorted names. A file dataset.json beside them gives the labels; without one
    the classes are the first folders in which they differ, sorted; images in no folder have none.
    What becomes of the images, and what is left out, is logged to "fastgan.train".
    Raises FileNotFoundError, or ValueError naming the argument or the file and what is expected.
    """
    for name, value, choices in (
        ("channels", channels, CHANNELS),
        ("resolution", resolution, RESOLUTIONS),
        ("crop", crop, CROPS),
    ):
        if value not in choices:
            raise ValueError(f"{name} = {value!r}: expected one of {', '.join(map(str, choices))}")
    if source == "digits":
        return _digits(channels, resolution)
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(
            f"data = {source!r}: no such file; expected a folder, a .zip, .npz or .npy, or 'digits'"
        )
    decoder = Decoder(channels, resolution, crop, allow_enlarging)
    if path.suffix.lower() in arrays.SUFFIXES and not path.is_dir():
        images = _of_arrays(path, decoder)
    else:
        with at_most(max_pixels):
            images = _of_files(path, decoder, max_pixels, skip_corrupt)
    _tell_classes(source, images)
    return images


def digest(tensors: Sequence[Tensor], classes: Sequence[str] = ()) -> str:
    """A hash of tensors on the CPU, such as pixels and labels, their order, and the names of the classes."""
    head = [[list(tensor.shape) for tensor in tensors], list(classes)]
    sha = hashlib.sha256(json.dumps(head).encode())
    for tensor in tensors:
        for part in tensor.split(64):  # of a mapped file a part at a time
            sha.update(part.contiguous().numpy())
    return sha.hexdigest()


def to_real(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 [N, C, H, W] -> `dtype` in [-1, 1], channels last: the layout in which convolutions are fastest."""
    return images.to(dtype, memory_format=torch.channels_last).div_(127.5).sub_(1)


def _digits(channels: int, resolution: int) -> Images:
    """Scikit-learn's 1,797 scans, 8x8 with grey levels 0..16, enlarged, and which digit each is."""
    digits = require("sklearn.datasets").load_digits()
    scans = torch.from_numpy(digits.images).float().unsqueeze(1) * (255 / 16)
    parts = (F.interpolate(part, size=(resolution, resolution), mode="bicubic") for part in scans.split(64))
    pixels = torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in parts]).repeat(1, channels, 1, 1)
    LOGGER.info("digits: %d scans of 8 x 8, enlarged to %d x %d", len(pixels), resolution, resolution)
    return Images(pixels, torch.from_numpy(digits.target.astype(np.int64)), tuple(map(str, range(10))))


# --- folders and zips ---


def _of_files(path: Path, decoder: Decoder, max_pixels: int, skip_corrupt: bool) -> Images:
    known = suffixes()
    with closing(files_of(path)) as files:
        names, left_out = choose(files.names, known)
        listed = labels.LISTING in files.names
        if listed:
            left_out -= Counter({Path(labels.LISTING).suffix: 1})
        if left_out:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items()))
            LOGGER.warning(
                "%s: left out %d files that are not images of a known kind: %s", path, left_out.total(), kinds
            )
        if not names:
            raise ValueError(f"data = {str(path)!r}: holds no images; expected files named {', '.join(sorted(known))}")
        if listed:
            with files.open(labels.LISTING, max_pixels) as file:
                numbers = labels.of_listing(file.read(), files.shown(labels.LISTING), names)
            classes = labels.numbered(numbers)
        else:
            numbers, classes, outside = labels.of_folders(names)
            if outside:
                told = "%s: %d of %d images are in no folder: no classes are made of the folders of the others"
                LOGGER.warning(told, path, outside, len(names))

        def decode(i: int) -> tuple[np.ndarray, list[str]]:
            with files.open(names[i], max_pixels) as file:
                return decoder.decode(file, files.shown(names[i]))

        pixels, kept = _filled(str(path), len(names), decoder, decode, skip_corrupt)
    return Images(pixels, None if numbers is None else torch.from_numpy(numbers[kept]), classes)


def _filled(
    source: str,
    count: int,
    decoder: Decoder,
    decode: Callable[[int], tuple[np.ndarray, list[str]]],
    skip_corrupt: bool = False,
) -> tuple[Tensor, list[int]]:
    """uint8 [M, C, H, W] of those of `count` images that can be read, and which these are; says what became of them."""
    pixels = np.empty((count, decoder.channels, decoder.size, decoder.size), dtype=np.uint8)

    def fill(i: int) -> list[str] | UnreadableError:
        try:
            pixels[i], done = decode(i)
        except UnreadableError as error:
            if not skip_corrupt:
                raise ValueError(f"{error}; skip_corrupt (--skip-corrupt) leaves such files out") from error
            return error
        return done

    done, kept, skipped = Counter[str](), [], []
    for i, result in enumerate(in_order(fill, count)):
        if isinstance(result, UnreadableError):
            skipped.append(str(result))
        else:
            done.update(result)
            kept.append(i)
    for to, i in enumerate(kept if skipped else ()):
        pixels[to] = pixels[i]  # in place: there may be no room for all of them twice
    if skipped:
        first = "; ".join(skipped[:SHOWN]) + ("; ..." if len(skipped) > SHOWN else "")
        LOGGER.warning("%s: left out %d of %d files that cannot be read: %s", source, len(skipped), count, first)
    if not kept:
        raise ValueError(f"data = {source!r}: none of {count} images can be read")
    _tell_sizes(source, len(kept), decoder.size, done)
    return torch.from_numpy(pixels[: len(kept)]), kept


# --- .npz and .npy ---


def _of_arrays(path: Path, decoder: Decoder) -> Images:
    found, numbers, others = arrays.read_arrays(path)
    if others:
        LOGGER.warning("%s: left out arrays that are neither images nor labels: %s", path, ", ".join(others))
    size, channels = found.shape[1:3], found.shape[3]
    if size == (decoder.size, decoder.size) and channels == decoder.channels:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            pixels = torch.from_numpy(found).permute(0, 3, 1, 2)  # where it is: a mapped file may be larger than memory
        _tell_sizes(str(path), len(pixels), decoder.size, Counter())
    else:
        Image = require("PIL.Image")

        def fit(i: int) -> tuple[np.ndarray, list[str]]:
            image = np.ascontiguousarray(found[i, ..., 0] if channels == 1 else found[i])
            return decoder.fit(Image.fromarray(image), f"{path}: image {i}")

        pixels, _ = _filled(str(path), len(found), decoder, fit)
    return Images(pixels, None if numbers is None else torch.from_numpy(numbers), labels.numbered(numbers))


# --- what is said ---


def _tell_sizes(source: str, count: int, size: int, done: Counter[str]) -> None:
    told = ", ".join(f"{done[what]} {what}" for what in DONE if done[what]) or "all as they are"
    LOGGER.info("%s: %d images of %d x %d: %s", source, count, size, size, told)
    if done[ENLARGED]:
        LOGGER.warning("%s: %d of %d images are smaller than %d x %d", source, done[ENLARGED], count, size, size)
    if done[FRAMES]:
        LOGGER.warning("%s: %d files have several frames: the first of each is used", source, done[FRAMES])


def _tell_classes(source: str, images: Images) -> None:
    if images.labels is None:
        return
    names = ", ".join(images.classes[:10]) + (", ..." if len(images.classes) > 10 else "")
    LOGGER.info("%s: %d classes: %s", source, len(images.classes), names)
    if empty := len(images.classes) - len(images.labels.unique()):
        LOGGER.warning("%s: %d of %d classes have no images", source, empty, len(images.classes))
