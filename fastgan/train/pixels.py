"""One image file to pixels: formats that are safe to read, bounded memory; whatever is dropped is reported."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np

from fastgan.train.extras import require
from fastgan.train.sources import UnreadableError

# Pillow's raster formats that it decodes itself: none that starts another program (EPS) or holds other files.
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF", "WEBP")
# Names that Pillow gives to some files which it opens as another format.
OPENED_AS = {"MPO": "JPEG"}
# A decoder that can give a smaller image gives one this many times as large as needed; the filter does the rest.
REDUCING_GAP = 3.0
# Pillow's 16-bit grey: its files' own range is 0..65535. "I" and "F" may hold anything, except in these formats.
SIXTEEN_BIT = {"I;16", "I;16L", "I;16B", "I;16N"}
SIXTEEN_BIT_AS_I = {"PNG", "PPM"}
# Pillow brings a PNG's pixels of other depths to 8 bits, but not the colour that is transparent.
EIGHT_BIT_KEYS = {
    "L;2": lambda grey: grey * 85,
    "L;4": lambda grey: grey * 17,
    "RGB;16B": lambda colour: tuple(value >> 8 for value in colour),
}
CROPS = ("center", "none")
# What becomes of an image that is not of the resolution asked for, and of its further frames.
DONE = CROPPED, REDUCED, ENLARGED = "cropped to a square", "reduced", "enlarged"
FRAMES = "several frames"


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


class Decoder:
    """Image files, or images that Pillow holds, to uint8 [channels, size, size].

    channels: 1 (grey) or 3 (RGB). crop: one of `CROPS`. Without `allow_enlarging` an image with a side below `size`
    is refused. Larger images are reduced by Pillow's Lanczos filter. What is transparent shows white.
    """

    def __init__(self, channels: int, size: int, crop: str = "center", allow_enlarging: bool = True):
        self.channels, self.size, self.crop, self.allow_enlarging = channels, size, crop, allow_enlarging
        self._formats = formats()

    def decode(self, file: IO[bytes], name: str) -> tuple[np.ndarray, list[str]]:
        """The first frame of a file, turned as its EXIF data says, and what was done to it.

        Raises ValueError naming the file: `UnreadableError` where it is damaged or no image.
        """
        Image, ImageOps = require("PIL.Image"), require("PIL.ImageOps")
        try:
            image = Image.open(file, formats=self._formats)
            several = [FRAMES] if getattr(image, "is_animated", False) else []
        except Exception as error:
            raise self._refusal(error, name) from error
        done = self._plan(image.size, name)
        try:
            _key_as_pixels(image)
            _reduce_while_decoding(image, self.size)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return self._fit(image), done + several
        # Pillow's decoders raise about anything on malformed bytes
        except Exception as error:
            raise self._refusal(error, name) from error

    def fit(self, image: Any, name: str) -> tuple[np.ndarray, list[str]]:
        """The same of an image of Pillow's, in mode L, RGB or RGBA. Raises ValueError naming it."""
        done = self._plan(image.size, name)
        return self._fit(image), done

    def _plan(self, size: tuple[int, int], name: str) -> list[str]:
        """What is to be done to an image of this size, of `DONE`. Raises ValueError where that is not allowed."""
        width, height = size
        told, shorter, done = f"{name}: {width} x {height} pixels", min(size), []
        if width != height:
            if self.crop == "none":
                raise ValueError(f"{told}: expected a square with crop = 'none'; crop = 'center' (--crop center) cuts")
            done.append(CROPPED)
        if shorter < self.size:
            if not self.allow_enlarging:
                raise ValueError(
                    f"{told}: expected at least {self.size} x {self.size}, the resolution; "
                    "allow_enlarging (--allow-enlarging) takes smaller images"
                )
            done.append(ENLARGED)
        if shorter > self.size:
            done.append(REDUCED)
        return done

    def _fit(self, image: Any) -> np.ndarray:
        Image = require("PIL.Image")
        image = _square(_plain(image), self.size)
        if image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if self.channels == 1 else "RGB")
        return np.array(image).reshape(self.size, self.size, self.channels).transpose(2, 0, 1)

    def _refusal(self, error: Exception, name: str) -> ValueError:
        Image = require("PIL.Image")
        if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
            limit = f"at most max_pixels = {Image.MAX_IMAGE_PIXELS} pixels"
            return ValueError(f"{name}: too large ({error}); expected {limit}")
        if isinstance(error, require("PIL").UnidentifiedImageError):
            return UnreadableError(f"{name}: not an image; expected one of {', '.join(self._formats)}")
        return UnreadableError(f"{name}: not a readable image ({error})")


def _key_as_pixels(image: Any) -> None:
    """The transparent colour in the range that the pixels will have: of a PNG before it is loaded."""
    if image.format == "PNG" and "transparency" in image.info and image.mode in ("L", "RGB"):
        to_eight_bit = EIGHT_BIT_KEYS.get(image.tile[0][3], lambda key: key)
        image.info["transparency"] = to_eight_bit(image.info["transparency"])


def _reduce_while_decoding(image: Any, size: int) -> None:
    """JPEG decodes to 1/2, 1/4 or 1/8 of its sides at a part of the cost; other formats change nothing here."""
    scale = REDUCING_GAP * size / min(image.size)
    image.draft(None, tuple(int(scale * side) + 1 for side in image.size))


def _plain(image: Any) -> Any:
    """The image in a mode that resizes as colours do: L, RGB, or RGBA where something may be transparent."""
    if image.mode in SIXTEEN_BIT or (image.mode == "I" and image.format in SIXTEEN_BIT_AS_I):
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
