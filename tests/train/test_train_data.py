import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits

from fastgan.train.data import Sampler, load_images, to_real


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def solid(colour, height=40, width=40):
    return png(np.full((height, width, len(colour)), colour, dtype=np.uint8))


def bomb():
    """A PNG that declares 30000 x 30000 pixels in a few bytes."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


@pytest.fixture
def files():
    """Names, out of order, and contents."""
    rng = np.random.default_rng(0)
    noise = rng.integers(256, size=(50, 40, 3), dtype=np.uint8)
    return {"b/deep/2.PNG": png(noise), "a.png": solid((255, 0, 0)), "notes.txt": b"not an image"}


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


def test_digits_are_the_scans():
    images = load_images("digits", 1)
    assert images.shape == (1797, 1, 32, 32)
    assert images.dtype == torch.uint8
    # Shrunk to their own size again they are the scans, up to what bicubic overshoot and clamping change.
    shrunk = F.avg_pool2d(images.float(), 4).squeeze(1) * 16 / 255
    scans = torch.from_numpy(load_digits().images).float()
    assert (shrunk - scans).abs().mean() < 1
    assert torch.corrcoef(torch.stack([shrunk.flatten(), scans.flatten()]))[0, 1] > 0.97


def test_digits_in_colour():
    images = load_images("digits", 3)
    assert images.shape == (1797, 3, 32, 32)
    assert torch.equal(images[:, :1].expand_as(images), images)


def test_folder_and_zip_agree_in_sorted_order(tmp_path, files):
    folder = load_images(write(tmp_path / "images", files), 3)
    archive = load_images(pack(tmp_path / "images.zip", files), 3)
    assert folder.shape == (2, 3, 32, 32)
    assert torch.equal(folder, archive)
    assert torch.equal(folder[0].unique(dim=1).unique(dim=2).flatten(), torch.tensor([255, 0, 0]))


def test_sides_are_cropped(tmp_path):
    wide = np.zeros((40, 120, 3), dtype=np.uint8)
    wide[:, 40:80] = 255
    images = load_images(write(tmp_path, {"wide.png": png(wide)}), 3)
    assert images.min() > 240  # the filter may reach a little over the cut


def test_grey_and_alpha(tmp_path):
    source = write(tmp_path, {"a.png": solid((200,) * 3), "b.png": solid((200, 200, 200, 128))})
    assert torch.equal(load_images(source, 1), torch.full((2, 1, 32, 32), 200, dtype=torch.uint8))


@pytest.mark.parametrize(
    "content",
    [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n junk", solid((1, 2, 3))[:60], bomb(), png(np.zeros((8, 8), dtype=np.uint16))],
    ids=["empty", "header", "junk", "truncated", "bomb", "16-bit"],
)
@pytest.mark.parametrize("place", ["folder", "zip"])
def test_malformed_image_is_named(tmp_path, files, content, place):
    files["a/broken.png"] = content
    source = write(tmp_path / "in", files) if place == "folder" else pack(tmp_path / "in.zip", files)
    with pytest.raises(ValueError, match=r"broken\.png: not a readable image .*; expected an 8-bit image file"):
        load_images(source, 3)


def test_damaged_zip_member_is_named(tmp_path):
    path = tmp_path / "in.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", solid((9, 9, 9)))
    content = bytearray(path.read_bytes())
    content[70:75] = b"\0" * 5
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"in\.zip/a\.png: not a readable image"):
        load_images(str(path), 3)


def test_zip_member_of_another_name_than_listed(tmp_path):
    path = tmp_path / "in.zip"
    pack(path, {"a.png": b"x"})
    path.write_bytes(path.read_bytes().replace(b"a.png", b"b.png", 1))
    with pytest.raises(ValueError, match=r"in\.zip/a\.png: cannot be unpacked"):
        load_images(str(path), 3)


def test_not_a_zip(tmp_path):
    (tmp_path / "in.zip").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"in\.zip: not a readable zip .*expected a folder"):
        load_images(str(tmp_path / "in.zip"), 3)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere': no such file; expected a folder"):
        load_images(str(tmp_path / "nowhere"), 3)


def test_no_images(tmp_path):
    with pytest.raises(ValueError, match=r"holds no images; expected files named \.bmp"):
        load_images(write(tmp_path, {"notes.txt": b"hello"}), 3)


def test_to_real_spans_minus_one_to_one(images):
    images[0, 0, 0, :2] = torch.tensor([0, 255])
    real = to_real(images, torch.float64)
    assert real[0, 0, 0, 0] == -1
    assert real[0, 0, 0, 1] == 1
    assert real.dtype == torch.float64
    assert to_real(images.expand(-1, 3, -1, -1)).is_contiguous(memory_format=torch.channels_last)


def take(sampler, batches):
    return [next(sampler).tolist() for _ in range(batches)]


@pytest.mark.parametrize("batch", [1, 3, 10, 25])
def test_every_epoch_is_a_permutation(batch):
    order = [index for indices in take(Sampler(10, batch, seed=0), 60 // batch + 1) for index in indices]
    epochs = [order[i : i + 10] for i in range(0, len(order) - 9, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_order_depends_on_the_seed_alone():
    assert take(Sampler(10, 4, seed=1), 9) == take(Sampler(10, 4, seed=1), 9)
    assert take(Sampler(10, 4, seed=1), 9) != take(Sampler(10, 4, seed=2), 9)


@pytest.mark.parametrize("taken", [0, 2, 5])
def test_sampler_resumes(taken):
    sampler, resumed = Sampler(10, 4, seed=3), Sampler(10, 4, seed=3)
    take(sampler, taken)
    resumed.load_state_dict(sampler.state_dict())
    assert take(resumed, 9) == take(sampler, 9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 11}, "sampler's size is 11: this run has 10"),
        ({"seed": 1}, "sampler's seed is 1: this run has 0"),
        ({"position": 11}, "position 11: expected integers within the data set"),
        ({"epoch": None}, "epoch None"),
    ],
)
def test_sampler_refuses_a_foreign_state(change, message):
    sampler = Sampler(10, 4, seed=0)
    with pytest.raises(ValueError, match=message):
        sampler.load_state_dict({**sampler.state_dict(), **change})
    with pytest.raises(ValueError, match="sampler is None: expected an object"):
        sampler.load_state_dict(None)
