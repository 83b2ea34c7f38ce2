"""Folders and zips of images."""

import io
import zipfile

import numpy as np
from PIL import Image


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def solid(colour, height=40, width=40):
    return png(np.full((height, width, len(colour)), colour, dtype=np.uint8))


def write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return str(root)


def pack(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return str(path)


def placed(place, tmp_path, files):
    """The files in a "folder" or a "zip"."""
    return write(tmp_path / "in", files) if place == "folder" else pack(tmp_path / "in.zip", files)
