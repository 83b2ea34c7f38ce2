import os
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from fastgan.train.data import RESOLUTIONS, Images, digest, load_images, to_real
from fastgan.train.sampler import Sampler
from image_files import pack, placed, png, solid, write


@pytest.fixture
def files():
    """Names, out of order, and contents."""
    rng = np.random.default_rng(0)
    noise = rng.integers(256, size=(50, 40, 3), dtype=np.uint8)
    return {"b/deep/2.PNG": png(noise), "a.png": solid((255, 0, 0)), "notes.txt": b"not an image"}


def test_digits_are_the_scans():
    digits = load_images("digits", 1)
    images = digits.pixels
    assert images.shape == (1797, 1, 32, 32)
    assert images.dtype == torch.uint8
    assert digits.labels.tolist() == load_digits().target.tolist()
    assert digits.labels.dtype == torch.int64
    assert digits.classes == tuple("0123456789")
    # Shrunk to their own size again they are the scans, up to what bicubic overshoot and clamping change.
    shrunk = F.avg_pool2d(images.float(), 4).squeeze(1) * 16 / 255
    scans = torch.from_numpy(load_digits().images).float()
    assert (shrunk - scans).abs().mean() < 1
    assert torch.corrcoef(torch.stack([shrunk.flatten(), scans.flatten()]))[0, 1] > 0.97


@pytest.mark.parametrize("resolution", [32, 64])
def test_digits_in_colour(resolution):
    images = load_images("digits", 3, resolution).pixels
    assert images.shape == (1797, 3, resolution, resolution)
    assert torch.equal(images[:, :1].expand_as(images), images)


def test_folder_and_zip_agree_in_sorted_order(tmp_path, files):
    folder = load_images(write(tmp_path / "images", files), 3).pixels
    archive = load_images(pack(tmp_path / "images.zip", files), 3).pixels
    assert folder.shape == (2, 3, 32, 32)
    assert torch.equal(folder, archive)
    assert torch.equal(folder[0].unique(dim=1).unique(dim=2).flatten(), torch.tensor([255, 0, 0]))


