"""What a run leaves when something goes wrong: divergence, signals, full disks, a folder that is taken."""

import errno
import json
import os
import signal
import threading
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastgan.train import checkpoint, files, train
from fastgan.train.cli import add_arguments, run
from fastgan.train.config import Config
from fastgan.train.files import write_whole
from fastgan.train.log import Log
from fastgan.train.losses import LossWatch
from fastgan.train.signals import SIGNALS, Stopped, StopSignals
from fastgan.train.state import TrainState


def command(*flags):
    parser = ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([str(flag) for flag in flags]))


def flags_of(config):
    given = {name: value for name, value in config.to_json().items() if value is not None}
    return [part for name, value in given.items() for part in ("--" + name.replace("_", "-"), value)]


def last_line(capsys):
    return capsys.readouterr().err.splitlines()[-1]


def steps_of(out):
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [record["step"] for record in records if record["event"] == "step"]


@pytest.fixture
def config(tiny):
    return replace(tiny, log_every=1, sample_every=2, checkpoint_every=2)


@pytest.fixture
def out(config):
    return Path(config.out)


# --- what is not finite ---


@pytest.mark.parametrize("setting", ["lr_g", "lr_d"])
def test_a_checkpoint_that_is_not_finite_never_replaces_a_good_one(config, out, setting, capsys):
    assert command(*flags_of(config)) == 0
    file = out / "checkpoint.safetensors"
    before = file.read_bytes()
    assert command("--resume", file, "--steps", 9, "--" + setting.replace("_", "-"), 1e30) == 1
    assert "training has diverged: " in (line := last_line(capsys))
    assert "not finite" in line
    assert f"{file} keeps step 3; lower learning rates may help" in line
    assert file.read_bytes() == before


def test_divergence_before_the_first_checkpoint(config, out, capsys):
    assert command(*flags_of(replace(config, lr_g=1e30, lr_d=1e30, steps=50, checkpoint_every=50))) == 1
    assert "no checkpoint was written yet" in last_line(capsys)
    assert not (out / "checkpoint.safetensors").exists()
    assert all(record == json.loads(json.dumps(record, allow_nan=False)) for record in steps_of(out))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["G", "D", "ema", "opt_g", "opt_d"])
def test_every_part_of_a_checkpoint_is_looked_at(tiny, images, tmp_path, part, bad):
    state = TrainState(tiny, images)
    state.advance()
    if part.startswith("opt"):
        tensors = [value for entry in getattr(state, part).state.values() for value in entry.values()]
    else:
        tensors = [p.data for p in getattr(state, part).parameters()] + list(getattr(state, part).buffers())
    for tensor in (tensors[0], tensors[-1]):
        if tensor.is_floating_point():
            before = tensor.clone()
            tensor.view(-1)[-1] = bad
            with pytest.raises(FloatingPointError, match=rf"tensor '{part}\..*' is not finite .the first of 1 among"):
                state.save(tmp_path / "c")
            tensor.copy_(before)
    assert list(tmp_path.iterdir()) == []
    state.save(tmp_path / "c")


def test_losses_are_watched_and_the_first_bad_step_is_kept():
    watch, nan = LossWatch(torch.device("cpu")), torch.tensor(float("nan"))
    for step, loss in enumerate((torch.tensor(1.0), nan, torch.tensor(2.0), nan, torch.tensor(3.0)), 1):
        watch.note(step, {"loss_d": torch.tensor(0.5), "loss_g": loss})
        if step == 1:
            watch.check({})
    with pytest.raises(FloatingPointError, match=r"losses are not finite since step 2 \(loss_d 0.5, loss_g 3\)"):
        watch.check({"loss_d": 0.5, "loss_g": 3.0})


class Reads(TorchDispatchMode):
    """Notes what reads values of tensors, for which a device has to be waited for, or sends tensors there."""

    READERS = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "item")

    def __init__(self, state):
        super().__init__()
        self.found, self.state = [], state

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # Adam keeps its count of steps on the CPU.
        counts = [entry["step"] for o in (self.state.opt_g, self.state.opt_d) for entry in o.state.values()]
        if func.overloadpacket.__name__ in self.READERS and not any(args[0] is count for count in counts):
            self.found.append(func)
        if func.overloadpacket.__name__ == "index" and args[0] is self.state.images:
            self.found += [func for index in args[1] if index.device != self.state.images.device]
        return func(*args, **(kwargs or {}))


def test_a_step_reads_nothing_from_the_device(config, images):
    state = TrainState(config, images)
    watch = LossWatch(state.device)
    for _ in range(2):  # the first one proves and plans
        watch.note(state.step + 1, state.advance())
    with Reads(state) as reads:
        watch.note(state.step + 1, state.advance())
    assert reads.found == []
    with reads:  # this does, once
        watch.check({})
    assert len(reads.found) == 1


# --- signals ---


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_stops_after_the_step_and_a_checkpoint(config, out, number, monkeypatch, capsys):
    advance = TrainState.advance

    def interrupted(state):
        if state.step == 2:
            os.kill(os.getpid(), number)
        return advance(state)

    monkeypatch.setattr(TrainState, "advance", interrupted)
    before = signal.getsignal(number)
    assert command(*flags_of(replace(config, steps=9, checkpoint_every=9))) == 128 + number
    file = out / "checkpoint.safetensors"
    assert last_line(capsys) == f"fastgan train: stopped by {number.name}; {file} keeps step 3: continue with --resume"
    assert checkpoint.load_record(file)["step"] == steps_of(out)[-1] == 3
    assert signal.getsignal(number) == before


