"""`fastgan sample`: the same seed gives the same images; all of them are written, or nothing is."""

import errno
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from training_runs import names_in, refused

from fastgan.cli import main
from fastgan.train import load
from fastgan.train import sample as pictures
from fastgan.train.afterwards.latents import draw
from fastgan.train.files import new_folder


def pixels(file):
    """int64 [height, width] of a grey picture."""
    with Image.open(file) as image:
        assert image.mode == "L"
        return torch.from_numpy(np.array(image)).long()


def command(*argv):
    assert main([str(arg) for arg in argv]) == 0


def test_a_folder_of_images(ended, tmp_path, capsys):
    out = tmp_path / "new" / "images"
    command("sample", ended, "--n", 5, "--seed", 7, "--truncation", 0.7, "--out", out)
    assert capsys.readouterr().out == f"5 images: {out}\n"
    assert names_in(out) == [f"00000{i}.png" for i in range(5)]
    G = load(ended)
    images = ((G(draw(5, G.z_dim, 7, 0.7).float()) + 1) * 127.5).round().long()
    for i in range(5):
        assert (pixels(out / f"00000{i}.png") - images[i, 0]).abs().max() <= 1  # the last bit rounds either way


def test_the_batch_changes_no_image(ended, tmp_path):
    """Nor does how many images there are. What a batch does to the last bit may round a value to the next level."""
    for n, batch in ((7, 64), (7, 3), (5, 1)):
        command("sample", ended, "--n", n, "--batch", batch, "--out", tmp_path / f"{batch}")
    for batch, n in ((3, 7), (1, 5)):
        for i in range(n):
            name = f"00000{i}.png"
            assert (pixels(tmp_path / "64" / name) - pixels(tmp_path / str(batch) / name)).abs().max() <= 1


def test_a_seed_is_a_choice(ended, tmp_path):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        command("sample", ended, "--n", 2, "--seed", seed, "--out", tmp_path / folder)
    a, b, c = ((tmp_path / folder / "000000.png").read_bytes() for folder in "abc")
    assert a == b != c


def test_a_grid(ended, tmp_path, capsys):
    (tmp_path / "grid.PNG").write_text("replaced")
    command("sample", ended / "checkpoint.safetensors", "--n", 5, "--batch", 2, "--out", tmp_path / "grid.PNG")
    assert capsys.readouterr().out == f"grid of 5 images: {tmp_path / 'grid.PNG'}\n"
    command("sample", ended, "--n", 5, "--out", tmp_path / "one by one")
    sheet = pixels(tmp_path / "grid.PNG")
    assert sheet.shape == (2 * (2 * 34 + 2), 2 * (3 * 34 + 2))
    assert (sheet[72:136:2, 72:136:2] - pixels(tmp_path / "one by one" / "000004.png")).abs().max() <= 1
    assert (sheet[72:136, 140:204] == 255).all()  # there is no sixth


def test_an_empty_folder_is_taken(ended, tmp_path):
    command("sample", ended, "--n", 1, "--out", tmp_path)
    assert names_in(tmp_path) == ["000000.png"]