@pytest.mark.parametrize("place", ["folder", "zip"])
def test_many_files_keep_their_order_and_their_classes(tmp_path, place, monkeypatch):
    """However many threads read them, of a zip too."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    names = [f"{level % 7}/{level:03d}.png" for level in range(250)]
    images = load_images(placed(place, tmp_path, {name: solid((int(name[2:5]),) * 3) for name in names}), 1)
    assert images.pixels[:, 0, 5, 5].tolist() == [int(name[2:5]) for name in sorted(names)]
    assert images.labels.tolist() == [int(name[0]) for name in sorted(names)]


def test_sides_are_cropped(tmp_path):
    wide = np.zeros((40, 120, 3), dtype=np.uint8)
    wide[:, 40:80] = 255
    images = load_images(write(tmp_path, {"wide.png": png(wide)}), 3).pixels
    assert images.min() > 240  # the filter may reach a little over the cut


@pytest.mark.parametrize(
    "content",
    [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n junk", solid((1, 2, 3))[:60]],
    ids=["0", "head", "junk", "cut"],
)
@pytest.mark.parametrize("place", ["folder", "zip"])
def test_malformed_image_is_named(tmp_path, files, content, place):
    files["a/broken.png"] = content
    source = placed(place, tmp_path, files)
    with pytest.raises(ValueError, match=r"broken\.png: not (an image; expected one of .*PNG|a readable image \(.*\))"):
        load_images(source, 3)


def test_names_in_order_of_their_parts(tmp_path):
    """The slash comes before every other character, in folders and in zips."""
    files = {"a/1.png": solid((1,) * 3), "a-b/1.png": solid((2,) * 3), "a.png": solid((3,) * 3)}
    for source in (write(tmp_path / "in", files), pack(tmp_path / "in.zip", files)):
        assert load_images(source, 1).pixels[:, 0, 0, 0].tolist() == [1, 2, 3]


def test_folders_named_like_images(tmp_path):
    (tmp_path / "in/empty.png").mkdir(parents=True)
    write(tmp_path / "in", {"faces.png/1.png": solid((1,) * 3)})
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("faces.png/", b"")
        archive.writestr("faces.png/1.png", solid((1,) * 3))
    for name in ("in", "in.zip"):
        assert len(load_images(str(tmp_path / name), 3)) == 1


APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X        "


@pytest.mark.parametrize("place", ["folder", "zip"])
def test_what_is_left_out_is_said(tmp_path, place, caplog):
    files = {"a.png": solid((1,) * 3), "b.txt": b"", "c.TXT": b"", "d.eps": b"", "README": b""}
    files |= {"__MACOSX/._a.png": APPLE_DOUBLE, "._a.png": APPLE_DOUBLE, "__MACOSX/e.png": APPLE_DOUBLE}
    source = placed(place, tmp_path, files)
    assert len(load_images(source, 3)) == 1
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    kinds = "1 .eps, 2 .txt, 3 of macOS (._*), 1 without suffix"
    assert record.message == f"{source}: left out 7 files that are not images of a known kind: {kinds}"


def test_what_becomes_of_the_images_is_said(tmp_path, caplog):
    source = write(tmp_path, {"a.png": solid((1,) * 3)})
    with caplog.at_level("INFO", "fastgan.train"):
        load_images(source, 3)
    assert caplog.messages == [f"{source}: 1 images of 32 x 32: 1 reduced"]


SIZES = {"a.png": (40, 40), "b.png": (32, 32), "c.png": (50, 32), "d.png": (64, 90), "e.png": (20, 20)}


@pytest.fixture
def sizes():
    """Images of several sizes, (height, width) by name."""
    return {name: solid((9,) * 3, *size) for name, size in SIZES.items()}


@pytest.mark.parametrize("place", ["folder", "zip"])
def test_every_change_of_size_is_said(tmp_path, sizes, place, caplog):
    source = placed(place, tmp_path, sizes)
    with caplog.at_level("INFO", "fastgan.train"):
        assert (load_images(source, 1).pixels == 9).all()
        assert load_images(source, 1, 64).pixels.shape == (5, 1, 64, 64)
    assert caplog.messages == [
        f"{source}: 5 images of 32 x 32: 2 cropped to a square, 2 reduced, 1 enlarged",
        f"{source}: 1 of 5 images are smaller than 32 x 32",
        f"{source}: 5 images of 64 x 64: 2 cropped to a square, 4 enlarged",
        f"{source}: 4 of 5 images are smaller than 64 x 64",
    ]
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"] * 2


def test_images_of_the_resolution_stay_as_they_are(tmp_path, caplog):
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    source = write(tmp_path, {"a.png": png(noise)})
    with caplog.at_level("INFO", "fastgan.train"):
        images = load_images(source, 3, 64, crop="none", allow_enlarging=False)
    assert torch.equal(images.pixels[0], torch.from_numpy(noise).permute(2, 0, 1))
    assert caplog.messages == [f"{source}: 1 images of 64 x 64: all as they are"]


@pytest.mark.parametrize("place", ["folder", "zip"])
def test_what_the_policy_refuses_is_named(tmp_path, sizes, place):
    source = placed(place, tmp_path, sizes)
    with pytest.raises(
        ValueError, match=r"c\.png: 32 x 50 pixels: expected a square with crop = 'none'; .*--crop center"
    ):
        load_images(source, 3, crop="none")
    told = r"e\.png: 20 x 20 pixels: expected at least 32 x 32, the resolution; .*--allow-enlarging"
    for skip_corrupt in (False, True):
        with pytest.raises(ValueError, match=told):
            load_images(source, 3, allow_enlarging=False, skip_corrupt=skip_corrupt)


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_every_resolution(tmp_path, sizes, resolution):
    assert load_images(write(tmp_path, sizes), 3, resolution).pixels.shape == (5, 3, resolution, resolution)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resolution": 48}, "resolution = 48: expected one of 32, 64, 128, 256, 512"),
        ({"resolution": 16}, "resolution = 16: expected one of 32"),
        ({"resolution": 1024}, "resolution = 1024: expected one of 32"),
        ({"channels": 2}, "channels = 2: expected one of 1, 3"),
        ({"crop": "left"}, "crop = 'left': expected one of center, none"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        load_images("digits", **{"channels": 1, **arguments})


# --- files that cannot be read ---


def test_skipped_files_are_counted_and_named(tmp_path, caplog):
    files = {f"{i}/{name}.png": solid((10 * i + j,) * 3) for i in range(3) for j, name in enumerate("abc")}
    files |= {"0/b.png": b"", "1/d.png": solid((1,) * 3)[:60], "2/a.png": b"text", "2/e.png": b"GIF89a"}
    for place in ("folder", "zip"):
        caplog.clear()
        source = placed(place, tmp_path, files)
        images = load_images(source, 1, skip_corrupt=True)
        assert images.pixels[:, 0, 0, 0].tolist() == [0, 2, 10, 11, 12, 21, 22]
        assert images.labels.tolist() == [0, 0, 1, 1, 1, 2, 2]
        (message,) = caplog.messages
        assert message.startswith(
            f"{source}: left out 4 of 11 files that cannot be read: {source}/0/b.png: not an image"
        )
        assert [name for name in ("1/d.png", "2/a.png", "2/e.png") if f"{source}/{name}: " in message] == [
            "1/d.png",
            "2/a.png",
        ]
        assert message.endswith("; ...")


def test_whatever_cannot_be_read_is_skipped(tmp_path, caplog):
    write(tmp_path / "in", {"a.png": solid((1,) * 3)})
    os.mkfifo(tmp_path / "in/pipe.png")
    (tmp_path / "in/broken.png").symlink_to("nowhere")
    assert len(load_images(str(tmp_path / "in"), 3, skip_corrupt=True)) == 1
    assert "left out 2 of 3 files" in caplog.messages[0]
    path = tmp_path / "in.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", solid((9, 9, 9)))
        archive.writestr("b.png", solid((7, 7, 7)))
    content = bytearray(path.read_bytes())
    content[70:75] = b"\0" * 5
    path.write_bytes(content)
    assert load_images(str(path), 1, skip_corrupt=True).pixels[:, 0, 0, 0].tolist() == [7]
    assert "in.zip/a.png: cannot be unpacked (Bad CRC-32" in caplog.messages[1]


def test_an_unreadable_file_says_how_to_go_on(tmp_path, files):
    files["a/broken.png"] = b""
    with pytest.raises(ValueError, match=r"broken\.png: .*; skip_corrupt \(--skip-corrupt\) leaves such files out$"):
        load_images(write(tmp_path, files), 3)


def test_all_skipped(tmp_path):
    with pytest.raises(ValueError, match="none of 2 images can be read"):
        load_images(write(tmp_path, {"a.png": b"", "b.png": b""}), 3, skip_corrupt=True)


def test_the_first_of_many_errors_is_told(tmp_path):
    """Files are read at once by several threads: which one fails first is not which one is named."""
    files = {f"{i:03d}.png": solid((i % 256,) * 3) for i in range(200)}
    files["150.png"], files["031.png"] = b"", solid((1,) * 3, 400, 400)[:300]
    with pytest.raises(ValueError, match=r"031\.png"):
        load_images(write(tmp_path, files), 3)


def test_symbolic_links_are_followed(tmp_path):
    store = tmp_path / "store"
    write(store, {"2.png": solid((2,) * 3), "deep/3.png": solid((3,) * 3)})
    write(tmp_path / "in", {"cats/1.png": solid((1,) * 3)})
    (tmp_path / "in/dogs").symlink_to(store)
    (tmp_path / "in/last.png").symlink_to(store / "2.png")
    (tmp_path / "also").symlink_to(tmp_path / "in")
    assert load_images(str(tmp_path / "also"), 1).pixels[:, 0, 0, 0].tolist() == [1, 2, 3, 2]


@pytest.mark.parametrize("to", [".", "..", "../../in"])
def test_cycles_are_refused(tmp_path, to):
    write(tmp_path / "in", {"a/1.png": solid((1,) * 3)})
    (tmp_path / "in/a/loop").symlink_to(to)
    with pytest.raises(ValueError, match="a symbolic link to a folder that it is in: expected no cycle"):
        load_images(str(tmp_path / "in"), 3)


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match=r"pipe\.png: not a regular file"):
        load_images(str(tmp_path), 3)
    (tmp_path / "pipe.png").unlink()
    (tmp_path / "broken.png").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"broken\.png: broken symbolic link"):
        load_images(str(tmp_path), 3)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("name", ["a.png", "b"])
def test_what_may_not_be_read_is_named(tmp_path, name):
    write(tmp_path, {"a.png": solid((1,) * 3), "b/c.png": solid((1,) * 3)})
    (tmp_path / name).chmod(0)
    with pytest.raises(ValueError, match=f"{name}: cannot be read .Permission denied"):
        load_images(str(tmp_path), 3)
    (tmp_path / name).chmod(0o700)


def test_damaged_zip_member_is_named(tmp_path):
    path = tmp_path / "in.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", solid((9, 9, 9)))
    content = bytearray(path.read_bytes())
    content[70:75] = b"\0" * 5
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"in\.zip/a\.png: cannot be unpacked .Bad CRC-32"):
        load_images(str(path), 3)


def test_encrypted_zip_member_is_named(tmp_path):
    path = tmp_path / "in.zip"
    pack(path, {"a.png": solid((9, 9, 9))})
    content = bytearray(path.read_bytes())
    for signature, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(signature) + at] |= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"in\.zip/a\.png: cannot be unpacked .*encrypted"):
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
    with pytest.raises(ValueError, match=r"holds no images; expected files named \.apng, "):
        load_images(write(tmp_path, {"notes.txt": b"hello"}), 3)


def test_to_real_spans_minus_one_to_one(images):
    images = images.pixels
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


def test_indices_are_where_the_images_are():
    """A CPU tensor that indexes a device's makes every step wait for the copy."""
    sampler = Sampler(10, 4, seed=0, device="meta")
    assert [next(sampler).device.type for _ in range(5)] == ["meta"] * 5


def test_digest_is_of_pixels_labels_and_their_order(images):
    pixels, labels, classes = images.pixels, torch.arange(10) % 2, ("a", "b")
    labelled = Images(pixels, labels, classes)
    same = Images(pixels.clone().contiguous(memory_format=torch.channels_last), labels.clone(), classes)

    def of(images):
        return digest([t for t in (images.pixels, images.labels) if t is not None], images.classes)

    assert of(labelled) == of(same)
    changed = pixels.clone()
    changed[3, 0, 31, 31] ^= 1
    others = [Images(x) for x in (pixels, changed, pixels.flip(0), pixels[:9], pixels.view(10, 1, 16, 64))]
    others += [Images(pixels, labels.flip(0), classes), Images(pixels, labels, ("a", "c")), labelled]
    assert len({*map(of, others)}) == len(others)
