"""The examples run, and what they say is true."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastgan
from fastgan.compat import patching

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name, *arguments):
    command = [sys.executable, EXAMPLES / f"{name}.py", "--steps", "2", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def op(monkeypatch):
    """`op` is not a module before or after; what was patched is as it was."""
    monkeypatch.delitem(sys.modules, "op", raising=False)
    monkeypatch.setitem(sys.modules, "op", None)
    yield
    for name in list(patching._patched):
        fastgan.unpatch(name)


@pytest.fixture
def in_double():
    """In float32 Adam, which divides a gradient by its size, makes whole steps out of rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_wgan_gp_runs(tmp_path):
    assert run("wgan_gp", "--out", tmp_path / "samples.png").startswith("step 2: critic's loss ")
    assert (tmp_path / "samples.png").stat().st_size > 1000


@pytest.mark.parametrize("name", ["biggan_style", "stylegan_style"])
def test_one_line_runs(name):
    assert run(name).startswith("step 2: discriminator's loss ")


@pytest.mark.usefixtures("in_double")
def test_wgan_gp_trains_as_the_plain_one():
    train = example("wgan_gp").train
    (ours, our_loss), (plain, plain_loss) = (train(2, plain) for plain in (False, True))
    torch.testing.assert_close(our_loss, plain_loss, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("name", ["biggan_style", "stylegan_style"])
def test_one_line_trains_as_the_plain_one(name, op):
    train = example(name).train
    plain, plain_losses = train(3, plain=True)
    ours, our_losses = train(3, plain=False)
    torch.testing.assert_close(our_losses, plain_losses, rtol=1e-9, atol=1e-9)
    assert list(ours.state_dict()) == list(plain.state_dict())


def test_the_patch_of_the_example_is_in_force(op):
    module = example("stylegan_style")
    module.train(1, plain=False)
    assert module.op.upfirdn2d is not module.upfirdn2d
    assert module.op.fused_leaky_relu is not module.fused_leaky_relu


@pytest.mark.parametrize("name", ["biggan_style", "stylegan_style", "wgan_gp"])
def test_one_line_is_one(name):
    assert (EXAMPLES / f"{name}.py").read_text().count("# THE ONE LINE") == 1
