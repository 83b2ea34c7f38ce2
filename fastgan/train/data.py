"""Real images, in memory, and the endless seeded order in which training sees them."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.train.extras import require
from fastgan.train.models import IMAGE_SIZE

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def load_images(source: str, channels: int) -> Tensor:
    """All images of a folder, a zip, or the built-in `digits`.

    source: a folder or .zip, searched at any depth, or "digits". channels: 1 (grey) or 3 (RGB).
    Returns uint8 [M, channels, 32, 32], in the order of the sorted names; sides are cropped to a square, then resized.
    Raises FileNotFoundError, or ValueError naming the file that cannot be read.
    """
    if source == "digits":
        return _digits().repeat(1, channels, 1, 1)
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"data = {source!r}: no such file; expected a folder, a .zip, or 'digits'")
    images = [_decode(file, name, channels) for name, file in (_folder(path) if path.is_dir() else _zip(path))]
    if not images:
        raise ValueError(f"data = {source!r}: holds no images; expected files named {', '.join(sorted(SUFFIXES))}")
    return torch.stack(images)


def to_real(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 [N, C, H, W] -> `dtype` in [-1, 1], channels last: the layout in which convolutions are fastest."""
    return images.to(dtype, memory_format=torch.channels_last).div_(127.5).sub_(1)


class Sampler:
    """Endless batches of indices: epoch after epoch, each a fresh permutation.

    The permutation of an epoch is a function of (seed, epoch), so the whole state is two numbers.
    """

    def __init__(self, size: int, batch: int, seed: int):
        self.size, self.batch, self.seed = size, batch, seed
        self.epoch, self.position = 0, 0
        self._order = self._permutation()

    def _permutation(self) -> Tensor:
        return torch.from_numpy(np.random.default_rng([self.seed, self.epoch]).permutation(self.size))

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        """int64 [batch]; a batch that an epoch's end cuts is filled from the next epoch."""
        parts, missing = [], self.batch
        while missing:
            if self.position == self.size:
                self.epoch, self.position = self.epoch + 1, 0
                self._order = self._permutation()
            part = self._order[self.position : self.position + missing]
            self.position, missing = self.position + len(part), missing - len(part)
            parts.append(part)
        return torch.cat(parts)

    def state_dict(self) -> dict[str, int]:
        """The state, and the size and seed to which it belongs."""
        return {"size": self.size, "seed": self.seed, "epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: Any) -> None:
        """Continue where `state` was taken. Raises ValueError when it belongs to another data set or seed."""
        if not isinstance(state, dict):
            raise ValueError(f"sampler is {state!r}: expected an object")
        for key in ("size", "seed"):
            if state.get(key) != getattr(self, key):
                raise ValueError(f"sampler's {key} is {state.get(key)!r}: this run has {getattr(self, key)}")
        epoch, position = state.get("epoch"), state.get("position")
        if type(epoch) is not int or epoch < 0 or type(position) is not int or not 0 <= position <= self.size:
            raise ValueError(f"sampler's epoch {epoch!r}, position {position!r}: expected integers within the data set")
        self.epoch, self.position = epoch, position
        self._order = self._permutation()


def _digits() -> Tensor:
    """Scikit-learn's scans, 8x8 with grey levels 0..16, upsampled to uint8 [1797, 1, 32, 32]."""
    scans = torch.from_numpy(require("sklearn.datasets").load_digits().images).float()
    scans = F.interpolate(scans.unsqueeze(1) * (255 / 16), size=(IMAGE_SIZE, IMAGE_SIZE), mode="bicubic")
    return scans.round().clamp(0, 255).to(torch.uint8)


def _is_image(path: str) -> bool:
    return Path(path).suffix.lower() in SUFFIXES


def _folder(root: Path) -> Iterator[tuple[str, IO[bytes]]]:
    for path in sorted(p for p in root.rglob("*") if p.is_file() and _is_image(p.name)):
        with path.open("rb") as file:
            yield str(path), file


def _zip(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{path}: not a readable zip ({error}); expected a folder, a .zip, or 'digits'") from error
    with archive:
        for name in sorted(n for n in archive.namelist() if _is_image(n) and not n.startswith("__MACOSX/")):
            try:
                file = archive.open(name)
            except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:  # bad header, method, encrypted
                raise ValueError(f"{path}/{name}: cannot be unpacked ({error})") from error
            with file:
                yield f"{path}/{name}", file


def _decode(file: IO[bytes], name: str, channels: int) -> Tensor:
    """One file -> uint8 [channels, 32, 32], cropped around the centre."""
    Image, ImageOps = require("PIL.Image"), require("PIL.ImageOps")
    try:
        image = Image.open(file)
        if image.mode.startswith(("I", "F")):  # conversion to 8 bits would clip it without a word
            raise ValueError(f"pixel format {image.mode}")
        image = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    # Pillow's decoders raise about anything on malformed bytes
    except Exception as error:
        raise ValueError(f"{name}: not a readable image ({error}); expected an 8-bit image file") from error
    image = ImageOps.fit(image, (IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).view(IMAGE_SIZE, IMAGE_SIZE, channels).permute(2, 0, 1)
