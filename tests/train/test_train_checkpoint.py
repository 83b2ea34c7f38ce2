import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from training_runs import state_of

from fastgan.train import checkpoint


def test_round_trip(tmp_path):
    x = torch.arange(6.0).view(2, 3)
    tensors = {"x": x, "shared": x[:1], "transposed": x.t(), "count": torch.tensor(3)}
    checkpoint.save(tmp_path / "c", tensors, {"step": 5})
    loaded, record = checkpoint.load(tmp_path / "c")
    assert record["step"] == 5
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor)
        assert loaded[name].dtype == tensor.dtype


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "c"
    checkpoint.save(path, {"x": torch.zeros(1)}, {"step": 1})

    def fail(handle):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, {"x": torch.ones(1)}, {"step": 2})
    assert checkpoint.load(path)[1]["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


def damage(name):
    def write(path):
        checkpoint.save(path, {"x": torch.zeros(100)}, {})
        content = path.read_bytes()
        path.write_bytes({"empty": b"", "junk": b"junk" * 50, "truncated": content[:-8]}[name])

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (damage("empty"), "malformed"),
        (damage("junk"), "malformed"),
        (damage("truncated"), "malformed"),
        (lambda path: save_file({"x": torch.zeros(1)}, path), "without a 'fastgan' record"),
        (lambda path: save_file({"x": torch.zeros(1)}, path, {"fastgan": "{"}), "malformed"),
        (lambda path: save_file({"x": torch.zeros(1)}, path, {"fastgan": "[]"}), r"format \[\], this version reads"),
        (lambda path: save_file({}, path, {"fastgan": '{"format": 99}'}), "format 99, this version reads format 3"),
    ],
)
def test_malformed_file_is_refused(tmp_path, write, message):
    path = tmp_path / "broken.safetensors"
    write(path)
    with pytest.raises(ValueError, match=rf"broken\.safetensors: .*{message}.*expected a checkpoint written"):
        checkpoint.load(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such checkpoint"):
        checkpoint.load(tmp_path / "nowhere")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("plain", "penalty"), [(False, "none"), (True, "none"), (False, "r1r2"), (True, "wgan-gp")])
def test_resume_is_bit_identical(tiny, images, tmp_path, plain, penalty, precision):
    # A penalty is due in updates 0, 3, 6, ...: in steps 0, 1 and 3, but not in 2 and 5.
    tiny = replace(tiny, plain=plain, penalty=penalty, penalty_every=3, precision=precision, lr_decay=0.5)
    state = state_of(tiny, images)
    for _ in range(3):
        state.advance()
    state.save(tmp_path / "middle")
    expected_losses = [state.advance() for _ in range(3)]
    state.save(tmp_path / "end")

    resumed = state_of(tiny, images)
    resumed.restore(tmp_path / "middle")
    assert [resumed.advance() for _ in range(3)] == expected_losses
    resumed.save(tmp_path / "again")
    expected, expected_record = checkpoint.load(tmp_path / "end")
    found, record = checkpoint.load(tmp_path / "again")
    assert record == expected_record
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_a_checkpoint_serves_plain_pytorch_too(tiny, images, tmp_path):
    states = [state_of(replace(tiny, plain=plain), images, torch.float64) for plain in (False, True)]
    states[0].advance()
    states[0].save(tmp_path / "c")
    losses = []
    for state in states:
        state.restore(tmp_path / "c")
        losses.append(state.advance())
    torch.testing.assert_close(*losses, rtol=1e-10, atol=0)


@pytest.fixture
def saved(tiny, images, tmp_path):
    """A fresh state, and what a checkpoint of its run holds."""
    state = state_of(tiny, images)
    state.advance()
    state.save(tmp_path / "c")
    return state_of(tiny, images), *checkpoint.load(tmp_path / "c")


@pytest.mark.parametrize("name", ["G.linear.weight", "ema.norm.running_var", "opt_d.3.exp_avg_sq", "random.cpu"])
def test_missing_and_misshapen_tensors_are_named(saved, tmp_path, name):
    state, tensors, record = saved
    good = tensors.pop(name)
    for bad, message in ((None, "is missing: expected"), (good[:1], r"is .* \[1.*\]: expected")):
        checkpoint.save(tmp_path / "bad", tensors if bad is None else {**tensors, name: bad}, record)
        with pytest.raises(ValueError, match=f"bad: tensor '{name}' {message}"):
            state.restore(tmp_path / "bad")


@pytest.mark.parametrize("name", ["G.surplus", "opt_g.999.exp_avg", "opt_g.0.surplus"])
def test_unexpected_tensors_are_named(saved, tmp_path, name):
    state, tensors, record = saved
    checkpoint.save(tmp_path / "bad", {**tensors, name: torch.zeros(2)}, record)
    with pytest.raises(ValueError, match=f"unexpected tensor '{name}'"):
        state.restore(tmp_path / "bad")


@pytest.mark.parametrize(("key", "value"), [("step", -1), ("step", "7"), ("sampler", None)])
def test_malformed_record_is_named(saved, tmp_path, key, value):
    state, tensors, record = saved
    checkpoint.save(tmp_path / "bad", tensors, {**record, key: value})
    with pytest.raises(ValueError, match=rf"bad: {key} is {value!r}: expected"):
        state.restore(tmp_path / "bad")


def test_a_checkpoint_of_another_width_is_refused(saved, tiny, images, tmp_path):
    wider = state_of(replace(tiny, width_g=8), images)
    with pytest.raises(ValueError, match=r"c: width_g = 8: this run began with 4; what may change is data, out, .*"):
        wider.restore(tmp_path / "c")
