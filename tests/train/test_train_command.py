import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from training_runs import command, flags_of, last_line

from fastgan.bench import train_comparison
from fastgan.bench.timing import Budget
from fastgan.train import checkpoint
from fastgan.train.data import LOGGER
from fastgan.train.extras import EXTRAS
from fastgan.train.recipes.images import Settings


@pytest.fixture
def flags(tiny):
    """The flags that spell out the tiny settings."""
    return flags_of(tiny)


def records(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_short_run_and_its_continuation(flags, tiny, capsys):
    out = Path(tiny.out)
    assert command(*flags, "--log-every", 1, "--sample-every", 2, "--checkpoint-every", 2) == 0
    assert f"samples: {out / 'samples-000003.png'}" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {
        "log.jsonl", "checkpoint.safetensors", "samples-000002.png", "samples-000003.png"
    }  # fmt: skip
    with Image.open(out / "samples-000003.png") as grid:
        assert grid.size == (2 * (8 * 34 + 2),) * 2
        assert grid.mode == "L"
    start, *steps = records(out)
    assert start["event"] == "start"
    assert Settings.from_json(start["config"]) == replace(tiny, log_every=1, sample_every=2, checkpoint_every=2)
    assert [record["step"] for record in steps] == [1, 2, 3]
    assert {*steps[-1]} == {"event", "step", "seconds", "images_per_second", "loss_d", "loss_g"}

    assert command("--resume", out / "checkpoint.safetensors", "--steps", 5) == 0
    assert [record["step"] for record in records(out)[4:]] == [3, 4, 5]
    tensors, record = checkpoint.load(out / "checkpoint.safetensors")
    assert record["step"] == 5
    assert record["config"]["log_every"] == 1

    straight = out.parent / "straight"
    assert command(*flags, "--steps", 5, "--out", straight) == 0
    expected = checkpoint.load(straight / "checkpoint.safetensors")[0]
    assert [name for name in expected if not torch.equal(tensors[name], expected[name])] == []
    assert (straight / "samples-000005.png").read_bytes() == (out / "samples-000005.png").read_bytes()


@pytest.mark.parametrize(("penalty", "names"), [("r1", {"r1"}), ("r1r2", {"r1", "r2"}), ("wgan-gp", {"wgan_gp"})])
def test_penalties_are_logged(flags, tiny, penalty, names):
    assert command(*flags, "--penalty", penalty, "--penalty-weight", 2, "--steps", 1) == 0
    record = records(Path(tiny.out))[-1]
    assert names == {*record} - {"event", "step", "seconds", "images_per_second", "loss_d", "loss_g"}
    assert all(record[name] > 0 for name in names)


def test_time_stops_the_run(flags, tiny):
    assert command(*flags, "--steps", 1000, "--minutes", 0.001) == 0
    assert 1 <= records(Path(tiny.out))[-1]["step"] < 1000


def test_no_time_is_one_step(flags, tiny):
    assert command(*flags, "--steps", 1000, "--minutes", 0) == 0
    assert records(Path(tiny.out))[-1]["step"] == 1


def test_a_file_is_overridden_by_flags(tiny, tmp_path):
    (tmp_path / "a.toml").write_text('width = 8\nsteps = 1\nbatch = 4\ndata = "digits"\nplain = true\n')
    assert command("--config", tmp_path / "a.toml", "--width", 4, "--width-g", 4, "--out", tiny.out) == 0
    settings = records(Path(tiny.out))[0]["config"]
    assert (settings["width"], settings["steps"], settings["plain"]) == (4, 1, True)


def test_the_log_is_left_as_it_was(flags):
    before = LOGGER.level, list(LOGGER.handlers)
    assert command(*flags, "--data", "nowhere") == 1
    assert (LOGGER.level, LOGGER.handlers) == before


def test_images_of_a_folder(flags, tmp_path):
    for i in range(5):
        Image.new("RGB", (40, 50), (50 * i, 0, 0)).save(tmp_path / f"{i}.png")
    assert command(*flags, "--data", tmp_path, "--channels", 3, "--steps", 1) == 0


def test_what_is_done_to_images_is_asked_for(flags, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (20, 30), (50 * i, 0, 0)).save(folder / f"{i}.png")
    (folder / "3.png").write_bytes(b"")
    data, asked = ["--data", folder, "--steps", 1], []
    for option, message in (
        ("--allow-enlarging", "0.png: 20 x 30 pixels: expected at least 32 x 32, the resolution; allow_enlarging"),
        ("--skip-corrupt", "3.png: not an image; expected one of "),
    ):
        assert command(*flags, *data, *asked) == 1
        line = last_line(capsys)
        assert line.startswith(f"fastgan train: error: {folder}/{message}")
        assert option in line
        asked.append(option)
    assert command(*flags, *data, *asked, "--crop", "none") == 1
    assert "0.png: 20 x 30 pixels: expected a square with crop = 'none'" in last_line(capsys)
    assert command(*flags, *data, *asked) == 0
    assert f"fastgan train: {folder}: 3 images of 32 x 32: 3 cropped to a square, 3 enlarged" in capsys.readouterr().err


def test_a_resumed_run_reads_its_images_the_same_way(flags, tiny, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "in/0.png")
    assert command(*flags, "--data", tmp_path / "in", "--allow-enlarging") == 0
    file = Path(tiny.out) / "checkpoint.safetensors"
    assert command("--resume", file, "--steps", 4) == 0
    assert command("--resume", file, "--steps", 5, "--no-allow-enlarging") == 1
    assert "--allow-enlarging" in last_line(capsys)


def test_compare_prints_one_line(flags, monkeypatch, capsys):
    monkeypatch.setattr(train_comparison, "BUDGET", Budget(warmup=1, rounds=2, most=2, seconds=0.0))
    assert command(*flags, "--compare") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("training step")]
    assert "PyTorch " in line
    assert "fastgan " in line
    assert "2 interleaved runs" in line


