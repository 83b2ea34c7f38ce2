"""The folder of a run: full disks, one run alone, and what it may be continued with."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_runs import command, flags_of, last_line, state_of, steps_of

from fastgan.train import checkpoint, files
from fastgan.train.data import Images
from fastgan.train.files import write_whole
from fastgan.train.log import Log
from fastgan.train.recipes.images import Settings

# --- full disks ---


class FullDisk:
    """Of the process's writes, the one at `at` and those after it find no room: half of the first is written."""

    def __init__(self, monkeypatch, at):
        self.left, self._write, self._fsync = at, os.write, os.fsync
        monkeypatch.setattr(os, "write", self.write)
        monkeypatch.setattr(os, "fsync", self.fsync)

    def _room(self):
        self.left -= 1
        return self.left > 0

    def write(self, file, content):
        if not self._room():
            if self.left == 0 and len(content) > 1:
                return self._write(file, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._write(file, content)

    def fsync(self, file):
        if not self._room():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._fsync(file)


@pytest.mark.parametrize("at", range(1, 12))
def test_a_full_disk_costs_what_is_being_written_alone(config, out, at, monkeypatch, capsys):
    assert command(*flags_of(replace(config, steps=2))) == 0
    file = out / "checkpoint.safetensors"
    kept, capsys_before = file.read_bytes(), capsys.readouterr()
    del capsys_before
    with monkeypatch.context() as patch:
        FullDisk(patch, at)
        assert command("--resume", file, "--steps", 9) == 1
    line = last_line(capsys)
    assert line.startswith(f"fastgan train: error: {out}")
    assert "No space left on device" in line
    step = checkpoint.load_record(file)["step"]
    assert f"{file} keeps step {step}" in line
    assert step > 2 or file.read_bytes() == kept
    assert (out / "log.jsonl").read_bytes().endswith(b"\n")
    steps_of(out)
    for path in out.iterdir():
        assert path.suffix in {".jsonl", ".safetensors", ".png"}
        assert path.stat().st_size
    assert command("--resume", file, "--steps", 9) == 0
    assert steps_of(out) == list(range(1, 10))


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_file_is_whole_or_not_there(tmp_path, function, monkeypatch):
    write_whole(tmp_path / "a", b"old")

    def fail(*args):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        with pytest.raises(OSError, match=r"a: cannot write 3 bytes .Input/output error"):
            write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "samples-000002.png"])
def test_every_file_but_the_log_is_written_whole(config, out, name, monkeypatch):
    written = []
    monkeypatch.setattr(files.os, "replace", lambda a, b, call=os.replace: written.append(Path(b).name) or call(a, b))
    assert command(*flags_of(config)) == 0
    assert name in written
    assert {path.name for path in out.iterdir()} == {*written, "log.jsonl"}


# --- folders ---


def test_two_runs_at_once_in_one_folder(config, out, capsys):
    out.mkdir()
    log = Log(out / "log.jsonl")
    for more in ([], ["--resume", out / "checkpoint.safetensors"]):
        if more:
            state_of(config, Images(torch.zeros(4, 1, 32, 32, dtype=torch.uint8))).save(more[1])
        assert command(*flags_of(config), *more) == 1
        assert last_line(capsys).endswith(f"out = '{out}': another run writes there: choose another --out")
    log.close()
    assert not (out / "log.jsonl").exists()


def test_a_second_run_does_not_replace_the_first(config, out, tmp_path, capsys):
    assert command(*flags_of(config)) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    file = out / "checkpoint.safetensors"
    assert command(*flags_of(config)) == 1
    way = f"continue it with --resume {file}, or choose another --out"
    assert last_line(capsys).endswith(f"out = '{out}': holds a run already: {way}")
    (tmp_path / "copy.safetensors").write_bytes(file.read_bytes())
    assert command("--resume", tmp_path / "copy.safetensors", "--steps", 9, "--out", out) == 1
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    file.unlink()
    assert command(*flags_of(config)) == 1
    assert "holds what is left of a run: choose another --out" in last_line(capsys)


def test_a_run_goes_on_where_its_checkpoint_is(config, out, tmp_path):
    """Whatever it says of that itself."""
    assert command(*flags_of(config)) == 0
    tensors, record = checkpoint.load(out / "checkpoint.safetensors")
    assert "out" not in record["config"]
    record["config"]["out"] = str(tmp_path / "elsewhere")
    (tmp_path / "here").mkdir()
    checkpoint.save(tmp_path / "here/checkpoint.safetensors", tensors, record)
    assert command("--resume", tmp_path / "here/checkpoint.safetensors", "--steps", 4) == 0
    assert not (tmp_path / "elsewhere").exists()
    assert steps_of(tmp_path / "here") == [4]
    assert steps_of(out) == [1, 2, 3]
    assert command("--resume", out / "checkpoint.safetensors", "--steps", 4, "--out", tmp_path / "there") == 0
    assert steps_of(tmp_path / "there") == [4]


