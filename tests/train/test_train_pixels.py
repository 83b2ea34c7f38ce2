"""Image files to pixels: every format, mode and size that may come, and what must not be started or unpacked."""

import io
import struct
import subprocess
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from fastgan.train.data import load_images
from fastgan.train.pixels import FORMATS, OPENED_AS, formats, suffixes

SIDE = 64


def smooth(mode="RGB", side=SIDE):
    """A picture without sharp edges, another in each corner."""
    x = np.linspace(0, 1, side)
    red, green = np.meshgrid(255 * x, 255 * x**2)
    return Image.fromarray(np.stack([red, green, 255 - red], axis=2).astype(np.uint8)).convert(mode)


def encode(image, name, **options):
    buffer = io.BytesIO()
    image.save(buffer, format=name, **options)
    return buffer.getvalue()


def loaded(tmp_path, content, name="a.png", channels=3, **options):
    """The image as float [channels, 32, 32]."""
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    (image,) = load_images(str(tmp_path), channels, **options).pixels
    return image.float()


def resized(image):
    """What `loaded` should give, of an image without alpha."""
    return torch.from_numpy(np.array(image.resize((32, 32), Image.Resampling.LANCZOS))).permute(2, 0, 1).float()


CONTENTS = {
    name: encode(smooth(), name, **({"quality": 95} if name in ("JPEG", "WEBP", "AVIF") else {}))
    for name in FORMATS
    if name in formats() and name in Image.SAVE
}
CONTENTS["MPO"] = encode(smooth(), "MPO", quality=95)
LOSSY = {"JPEG": 10, "MPO": 10, "WEBP": 10, "AVIF": 10, "GIF": 60, "JPEG2000": 2}  # GIF: a palette of 256 colours


@pytest.mark.parametrize("suffix", sorted(suffixes()))
def test_every_suffix_is_read(tmp_path, suffix):
    name = Image.registered_extensions()[suffix]
    if name not in CONTENTS:
        pytest.skip(f"Pillow does not write {name}")
    difference = loaded(tmp_path, CONTENTS[name], f"a{suffix.upper()}") - resized(smooth())
    assert difference.abs().max() <= LOSSY.get(name, 1)


def test_formats_that_are_common_are_read():
    common = {".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".tga", ".webp"}
    assert common <= suffixes()
    assert not {".eps", ".ps", ".pdf", ".wmf", ".fits", ".h5", ".psd"} & suffixes()
    assert {*map(OPENED_AS.get, OPENED_AS)} <= {*FORMATS}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_truncated_files_are_refused(tmp_path, name, part):
    content = CONTENTS[name]
    with pytest.raises(ValueError, match=r"a\.png: not (an image|a readable image)"):
        loaded(tmp_path, content[: int(part * len(content))])


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("content", [EPS, b"%PDF-1.4\n", b"\xd7\xcd\xc6\x9a" + bytes(40)], ids=["eps", "pdf", "wmf"])
def test_no_other_program_is_started(tmp_path, content, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: started.append(args))
    with pytest.raises(ValueError, match=r"a\.png: not an image; expected one of "):
        loaded(tmp_path, content)
    assert not started


# --- sizes ---


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_of(width, height, *extra):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(bytes(1000)))