def test_compare_refuses_to_time_what_differs(flags, monkeypatch, capsys):
    monkeypatch.setattr(train_comparison, "TOLERANCE", -1.0)
    assert command(*flags, "--compare") == 1
    assert "losses of fastgan and of plain PyTorch differ by" in capsys.readouterr().err


def test_a_finished_run_is_not_resumed(flags, tiny, capsys):
    assert command(*flags) == 0
    assert command("--resume", Path(tiny.out) / "checkpoint.safetensors") == 1
    assert "steps = 3: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (["--batch", 1], "batch = 1: expected at least 2"),
        (["--data", "nowhere"], "data = 'nowhere': no such file"),
        (["--device", "abacus"], "device = 'abacus': .*expected cpu, cuda"),
        (["--resume", "nowhere"], "nowhere: no such checkpoint"),
        (["--resume", "."], "\\.: a folder, expected a checkpoint, such as checkpoint.safetensors"),
    ],
)
def test_errors_are_one_line_and_status_1(flags, bad, message, capsys):
    assert command(*flags, *bad) == 1
    assert re.match(f"(.*\n)*fastgan train: error: {message}.*\n$", capsys.readouterr().err)


@pytest.mark.parametrize(("package", "module"), EXTRAS["train"].packages.items())
def test_a_missing_package_says_what_to_install(flags, package, module, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    assert command(*flags) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        f"training needs the package {package}, which is not installed: pip install pillow safetensors scikit-learn "
        "tqdm (in a clone of fastgan: pip install '.[train]')"
    )


@pytest.mark.parametrize("name", EXTRAS)
def test_the_packages_are_those_of_the_extra(name):
    tomllib = pytest.importorskip("tomllib", reason="Python before 3.11 reads no TOML")
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    extra = tomllib.loads(pyproject.read_text())["project"]["optional-dependencies"][name]
    assert [re.match("[a-z-]+", requirement)[0] for requirement in extra] == [*EXTRAS[name].packages]


def test_a_name_that_the_terminal_cannot_show_is_written_as_escapes(flags, tmp_path, capsys):
    assert command(*flags, "--out", tmp_path / "caf\udce9", "--steps", 1) == 0
    samples, following = capsys.readouterr().out.splitlines()
    assert samples.endswith("/caf\\udce9/samples-000001.png")
    assert following.startswith("next: fastgan report ")
