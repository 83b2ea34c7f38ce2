"""What a run leaves when it diverges or is stopped, and what it says of mistakes."""

import errno
import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training_runs import command, flags_of, last_line, state_of, steps_of

from fastgan.train import checkpoint, train
from fastgan.train.losses import LossWatch
from fastgan.train.recipes.images import Recipe
from fastgan.train.signals import SIGNALS, Stopped, StopSignals
from fastgan.train.state import TrainState

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
    state = state_of(tiny, images)
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
        if func.overloadpacket.__name__ == "index" and any(args[0] is t for t in self.state.data):
            self.found += [func for index in args[1] if index.device != self.state.device]
        return func(*args, **(kwargs or {}))


def test_a_step_reads_nothing_from_the_device(config, images):
    state = state_of(config, images)
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
        train(Recipe(config))
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
    thread = threading.Thread(target=lambda: done.append(train(Recipe(config))))
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