def test_colours(tmp_path):
    image = torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    (rgb,) = pictures.to_pixels(image)
    assert pictures.picture(rgb, scale=2).getpixel((3, 3)) == (255, 0, 128)
    pictures.save_grid(image, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as sheet:
        assert (sheet.mode, sheet.size) == ("RGB", (12, 12))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--n", 0], "n = 0: expected at least 1"),
        (["--batch", 0], "batch = 0: expected at least 1"),
        (["--seed", -1], "seed = -1: expected at least 0 and less than 2**63"),
        (["--seed", 2**63], f"seed = {2**63}: expected at least 0 and less than 2**63"),
        (["--truncation", 0], "truncation = 0.0: expected a number above 0"),
        (["--truncation", "nan"], "truncation = nan: expected a number above 0"),
        (["--truncation", "inf"], "truncation = inf: expected a number above 0"),
        (["--device", "abacus"], "device = 'abacus': "),
        (["--out", "images.jpg"], "out = 'images.jpg': expected a folder, or a file that ends in .png"),
    ],
)
def test_what_is_not_accepted(ended, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    assert refused(capsys, "sample", ended, "--out", "images", *flags).startswith(message)
    assert names_in(tmp_path) == []


def test_a_run_that_is_not_there(tmp_path, capsys):
    out = tmp_path / "images"
    assert "no such run" in refused(capsys, "sample", tmp_path / "nowhere", "--out", out)
    assert not out.exists()


def test_what_is_there_already_is_kept(ended, tmp_path, capsys):
    (tmp_path / "mine").write_text("x")
    for out in (tmp_path, tmp_path / "mine"):
        line = refused(capsys, "sample", ended, "--n", 1, "--out", out)
        assert line == f"out = {str(out)!r}: exists: expected a new folder, or an empty one"
    (tmp_path / "folder.png").mkdir()
    assert "folder.png': a folder" in refused(capsys, "sample", ended, "--n", 1, "--out", tmp_path / "folder.png")
    assert names_in(tmp_path) == ["folder.png", "mine"]


@pytest.mark.parametrize("flags", [["--out", "x", "--n", "1.5"], []])
def test_what_no_parser_takes(ended, flags):
    with pytest.raises(SystemExit) as stopped:
        main(["sample", str(ended), *flags])
    assert stopped.value.code == 2


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_all_images_or_none(ended, tmp_path, monkeypatch, capsys, error, there):
    out, png, written = tmp_path / "images", pictures.png, []
    if there:
        out.mkdir()

    def third_fails(image):
        if len(written) == 2:
            assert len(names_in(out)) == 2
            raise error
        written.append(image)
        return png(image)

    monkeypatch.setattr("fastgan.train.afterwards.sample.png", third_fails)
    assert main(["sample", str(ended), "--n", "4", "--out", str(out)]) == (1 if isinstance(error, OSError) else 130)
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert out.exists() == there
    assert not there or names_in(out) == []


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(OSError, match=r"a/b\.png: cannot write 1 bytes \(No such file or directory\)"):  # noqa: PT012, SIM117
        with new_folder(tmp_path / "images") as write:
            write("a.png", b"x")
            write("a/b.png", b"x")
    assert not (tmp_path / "images").exists()


def test_images_that_are_not_finite(ended, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pictures, "generate", lambda G, z: torch.full((len(z), 1, 32, 32), torch.nan))
    assert refused(capsys, "sample", ended, "--out", tmp_path / "x") == "images are not finite"
    assert names_in(tmp_path) == []


def test_a_missing_package(ended, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert "needs the package safetensors, which is not" in refused(capsys, "sample", ended, "--out", tmp_path / "x")


def test_classes(tmp_path, capsys):
    """One after the other, or the one that is asked for."""
    run = tmp_path / "run"
    small = ["--width", 4, "--width-g", 4, "--z-dim", 4, "--device", "cpu"]
    command("train", "digits", "--steps", 1, *small, "--out", run)
    G, z = load(run), draw(3, 4, 0).float()
    for name, options, classes in (("all", [], [0, 1, 2]), ("one", ["--class", 7], [7, 7, 7])):
        command("sample", run, "--n", 3, *options, "--out", tmp_path / name)
        expected = pictures.to_pixels(G(z, torch.tensor(classes)))
        for number, image in enumerate(expected):
            assert torch.equal(pixels(tmp_path / name / f"{number:06d}.png"), image[0].long())
    capsys.readouterr()
    assert "class = 10: expected 0 to 9" in refused(capsys, "sample", run, "--class", 10, "--out", tmp_path / "none")
    strip = ["interpolate", run, "--seeds", 1, 2, "--frames", 2, "--out", tmp_path / "a.png"]
    assert "class is missing: expected 0 to 9" in refused(capsys, *strip)
    command(*strip, "--class", 3)