@pytest.mark.parametrize(("width", "height"), [(16_000, 10_048), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_images_of_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, width, height):
    with pytest.raises(ValueError, match=rf"a\.png: too large .*expected at most max_pixels = {2**26} pixels"):
        loaded(tmp_path, png_of(width, height))


def test_the_limit_of_pixels_may_be_set(tmp_path):
    content, before = encode(smooth(), "PNG"), Image.MAX_IMAGE_PIXELS
    loaded(tmp_path, content, max_pixels=SIDE**2)
    with pytest.raises(ValueError, match=rf"a\.png: too large .*expected at most max_pixels = {SIDE**2 - 1} pixels"):
        loaded(tmp_path, content, max_pixels=SIDE**2 - 1)
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("place", ["folder", "zip"])
def test_files_of_too_many_bytes_are_not_read(tmp_path, place, monkeypatch):
    """A chunk that no decoder needs, of 2 MB, which a zip holds in 2 kB."""
    content = png_of(64, 64, chunk(b"prVt", bytes(2 * 2**20)))
    if place == "folder":
        (tmp_path / "a.png").write_bytes(content)
        source = tmp_path
    else:
        source = tmp_path / "in.zip"
        with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.png", content)
        assert source.stat().st_size < 10_000
    monkeypatch.setattr(zipfile.ZipFile, "read", None)
    limit = rf"a\.png: {len(content)} bytes: expected at most 4 \* max_pixels = {4 * 2**18}"
    with pytest.raises(ValueError, match=limit):
        load_images(str(source), 3, max_pixels=2**18)


def test_a_zip_member_that_hides_its_size_is_refused(tmp_path):
    """Its directory says 100 bytes: no more are unpacked."""
    path, content = tmp_path / "in.zip", png_of(64, 64, chunk(b"prVt", bytes(2**20)))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", content)
    size = struct.pack("<I", len(content))
    path.write_bytes(path.read_bytes().replace(size, struct.pack("<I", 100)))
    with pytest.raises(ValueError, match=r"in\.zip/a\.png: cannot be unpacked .Bad CRC-32"):
        load_images(str(path), 3)


@pytest.mark.parametrize("name", ["zTXt", "iTXt", "iCCP"])
def test_compressed_chunks_are_bounded(tmp_path, name):
    bomb = zlib.compress(bytes(64 * 2**20))
    content = {"zTXt": b"a\0\0" + bomb, "iTXt": b"a\0\1\0\0\0" + bomb, "iCCP": b"a\0\0" + bomb}[name]
    with pytest.raises(ValueError, match=r"a\.png: not a readable image .*[Tt]oo large"):
        loaded(tmp_path, png_of(64, 64, chunk(name.encode(), content)))


def test_large_jpegs_are_reduced_while_they_are_decoded(tmp_path, monkeypatch):
    image = smooth(side=1024)
    decoded = []
    original = ImageOps.exif_transpose
    monkeypatch.setattr(ImageOps, "exif_transpose", lambda im, **kw: decoded.append(im.size) or original(im, **kw))
    found = loaded(tmp_path, encode(image, "JPEG", quality=95))
    assert decoded == [(128, 128)]
    assert (found - resized(image)).abs().max() <= 10


# --- colours ---


def fill(mode, colour, hidden, **options):
    """Left half of `colour`, right half of `hidden`."""
    image = Image.new(mode, (SIDE, SIDE), colour)
    image.paste(hidden, (SIDE // 2, 0, SIDE, SIDE))
    return encode(image, "PNG", **options)


def palette():
    image = Image.new("P", (SIDE, SIDE), 0)
    image.putpalette([200, 100, 50, 10, 20, 30])
    image.paste(1, (SIDE // 2, 0, SIDE, SIDE))
    return encode(image, "PNG", transparency=b"\xff\x00")


def sixteen_bit(transparency=None):
    values = np.full((SIDE, SIDE), 100 * 257, dtype=np.uint16)
    values[:, SIDE // 2 :] = 30 * 257
    content = encode(Image.fromarray(values), "PNG")
    if transparency is None:
        return content
    return content[:33] + chunk(b"tRNS", struct.pack(">H", transparency)) + content[33:]


HIDDEN = {
    "RGBA": (fill("RGBA", (200, 100, 50, 255), (10, 20, 30, 0)), (200, 100, 50)),
    "LA": (fill("LA", (200, 255), (10, 0)), (200, 200, 200)),
    "palette": (palette(), (200, 100, 50)),
    "colour key": (fill("RGB", (200, 100, 50), (10, 20, 30), transparency=(10, 20, 30)), (200, 100, 50)),
    "grey key": (fill("L", 200, 10, transparency=10), (200, 200, 200)),
    "16-bit grey key": (sixteen_bit(30 * 257), (100, 100, 100)),
}


@pytest.mark.parametrize("kind", HIDDEN)
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_transparent_shows_white(tmp_path, kind, channels):
    content, colour = HIDDEN[kind]
    image = loaded(tmp_path, content, channels=channels)
    expected = np.array(Image.new("RGB", (1, 1), colour).convert("L" if channels == 1 else "RGB")).reshape(-1)
    assert image[:, :, 0].T.tolist() == [expected.tolist()] * 32
    assert (image[:, :, -1] == 255).all()


def test_half_transparent_is_half_white(tmp_path):
    image = loaded(tmp_path, encode(Image.new("RGBA", (SIDE, SIDE), (200, 100, 0, 128)), "PNG"))
    for channel, colour in zip(image, (200, 100, 0), strict=True):
        assert ((channel - (colour * 128 + 255 * 127) / 255).abs() <= 1).all()


def test_sixteen_bits_keep_their_range(tmp_path):
    image = loaded(tmp_path, sixteen_bit())
    assert (image[:, :, :12] == 100).all()
    assert (image[:, :, 20:] == 30).all()
    tiff = encode(Image.fromarray(np.full((SIDE, SIDE), 65535, dtype=np.uint16)), "TIFF")
    assert (loaded(tmp_path / "in", tiff, "a.tif") == 255).all()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_unknown_range_are_refused(tmp_path, mode):
    content = encode(Image.new(mode, (SIDE, SIDE), 7), "TIFF")
    with pytest.raises(ValueError, match=rf"a\.tif: not a readable image .pixel format {mode}, of unknown range"):
        loaded(tmp_path, content, "a.tif")


@pytest.mark.parametrize(
    ("mode", "name", "colour"),
    [("CMYK", "JPEG", (0, 255, 255, 0)), ("CMYK", "TIFF", (0, 255, 255, 0)), ("P", "GIF", 0), ("1", "PNG", 1)],
)
def test_other_modes_show_their_colours(tmp_path, mode, name, colour):
    image = Image.new(mode, (SIDE, SIDE), colour)
    if mode == "P":
        image.putpalette([255, 0, 0])
    expected = (255, 255, 255) if mode == "1" else (255, 0, 0)
    found = loaded(tmp_path, encode(image, name))
    assert [(channel - value).abs().max() <= 2 for channel, value in zip(found, expected, strict=True)] == [True] * 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_images_are_turned_as_their_exif_data_says(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = smooth().convert("L").convert("RGB")  # no chroma, which JPEG halves
    marker = upright.copy()
    marker.getexif()[0x0112] = orientation
    content = encode(upright, name, exif=exif, **({"quality": 95} if name in ("JPEG", "WEBP") else {}))
    difference = loaded(tmp_path, content) - resized(ImageOps.exif_transpose(marker))
    assert difference.abs().max() <= 10


@pytest.mark.parametrize("name", ["GIF", "PNG", "TIFF", "WEBP", "MPO"])
def test_the_first_of_several_frames_is_used_and_said(tmp_path, name, caplog):
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ("red", "blue", "lime")]
    content = encode(frames[0], name, save_all=True, append_images=frames[1:])
    found = loaded(tmp_path, content)
    assert (found - torch.tensor([255.0, 0, 0]).view(3, 1, 1)).abs().max() <= 3
    assert f"{tmp_path}: 1 files have several frames: the first of each is used" in caplog.messages


# --- PNGs and PGMs of other depths than 8 bits, byte by byte ---


def png_of_samples(depth, colour, rows, *extra):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + pixels + chunk(b"IEND", b"")


def halves(left, right):
    """Rows of bytes: the left half of samples of the first kind, the right half of the second."""
    return [left * (SIDE // 2) + right * (SIDE // 2)] * SIDE


def key(*values):
    return chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


GREY, RGB, GREY_ALPHA, RGBA = 0, 2, 4, 6
FOUR_BITS, TWO_BITS = [bytes([0xCC] * 16 + [0x33] * 16)] * SIDE, [bytes([0xAA] * 8 + [0x55] * 8)] * SIDE
WORDS = struct.pack(">3H", 0xC8FF, 0x6400, 0x3210), struct.pack(">3H", 0x0A12, 0x1434, 0x1E56)
# Content, the left half's colour, the right half's.
DEPTHS = {
    "1-bit": (png_of_samples(1, GREY, [b"\xff" * 4 + b"\0" * 4] * SIDE), 255, 0),
    "2-bit": (png_of_samples(2, GREY, TWO_BITS), 170, 85),
    "4-bit": (png_of_samples(4, GREY, FOUR_BITS), 204, 51),
    "1-bit, key": (png_of_samples(1, GREY, [b"\xff" * 4 + b"\0" * 4] * SIDE, key(0)), 255, 255),
    "2-bit, key": (png_of_samples(2, GREY, TWO_BITS, key(1)), 170, 255),
    "4-bit, key": (png_of_samples(4, GREY, FOUR_BITS, key(3)), 204, 255),
    "8-bit, key": (png_of_samples(8, GREY, halves(b"\xcc", b"\x33"), key(0x33)), 204, 255),
    "16-bit RGB": (png_of_samples(16, RGB, halves(*WORDS)), (200, 100, 50), (10, 20, 30)),
    "16-bit RGB, key": (
        png_of_samples(16, RGB, halves(*WORDS), key(0x0A12, 0x1434, 0x1E56)),
        (200, 100, 50),
        (255, 255, 255),
    ),
    "16-bit RGBA": (
        png_of_samples(16, RGBA, halves(WORDS[0] + b"\xff\xff", WORDS[1] + b"\0\0")),
        (200, 100, 50),
        (255, 255, 255),
    ),
    "16-bit grey and alpha": (png_of_samples(16, GREY_ALPHA, halves(b"\xcc\xcc\xff\xff", b"\x33\x33\0\0")), 204, 255),
    "PGM": (b"P5\n64 64\n65535\n" + b"".join(halves(b"\xcc\xcc", b"\x33\x33")), 204, 51),
    "PGM to 1000": (b"P5\n64 64\n1000\n" + b"".join(halves(b"\x03\x20", b"\0\xc8")), 204, 51),
    "PGM in words": (b"P2\n64 64\n65535\n" + b"".join(halves(b"52428 ", b"13107 ")), 204, 51),
    "PPM": (b"P6\n64 64\n65535\n" + b"".join(halves(b"\xcc\xcc" * 3, b"\x33\x33" * 3)), 204, 51),
}


@pytest.mark.parametrize("kind", DEPTHS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_depth_is_brought_to_eight_bits(tmp_path, kind, channels):
    content, *colours = DEPTHS[kind]
    image = loaded(tmp_path, content, "a.ppm" if content.startswith(b"P") else "a.png", channels=channels)
    for column, colour in zip((0, -1), colours, strict=True):
        colour = colour if isinstance(colour, tuple) else (colour,) * 3
        expected = np.array(Image.new("RGB", (1, 1), colour).convert("L" if channels == 1 else "RGB")).reshape(-1)
        assert image[:, :, column].T.tolist() == [expected.tolist()] * 32


@pytest.mark.parametrize("name", ["PNG", "WEBP", "TIFF", "TGA", "AVIF", "JPEG2000", "GIF", "SGI", "QOI"])
def test_what_is_transparent_shows_white_in_every_format(tmp_path, name):
    if name not in formats() or name not in Image.SAVE:
        pytest.skip(f"Pillow does not write {name}")
    image = Image.new("RGBA", (SIDE, SIDE), (200, 100, 50, 255))
    image.paste((10, 20, 30, 0), (SIDE // 2, 0, SIDE, SIDE))
    found = loaded(tmp_path, encode(image, name, **({"lossless": True} if name == "WEBP" else {})))
    assert (found[:, :, 0].T - torch.tensor([200.0, 100, 50])).abs().max() <= LOSSY.get(name, 1)
    assert (found[:, :, -1] >= 254).all()