def test_a_second_signal_ends_at_once(config, out, monkeypatch, capsys):
    def interrupted(state):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it went on")

    monkeypatch.setattr(TrainState, "advance", interrupted)
    assert command(*flags_of(config)) == 128 + signal.SIGINT
    assert last_line(capsys) == "fastgan train: stopped by SIGINT at once"
    assert not (out / "checkpoint.safetensors").exists()


def test_a_signal_to_train_itself_is_an_exception(config, monkeypatch):
    advance = TrainState.advance
    monkeypatch.setattr(TrainState, "advance", lambda state: os.kill(os.getpid(), signal.SIGTERM) or advance(state))
    with pytest.raises(Stopped, match=r"stopped by SIGTERM; .* keeps step 1") as stopped:
        train(config)
    assert stopped.value.number == signal.SIGTERM


def test_ignored_signals_stay_ignored():
    """As nohup wants it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.received is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_trains_without_handlers(config):
    done = []
    thread = threading.Thread(target=lambda: done.append(train(config)))
    thread.start()
    thread.join()
    assert done == [Path(config.out) / "samples-000003.png"]


def test_a_terminal_that_is_gone_stops_nothing(config, monkeypatch):
    class Gone:
        encoding = "utf-8"

        def write(self, text):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

        flush = isatty = fileno = lambda self: self.write("")

    monkeypatch.setattr("sys.stderr", Gone())
    assert command(*flags_of(config)) == 0


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
            TrainState(config, torch.zeros(4, 1, 32, 32, dtype=torch.uint8)).save(more[1])
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
    state = TrainState(tiny, images)
    state.advance()
    state.save(tmp_path / "c")
    other = images.clone()
    other[0, 0, 0, 0] ^= 1
    with pytest.raises(ValueError, match="c: data = 'digits': other images, or another order, than this run"):
        TrainState(tiny, other).restore(tmp_path / "c")
    TrainState(replace(tiny, data="moved"), images).restore(tmp_path / "c")


OTHER = {
    "channels": 3, "batch": 5, "width": 8, "width_g": 8, "z_dim": 5, "beta1": 0.5, "beta2": 0.99, "n_critic": 1,
    "ema_decay": 0.9, "penalty": "r1", "penalty_weight": 1.0, "penalty_every": 2, "seed": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_another_setting_is_refused_and_named(tiny, name):
    with pytest.raises(ValueError, match=rf"^{name} = .*: this run began with .*; what may change is data, out, "):
        replace(tiny, **{name: OTHER[name]}).check_continues(tiny.to_json())


def test_settings_that_may_change(tiny):
    other = {
        "data": "moved", "out": "b", "max_pixels": 9, "steps": 9, "minutes": 9.0, "lr_g": 1.0, "lr_d": 1.0,
        "spectral_norm": "torch", "blocks": "torch", "device": "cpu", "log_every": 9, "sample_every": 9,
        "checkpoint_every": 9,
    }  # fmt: skip
    assert {*other} | {*OTHER} == {*Config().to_json()}
    replace(tiny, **other).check_continues(tiny.to_json())


def test_the_warm_up_goes_on_with_the_step(tiny, images, tmp_path):
    """The average's decay is a function of the step, which is in the checkpoint."""
    state = TrainState(replace(tiny, ema_decay=0.9999), images)
    state.advance()
    first = next(state.ema.parameters()).clone()
    state.save(tmp_path / "c")
    resumed = TrainState(replace(tiny, ema_decay=0.9999), images)
    resumed.restore(tmp_path / "c")
    resumed.advance()
    expected = first.lerp(next(resumed.G.parameters()).detach(), 1 - 2 / 11)
    assert torch.equal(next(resumed.ema.parameters()), expected)


def test_a_half_network_has_a_float32_average(tiny, images):
    state = TrainState(tiny, images, torch.bfloat16)
    assert {p.dtype for p in state.G.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in state.ema.parameters()} == {torch.float32}
    assert {p.dtype for p in TrainState(tiny, images, torch.float64).ema.parameters()} == {torch.float64}


# --- mistakes on the command line ---


@pytest.fixture
def places(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text/a.png").write_text("hello")
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 100)
    return tmp_path


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--out", "{}/file"),
        ("--out", "{}/file/run"),
        ("--out", "/proc/run"),
        ("--out", "a\0b"),
        ("--data", "{}/file"),
        ("--data", "{}/empty"),
        ("--data", "{}/text"),
        ("--data", "a" * 5000),
        ("--data", "a\0b"),
        ("--resume", "{}/x.safetensors"),
        ("--resume", "{}"),
        ("--batch", "-1"),
        ("--lr-g", "inf"),
        ("--seed", f"{10**30}"),
        ("--device", "cuda:99"),
        ("--batch", f"{10**10}"),
        ("--width", f"{10**7}"),
        ("--width", f"{10**12}"),
    ],
)
def test_a_mistake_is_one_line(config, places, flag, value, capsys):
    assert command(*flags_of(config), flag, value.format(places)) == 1
    assert last_line(capsys).startswith("fastgan train: error: ")
