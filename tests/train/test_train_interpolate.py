"""`fastgan interpolate`: strips and films from image to image."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence, features
from training_runs import names_in, refused

from fastgan.cli import main


def command(*argv):
    assert main([str(arg) for arg in argv]) == 0


def first_image(run, seed, folder):
    """int64 [32, 32]: of what `fastgan sample` makes of a seed, the first."""
    command("sample", run, "--n", 2, "--seed", seed, "--out", folder)
    with Image.open(folder / "000000.png") as image:
        return torch.from_numpy(np.array(image)).long()


def test_a_strip_leads_from_sample_to_sample(ended, tmp_path, capsys):
    out = tmp_path / "new" / "strip.png"
    command("interpolate", ended, "--seeds", 4, 9, 2, "--frames", 5, "--scale", 1, "--batch", 3, "--out", out)
    assert capsys.readouterr().out == f"strip of 10 images: {out}\n"
    with Image.open(out) as image:
        strip = torch.from_numpy(np.array(image)).long()
    assert strip.shape == (2 * 34 + 2, 5 * 34 + 2)
    ends = {seed: first_image(ended, seed, tmp_path / str(seed)) for seed in (4, 9, 2)}
    for row, column, seed in ((0, 0, 4), (0, 4, 9), (1, 0, 9), (1, 4, 2)):
        y, x = 2 + 34 * row, 2 + 34 * column
        assert (strip[y : y + 32, x : x + 32] - ends[seed]).abs().max() <= 1


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".WebP"])
def test_a_film(ended, tmp_path, capsys, suffix):
    if suffix != ".gif" and not features.check("webp"):
        pytest.skip("this build of Pillow has no WebP")
    out = tmp_path / f"film{suffix}"
    command("interpolate", ended, "--seeds", 1, 2, 3, "--frames", 4, "--fps", 10, "--scale", 3, "--out", out)
    assert capsys.readouterr().out == f"film of 7 images: {out}\n"
    with Image.open(out) as film:
        assert film.info["loop"] == 0
        assert film.size == (96, 96)
        # equal ones that follow each other may be stored as one that is shown longer
        frames = [np.array(frame.convert("L")) for frame in ImageSequence.Iterator(film)]
        durations = []
        for i in range(film.n_frames):
            film.seek(i)
            film.load()
            durations.append(film.info["duration"])
    assert sum(durations) == 7 * 100
    for shown, seed in ((frames[0], 1), (frames[-1], 3)):
        image = torch.from_numpy(shown).long()[1::3, 1::3]
        assert (image - first_image(ended, seed, tmp_path / str(seed))).abs().max() <= 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds", 1], "seeds = 1: expected at least 2"),
        (["--seeds", 1, -2], "seed = -2: expected at least 0"),
        (["--frames", 1], "frames = 1: expected at least 2"),
        (["--fps", 0], "fps = 0: expected at least 1"),
        (["--fps", 51], "fps = 51: expected at most 50"),
        (["--scale", 0], "scale = 0: expected at least 1"),
        (["--batch", 0], "batch = 0: expected at least 1"),
        (["--truncation", -1], "truncation = -1.0: expected a number above 0"),
        (["--device", "abacus"], "device = 'abacus': "),
        (["--out", "film.mp4"], "out = 'film.mp4': expected a file that ends in .png, .gif or .webp"),
        (["--out", "."], "out = '.': expected a file that ends in .png, .gif or .webp"),
    ],
)
def test_what_is_not_accepted(ended, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    assert refused(capsys, "interpolate", ended, "--seeds", 1, 2, "--out", "x.gif", *flags).startswith(message)
    assert names_in(tmp_path) == []


def test_a_pillow_without_webp_says_what_to_do(ended, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(features, "check", lambda name: False)
    line = refused(capsys, "interpolate", ended, "--seeds", 1, 2, "--out", tmp_path / "x.webp")
    assert line == "this build of Pillow writes no WebP: expected a file that ends in .gif"
