"""Ops of a checkout: found, measured, checked; and what is no checkout is refused."""

import json
import sys

import pytest

from fastgan.bench import peers
from fastgan.cli import main

CASE = "lrelu-float32-nchw-8x512x16x16"
# Written here: a repository with the modules and the signatures of the peer.
BIAS_ACT = """
import torch

def bias_act(x, b=None, dim=1, act="linear", alpha=None, gain=None, clamp=None, impl="cuda"):
    y = torch.nn.functional.leaky_relu(x + b.view(-1, 1, 1), 0.2) * 2 ** 0.5
    return (y * WRONG).clamp(-clamp, clamp)
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A function that writes a checkout whose bias_act is off by a factor."""

    def write(factor):
        ops = tmp_path / "torch_utils" / "ops"
        ops.mkdir(parents=True)
        (ops / "bias_act.py").write_text(BIAS_ACT.replace("WRONG", str(factor)))
        (ops / "upfirdn2d.py").write_text("def upfirdn2d(x, f, up, down, padding): ...\n")
        return tmp_path

    monkeypatch.setattr(peers, "_loaded", {})
    before = set(sys.modules)
    yield write
    for name in set(sys.modules) - before:
        if name.startswith("torch_utils"):
            del sys.modules[name]


def bench(*arguments):
    return main(["bench", "run", "--quick", "--device", "cpu", *map(str, arguments)])


def test_a_peer_is_measured_beside(checkout, tmp_path):
    result = tmp_path / "result.json"
    peer = f"stylegan3={checkout(1)}"
    assert bench("--op", "bias_act", "--suite", CASE, "--peer", peer, "--json", result) == 0
    contenders = {entry["contender"] for entry in json.loads(result.read_text())["results"]}
    assert "stylegan3" in contenders
    assert not any("torch_utils" in path for path in sys.path)


def test_a_wrong_peer_is_not_timed(checkout, tmp_path, capsys):
    bench("--op", "bias_act", "--suite", CASE, "--peer", f"stylegan3={checkout(1.01)}")
    line = next(line for line in capsys.readouterr().out.splitlines() if "stylegan3" in line and "error" in line)
    assert "forward" in line


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("stylegan3", "expected NAME=DIR with a name among basicsr, biggan, "),
        ("stylegan9=/tmp", "expected NAME=DIR with a name among basicsr, biggan, "),
        ("stylegan3=nowhere", "nowhere is not a folder"),
    ],
)
def test_what_is_no_peer_is_refused(argument, message, capsys):
    assert bench("--op", "bias_act", "--peer", argument) == 1
    assert message in capsys.readouterr().err


def test_a_folder_without_the_ops_is_refused(tmp_path, capsys):
    assert bench("--op", "bias_act", "--peer", f"stylegan3={tmp_path}") == 1
    assert "no checkout of stylegan3 that can be imported" in capsys.readouterr().err
