"""Images in .npz and .npy files."""

import io
import os
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.train.data import digest, load_images

NOISE = np.random.default_rng(0).integers(256, size=(7, 32, 32, 3), dtype=np.uint8)


def save(path, *arrays, **named):
    """The path, as `load_images` takes it, of a .npy or .npz."""
    if path.suffix == ".npy":
        np.save(path, *arrays)
    else:
        np.savez(path, *arrays, **named)
    return str(path)


@pytest.fixture(params=["a.npz", "a.npy"])
def path(request, tmp_path):
    return tmp_path / request.param


LAYOUTS = {
    "[M, H, W, C]": NOISE,
    "[M, C, H, W]": np.ascontiguousarray(NOISE.transpose(0, 3, 1, 2)),
    "in Fortran's order": np.asfortranarray(NOISE),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_colours(path, layout, caplog):
    with caplog.at_level("INFO", "fastgan.train"):
        images = load_images(save(path, LAYOUTS[layout]), 3)
    assert torch.equal(images.pixels, torch.from_numpy(NOISE).permute(0, 3, 1, 2))
    assert (images.labels, images.classes, len(images)) == (None, (), 7)
    assert caplog.messages == [f"{path}: 7 images of 32 x 32: all as they are"]


@pytest.mark.parametrize("shape", [(7, 32, 32), (7, 32, 32, 1), (7, 1, 32, 32)])
def test_layouts_of_grey(path, shape):
    grey = NOISE[..., 0]
    assert torch.equal(load_images(save(path, grey.reshape(shape)), 1).pixels[:, 0], torch.from_numpy(grey))
    colour = load_images(str(path), 3).pixels
    assert torch.equal(colour, torch.from_numpy(grey)[:, None].expand(-1, 3, -1, -1))


@pytest.mark.parametrize("name", ["images", "arr_0", "x"])
def test_names_of_arrays(tmp_path, name):
    assert len(load_images(save(tmp_path / "a.npz", **{name: NOISE}), 3)) == 7


@pytest.mark.parametrize("name", ["labels", "y"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint64])
def test_labels(tmp_path, name, dtype, caplog):
    labels = np.array([3, 0, 1, 1, 2, 0, 3], dtype=dtype)
    with caplog.at_level("INFO", "fastgan.train"):
        images = load_images(save(tmp_path / "a.npz", images=NOISE, **{name: labels}), 3)
    assert images.labels.tolist() == labels.tolist()
    assert images.labels.dtype == torch.int64
    assert images.classes == ("0", "1", "2", "3")
    assert caplog.messages[-1].endswith("4 classes: 0, 1, 2, 3")


def test_compressed_files_and_other_arrays(tmp_path, caplog):
    np.savez_compressed(tmp_path / "a.npz", images=NOISE, file_names=np.zeros(7), z=np.zeros(1))
    assert torch.equal(load_images(str(tmp_path / "a.npz"), 3).pixels.permute(0, 2, 3, 1), torch.from_numpy(NOISE))
    assert caplog.messages == [f"{tmp_path}/a.npz: left out arrays that are neither images nor labels: file_names, z"]


def test_a_mapped_file_stays_on_the_disk(tmp_path):
    """All of it would not fit into memory: 64 GiB, of which the disk holds what was written."""
    array = np.lib.format.open_memmap(tmp_path / "a.npy", mode="w+", dtype=np.uint8, shape=(2**20, 256, 256, 1))
    array[-1] = 7
    del array
    images = load_images(str(tmp_path / "a.npy"), 1, 256)
    assert images.pixels.shape == (2**20, 1, 256, 256)
    assert (images.pixels[torch.tensor([0, 2**20 - 1])] == torch.tensor([0, 7]).view(2, 1, 1, 1)).all()


def test_digest_is_of_what_the_images_are(tmp_path):
    """Not of the file that they come from."""
    (tmp_path / "in").mkdir()
    for i, image in enumerate(NOISE):
        Image.fromarray(image).save(tmp_path / f"in/{i}.png")
    sources = [save(tmp_path / "a.npy", NOISE), save(tmp_path / "a.npz", LAYOUTS["[M, C, H, W]"]), str(tmp_path / "in")]
    assert len({digest((load_images(source, 3).pixels,)) for source in sources}) == 1


@pytest.mark.parametrize("shape", [(64, 64), (40, 50), (20, 20)])
@pytest.mark.parametrize("channels", [1, 3])
def test_other_sizes_are_resized_as_files_are(path, shape, channels, caplog):
    arrays = np.random.default_rng(1).integers(256, size=(3, *shape, 3), dtype=np.uint8)
    source, folder = save(path, arrays), path.parent / "in"
    folder.mkdir()
    for i, image in enumerate(arrays):
        Image.fromarray(image).save(folder / f"{i}.png")
    with caplog.at_level("INFO", "fastgan.train"):
        found, expected = (load_images(str(place), channels) for place in (source, folder))
    assert torch.equal(found.pixels, expected.pixels)
    told = [message.partition(": ") for message in caplog.messages]
    half = len(told) // 2
    assert [what for _, _, what in told[:half]] == [what for _, _, what in told[half:]]


def test_transparent_arrays_show_white(path):
    rgba = np.zeros((2, 32, 32, 4), dtype=np.uint8)
    rgba[0] = 200, 100, 50, 255
    images = load_images(save(path, rgba), 3).pixels
    assert images[:, :, 5, 5].tolist() == [[200, 100, 50], [255] * 3]


def test_policies_hold(path):
    source = save(path, NOISE[:, :, :20])
    with pytest.raises(ValueError, match=r"image 0: 20 x 32 pixels: expected a square with crop = 'none'"):
        load_images(source, 3, crop="none")
    with pytest.raises(ValueError, match=r"image 0: 20 x 32 pixels: expected at least 32 x 32.*--allow-enlarging"):
        load_images(source, 3, allow_enlarging=False)


# --- what is refused ---


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (NOISE.astype(np.float32), "float32: expected uint8"),
        (NOISE.astype(np.int8), "int8: expected uint8"),
        (NOISE[0, 0], r"shape \[32, 3\]: expected \[M, H, W\], \[M, H, W, C\] or \[M, C, H, W\] with C = 1, 3 or 4"),
        (NOISE[..., :2], r"shape \[7, 32, 32, 2\]: expected"),
        (NOISE[:0], r"shape \[0, 32, 32, 3\]: expected .*none of them 0"),
        (NOISE[:, :0], r"shape \[7, 0, 32, 3\]: expected"),
        (NOISE[:, :3], r"shape \[7, 3, 32, 3\]: expected .*may be either of the last two"),
        (np.uint8(7), r"shape \[\]: expected"),
    ],
)
def test_arrays_that_are_no_images(path, array, message):
    with pytest.raises(ValueError, match=rf"^{path}.*: {message}"):
        load_images(save(path, array), 3)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"pictures": NOISE}, "holds 'pictures': expected images in an array named images, arr_0, x"),
        ({}, "holds nothing: expected images"),
        ({"images": NOISE, "x": NOISE}, "holds 'images' and 'x': expected one of them"),
        ({"x": NOISE, "y": np.zeros(7, int), "labels": np.zeros(7, int)}, "holds 'labels' and 'y': expected one"),
        ({"x": NOISE, "y": np.zeros(6, int)}, r"array 'y': int64 \[6\]: expected integers \[7\], one for each image"),
        ({"x": NOISE, "y": np.zeros(7)}, "array 'y': float64 .*: expected integers"),
        ({"x": NOISE, "y": np.zeros((7, 10), int)}, r"array 'y': int64 \[7, 10\]: expected integers"),
        ({"x": NOISE, "y": np.full(7, -1)}, "array 'y': label -1: expected 0 to 65535"),
        ({"x": NOISE, "y": np.full(7, 2**16)}, "array 'y': label 65536: expected 0 to 65535"),
    ],
)
def test_files_of_other_arrays(tmp_path, named, message):
    with pytest.raises(ValueError, match=rf"a\.npz: {message}"):
        load_images(save(tmp_path / "a.npz", **named), 3)


