"""The examples run, and what they say is true."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def wgan_gp():
    spec = importlib.util.spec_from_file_location("wgan_gp", EXAMPLES / "wgan_gp.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_wgan_gp_runs(tmp_path):
    command = [sys.executable, EXAMPLES / "wgan_gp.py", "--steps", "2", "--out", tmp_path / "samples.png"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("step 2: critic's loss ")
    assert (tmp_path / "samples.png").stat().st_size > 1000


def test_wgan_gp_trains_as_the_plain_one(wgan_gp):
    (ours, our_loss), (plain, plain_loss) = (wgan_gp.train(2, plain) for plain in (False, True))
    torch.testing.assert_close(our_loss, plain_loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=1e-3, atol=1e-5)


def test_wgan_gp_changes_one_line():
    assert (EXAMPLES / "wgan_gp.py").read_text().count("# THE ONE LINE") == 1
