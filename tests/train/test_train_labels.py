"""Classes: of folders, of dataset.json, of arrays."""

import json
import zipfile

import pytest
import torch

from fastgan.train.data import load_images
from image_files import placed, solid


def grey(*names):
    """An image for each name, of its own grey level: 0, 1, 2, ..."""
    return {name: solid((level,) * 3) for level, name in enumerate(names)}


def listed(files, labels):
    return {**files, "dataset.json": json.dumps({"labels": labels}).encode()}


@pytest.fixture(params=["folder", "zip"])
def load(request, tmp_path):
    def load(files, **options):
        return load_images(placed(request.param, tmp_path, files), 1, **options)

    return load


CATS_AND_DOGS = ("dogs/1.png", "cats/9.png", "dogs/more/2.png", "cats/1.png")


@pytest.mark.parametrize("above", ["", "animals/", "my/animals/"])
def test_folders_are_classes(load, above, caplog):
    """Those in which the names differ first: a zip often has one folder with all of them."""
    with caplog.at_level("INFO", "fastgan.train"):
        images = load(grey(*(above + name for name in CATS_AND_DOGS)))
    assert images.classes == ("cats", "dogs")
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert images.labels.dtype == torch.int64
    assert images.pixels[:, 0, 0, 0].tolist() == [3, 1, 0, 2]
    assert caplog.messages[-1].endswith("2 classes: cats, dogs")


@pytest.mark.parametrize("names", [("a.png", "b.png"), ("all/a.png", "all/b.png"), ("a.png",)])
def test_images_in_one_folder_have_no_classes(load, names, caplog):
    images = load(grey(*names))
    assert len(images) == len(names)
    assert images.labels is None
    assert images.classes == ()
    assert caplog.messages == []


def test_images_beside_folders_are_kept_and_said(load, caplog):
    images = load(grey("cats/1.png", "a.png", "dogs/1.png"))
    assert images.pixels[:, 0, 0, 0].tolist() == [1, 0, 2]
    assert images.labels is None
    (message,) = caplog.messages
    assert message.endswith("1 of 3 images are in no folder: no classes are made of the folders of the others")


def test_what_is_left_out_makes_no_class(load):
    images = load({**grey("cats/1.png", "dogs/1.png"), "notes/1.txt": b"", "readme.md": b"", "__MACOSX/1.png": b""})
    assert images.classes == ("cats", "dogs")


def test_skipped_files_keep_their_class(load, caplog):
    images = load({**grey("cats/1.png", "dogs/1.png"), "emus/1.png": b"", "cats/0.png": b""}, skip_corrupt=True)
    assert images.classes == ("cats", "dogs", "emus")
    assert images.labels.tolist() == [0, 1]
    assert caplog.messages[-1].endswith("1 of 3 classes have no images")


def test_a_list_of_labels(load, caplog):
    labels = [["00000/2.png", 3], ["00000/1.png", 0], ["00001/3.png", 3]]
    images = load(listed(grey("00000/1.png", "00000/2.png", "00001/3.png"), labels))
    assert images.labels.tolist() == [0, 3, 3]
    assert images.labels.dtype == torch.int64
    assert images.classes == ("0", "1", "2", "3")
    (message,) = caplog.messages
    assert message.endswith("2 of 4 classes have no images")


def test_a_list_says_that_there_are_no_labels(load, caplog):
    images = load(listed(grey("00000/1.png", "00001/2.png"), None))
    assert len(images) == 2
    assert images.labels is None
    assert caplog.messages == []


NAMES = ("a/1.png", "a/2.png", "b/3.png")
FULL = [[name, 0] for name in NAMES]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (FULL[1:], r"does not list 'a/1\.png': expected every image beside it"),
        ([], r"does not list 'a/1\.png' and 2 others"),
        ([*FULL, ["c.png", 1]], r"lists 'c\.png': no such image beside it"),
        ([*FULL, ["dataset.json", 1]], r"lists 'dataset\.json': no such image"),
        ([*FULL, FULL[0]], r"'a/1\.png' is listed twice"),
        ([["a/1.png", 1.0], *FULL[1:]], r"\['a/1\.png', 1\.0\] in its list: expected \[name, label\]"),
        ([["a/1.png", True], *FULL[1:]], r".* in its list: expected \[name, label\]"),
        ([["a/1.png", [0.5, 0.5]], *FULL[1:]], r".* in its list: expected \[name, label\]"),
        ([[1, 1], *FULL[1:]], r".* in its list: expected \[name, label\]"),
        (["a/1.png", *FULL[1:]], r".* in its list: expected \[name, label\]"),
        ([["a/1.png", -1], *FULL[1:]], "label -1: expected 0 to 65535"),
        ([["a/1.png", 2**70], *FULL[1:]], f"label {2**70}: expected 0 to 65535"),
        ({"a/1.png": 1}, r'expected {"labels": \[\[name, label\], \.\.\.\]}'),
    ],
)
def test_a_list_that_does_not_fit_is_refused(load, labels, message):
    with pytest.raises(ValueError, match=rf"/dataset\.json: {message}"):
        load(listed(grey(*NAMES), labels))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[" * 100_000, b"\xff\xfe\xfd", b"[]", b"null", b"{}", b'{"label": []}']
)
def test_a_malformed_list_is_refused(load, content):
    with pytest.raises(ValueError, match=r"/dataset\.json: (not JSON|expected \{)"):
        load({**grey(*NAMES), "dataset.json": content})


def test_only_the_list_beside_all_images_counts(load, caplog):
    images = load({**grey("cats/1.png", "dogs/1.png"), "cats/dataset.json": b"{"})
    assert images.classes == ("cats", "dogs")
    (message,) = caplog.messages
    assert message.endswith("left out 1 files that are not images of a known kind: 1 .json")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_files_of_one_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for content in grey("a.png", "b.png").values():
            archive.writestr("cats/a.png", content)
    with pytest.raises(ValueError, match=r"in\.zip/cats/a\.png: 2 files of this name: expected one"):
        load_images(str(tmp_path / "in.zip"), 1)