class Pickled:
    """Starts what it should not when it is read."""

    def __reduce__(self):
        return os.mkdir, ("started",)


def test_no_pickle_is_read(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    array = np.array([Pickled()], dtype=object)
    source = save(path, array) if path.suffix == ".npy" else save(path, images=array)
    with pytest.raises(ValueError, match=rf"{path}: not a readable {path.suffix} "):
        load_images(source, 3)
    assert not (path.parent / "started").exists()


@pytest.mark.filterwarnings("ignore:.*invalid escape sequence")  # Python's, about a damaged header
def test_damaged_files_are_named(path):
    """Cut anywhere, or with any byte of the header changed: refused in one line, or still images of its size."""
    source = save(path, NOISE[:2])
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    cut = [content[:length] for length in (0, 1, 5, 50, 100, 1000, len(content) - 1)]
    changed = [content[:at] + rng.bytes(1) + content[at + 1 :] for at in rng.integers(200, size=100)]
    errors = []
    for damaged in cut + changed:
        path.write_bytes(damaged)
        try:
            assert load_images(source, 3).pixels.shape[1:] == (3, 32, 32)
        except ValueError as error:
            errors.append(str(error))
    assert len(errors) > 20
    assert [error for error in errors if str(path) not in error] == []


@pytest.mark.parametrize("content", [b"", b"text", b"PK\3\4 no zip", b"\x93NUMPY"])
def test_what_is_no_array_file(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path}: not a readable {path.suffix} "):
        load_images(str(path), 3)


def test_each_kind_of_file_by_its_own_name(tmp_path):
    """A .npy named .npz, the other way round, and a .npz that holds something else."""
    buffer = io.BytesIO()
    np.save(buffer, NOISE)
    (tmp_path / "a.npz").write_bytes(buffer.getvalue())
    np.savez(buffer := io.BytesIO(), NOISE)
    (tmp_path / "a.npy").write_bytes(buffer.getvalue())
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("images", b"text")
    for name, message in (
        ("a.npz", "not a readable"),
        ("a.npy", "not a readable"),
        ("b.npz", "no array: expected uint8"),
    ):
        with pytest.raises(ValueError, match=rf"{name}.*{message}"):
            load_images(str(tmp_path / name), 3)


def test_a_shape_that_no_memory_holds(tmp_path):
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d, 32, 32), }" % 2**50
    header = header.ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(ValueError, match=r"a\.npz: not a readable \.npz "):
        load_images(str(tmp_path / "a.npz"), 3)
