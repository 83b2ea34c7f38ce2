"""Real images, in memory."""

import hashlib
import logging
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.train.extras import require
from fastgan.train.models import IMAGE_SIZE
from fastgan.train.pixels import at_most, decode, suffixes
from fastgan.train.sources import image_files

MAX_PIXELS = 2**26
LOGGER = logging.getLogger("fastgan.train")


def load_images(source: str, channels: int, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """All images of a folder, a zip, or the built-in `digits`.

    source: a folder or .zip, searched at any depth, symbolic links followed; or "digits". channels: 1 (grey) or 3
    (RGB). max_pixels: of the largest image that is read; a file has at most four bytes for each.
    Returns uint8 [M, channels, 32, 32], in the order of the sorted names; see `fastgan.train.pixels.decode`.
    What becomes of the images, and what is left out, is logged to "fastgan.train".
    Raises FileNotFoundError, or ValueError naming the file that cannot be read.
    """
    if source == "digits":
        return _digits().repeat(1, channels, 1, 1)
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"data = {source!r}: no such file; expected a folder, a .zip, or 'digits'")
    known, left_out, images, animated = suffixes(), Counter[str](), [], 0
    with at_most(max_pixels):
        for name, file in image_files(path, known, max_pixels, left_out):
            image, frames = decode(file, name, channels, IMAGE_SIZE)
            images.append(image)
            animated += frames
    if left_out:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items()))
        LOGGER.warning("%s: left out %d files that are not images of a known kind: %s", source, left_out.total(), kinds)
    if animated:
        LOGGER.warning("%s: %d files have several frames: the first of each is used", source, animated)
    if not images:
        raise ValueError(f"data = {source!r}: holds no images; expected files named {', '.join(sorted(known))}")
    LOGGER.info(
        "%s: %d images, each cropped to a square and resized to %d x %d", source, len(images), IMAGE_SIZE, IMAGE_SIZE
    )
    return torch.stack(images)


def digest(images: Tensor) -> str:
    """A hash of all pixels and their order: images uint8 [M, C, H, W], on the CPU."""
    sha = hashlib.sha256(f"{list(images.shape)}".encode())
    sha.update(images.contiguous().numpy())
    return sha.hexdigest()


def to_real(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 [N, C, H, W] -> `dtype` in [-1, 1], channels last: the layout in which convolutions are fastest."""
    return images.to(dtype, memory_format=torch.channels_last).div_(127.5).sub_(1)


def _digits() -> Tensor:
    """Scikit-learn's scans, 8x8 with grey levels 0..16, upsampled to uint8 [1797, 1, 32, 32]."""
    scans = torch.from_numpy(require("sklearn.datasets").load_digits().images).float()
    scans = F.interpolate(scans.unsqueeze(1) * (255 / 16), size=(IMAGE_SIZE, IMAGE_SIZE), mode="bicubic")
    return scans.round().clamp(0, 255).to(torch.uint8)
