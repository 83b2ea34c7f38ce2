"""One image file to pixels: formats that are safe to read, bounded memory; whatever is dropped is reported."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from fastgan.train.extras import require

# Pillow's raster formats that it decodes itself: none that starts another program (EPS) or holds other files.
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF", "WEBP")
# Names that Pillow gives to some files which it opens as another format.
OPENED_AS = {"MPO": "JPEG"}
# A decoder that can give a smaller image gives one this many times as large as needed; the filter does the rest.
REDUCING_GAP = 3.0
# Pillow's 16-bit grey: its files' own range is 0..65535. "I" and "F" may hold anything.
SIXTEEN_BIT = {"I;16", "I;16L", "I;16B", "I;16N"}


def formats() -> list[str]:
    """Those of `FORMATS` that the installed Pillow was built for."""
    Image = require("PIL.Image")
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def suffixes() -> frozenset[str]:
    """Of files in these formats: ".png", ".jpg", ..."""
    registered, known = require("PIL.Image").registered_extensions(), formats()
    return frozenset(suffix for suffix, name in registered.items() if OPENED_AS.get(name, name) in known)


@contextmanager
def at_most(max_pixels: int) -> Iterator[None]:
    """Within, Pillow refuses images of more pixels before it decodes them."""
    Image = require("PIL.Image")
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # it comes first, the error at twice as many
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def decode(file: IO[bytes], name: str, channels: int, size: int) -> tuple[Tensor, bool]:
    """The first frame of an image file -> uint8 [channels, size, size], and whether the file has more of them.

    Rotated as its EXIF data says, cropped around the centre to a square, resized; what is transparent shows white.
    channels: 1 (grey) or 3 (RGB). Raises ValueError naming the file.
    """
    Image, ImageOps = require("PIL.Image"), require("PIL.ImageOps")
    try:
        image = Image.open(file, formats=formats())
        frames = bool(getattr(image, "is_animated", False))
        _reduce_while_decoding(image, size)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        image = _square(_plain(image), size)
        if image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if channels == 1 else "RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = f"at most max_pixels = {Image.MAX_IMAGE_PIXELS} pixels"
        raise ValueError(f"{name}: too large ({error}); expected {limit}") from error
    except require("PIL").UnidentifiedImageError as error:
        raise ValueError(f"{name}: not an image; expected one of {', '.join(formats())}") from error
    # Pillow's decoders raise about anything on malformed bytes
    except Exception as error:
        raise ValueError(f"{name}: not a readable image ({error})") from error
    return torch.from_numpy(np.array(image)).view(size, size, channels).permute(2, 0, 1), frames


def _reduce_while_decoding(image: Any, size: int) -> None:
    """JPEG decodes to 1/2, 1/4 or 1/8 of its sides at a part of the cost; other formats change nothing here."""
    scale = REDUCING_GAP * size / min(image.size)
    image.draft(None, tuple(int(scale * side) + 1 for side in image.size))


def _plain(image: Any) -> Any:
    """The image in a mode that resizes as colours do: L, RGB, or RGBA where something may be transparent."""
    if image.mode in SIXTEEN_BIT:
        return _eight_bit(image)
    if image.mode.startswith(("I", "F")):  # conversion to 8 bits would clip it without a word
        raise ValueError(f"pixel format {image.mode}, of unknown range")
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")


def _eight_bit(image: Any) -> Any:
    Image = require("PIL.Image")
    values = np.asarray(image).astype(np.uint16)
    grey = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    if (transparent := image.info.get("transparency")) is None:
        return grey
    alpha = Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
    return Image.merge("RGBA", (grey, grey, grey, alpha))


def _square(image: Any, size: int) -> Any:
    """Cropped around the centre, resized. With alpha, colours weigh as much as they show."""
    left, top = ((side - min(image.size)) / 2 for side in image.size)
    box = (left, top, left + min(image.size), top + min(image.size))
    lanczos = require("PIL.Image").Resampling.LANCZOS
    return image.resize((size, size), lanczos, box=box, reducing_gap=REDUCING_GAP)