def test_what_was_written_after_the_checkpoint_is_removed(config, out):
    assert command(*flags_of(replace(config, steps=4))) == 0
    log = (out / "log.jsonl").read_text()
    with (out / "log.jsonl").open("a") as file:
        file.write('{"event": "step", "step": 5}\n{"event": "st')
    for name in ("samples-000006.png", "checkpoint.safetensors.123.tmp", "samples-000006.png.7.tmp", "notes.tmp"):
        (out / name).write_bytes(b"")
    assert command("--resume", out / "checkpoint.safetensors", "--steps", 5) == 0
    assert (out / "log.jsonl").read_text().startswith(log + '{"event": "start", "step": 4,')
    assert steps_of(out) == [1, 2, 3, 4, 5]
    names = {"log.jsonl", "checkpoint.safetensors", "notes.tmp"}
    assert {path.name for path in out.iterdir()} == names | {f"samples-{i:06d}.png" for i in (2, 4, 5)}


def test_a_log_that_is_none_is_not_cut(config, out, capsys):
    assert command(*flags_of(config)) == 0
    text = (out / "log.jsonl").read_text().replace('{"event": "step", "step": 2', "my notes", 1)
    (out / "log.jsonl").write_text(text)
    assert command("--resume", out / "checkpoint.safetensors", "--steps", 5) == 1
    assert last_line(capsys).endswith(f"{out / 'log.jsonl'}: line 3 is not a record of a run")
    assert (out / "log.jsonl").read_text() == text


# --- what a run may be continued with ---


def test_other_data_of_the_same_size_is_refused(tiny, images, tmp_path):
    state = state_of(tiny, images)
    state.advance()
    state.save(tmp_path / "c")
    pixels = images.pixels.clone()
    pixels[0, 0, 0, 0] ^= 1
    for other in (Images(pixels), replace(images, labels=torch.arange(10))):
        with pytest.raises(ValueError, match="c: data = 'digits': other samples, or another order, than this run"):
            state_of(tiny, other).restore(tmp_path / "c")
    state_of(replace(tiny, data="moved"), images).restore(tmp_path / "c")


OTHER = {
    "channels": 3, "resolution": 64, "conditional": True, "batch": 5,
    "width": 8, "width_g": 8, "z_dim": 5, "lr_decay": 0.5, "beta1": 0.5, "beta2": 0.99, "n_critic": 1,
    "ema_decay": 0.9, "penalty": "r1", "penalty_weight": 1.0, "penalty_every": 2, "precision": "bf16", "seed": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_another_setting_is_refused_and_named(tiny, name):
    with pytest.raises(ValueError, match=rf"^{name} = .*: this run began with .*; what may change is data, out, "):
        replace(tiny, **{name: OTHER[name]}).check_continues(tiny.to_json())


def test_settings_that_may_change(tiny):
    other = {
        "data": "moved", "out": "b", "max_pixels": 9, "crop": "none", "allow_enlarging": True, "skip_corrupt": True,
        "steps": 9, "minutes": 9.0, "lr_g": 1.0, "lr_d": 1.0,
        "plain": True, "device": "cpu", "log_every": 9, "sample_every": 9,
        "checkpoint_every": 9,
    }  # fmt: skip
    assert {*other} | {*OTHER} == {*Settings().to_json()}
    replace(tiny, **other).check_continues(tiny.to_json())


def test_the_warm_up_goes_on_with_the_step(tiny, images, tmp_path):
    """The average's decay is a function of the step, which is in the checkpoint."""
    state = state_of(replace(tiny, ema_decay=0.9999), images)
    state.advance()
    first = next(state.ema.parameters()).clone()
    state.save(tmp_path / "c")
    resumed = state_of(replace(tiny, ema_decay=0.9999), images)
    resumed.restore(tmp_path / "c")
    resumed.advance()
    expected = first.lerp(next(resumed.G.parameters()).detach(), 1 - 2 / 11)
    assert torch.equal(next(resumed.ema.parameters()), expected)


def test_a_half_network_has_a_float32_average(tiny, images):
    state = state_of(tiny, images, torch.bfloat16)
    assert {p.dtype for p in state.G.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in state.ema.parameters()} == {torch.float32}
    assert {p.dtype for p in state_of(tiny, images, torch.float64).ema.parameters()} == {torch.float64}
