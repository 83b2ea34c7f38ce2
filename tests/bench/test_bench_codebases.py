"""A codebase from a checkout, written here: imported by itself, measured as it is and with fastgan."""

import json
import sys
from importlib import import_module

import pytest
import torch
from torch.utils import cpp_extension

from fastgan.bench import peers, programs
from fastgan.bench.checkouts import importable
from fastgan.bench.program import Codebase
from fastgan.bench.registry import OPS
from fastgan.bench.steps import codebases
from fastgan.bench.steps.codebases import ACCELERATE, PATCH, Case
from fastgan.cli import main
from fastgan.compat import patching

# Written here, with the modules and signatures of the families.
FILES = {
    "op/__init__.py": """
from torch.utils.cpp_extension import load
import torch
import torch.nn.functional as F

compiled = load("fused", ["fused.cu"])

class FusedLeakyReLU(torch.nn.Module):
    def __init__(self, channel):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(channel))
    def forward(self, x):
        return fused_leaky_relu(x, self.bias)

def fused_leaky_relu(x, bias):
    return F.leaky_relu(x + bias.view(1, -1, *[1] * (x.ndim - 2)), 0.2) * 2**0.5

def upfirdn2d(x, kernel, up=1, down=1, pad=(0, 0)):
    raise NotImplementedError
""",
    "model.py": """
import torch
from torch import nn
import absent_module
from op import FusedLeakyReLU

class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3, padding=1))
        self.act = FusedLeakyReLU(4)
    def forward(self, x):
        return self.act(nn.functional.avg_pool2d(self.conv(x), 2)).sum((1, 2, 3))
""",
}


def tiny(dtype, size):
    D = import_module("model").Critic().to(dtype)
    x = torch.linspace(-1, 1, 3 * size**2, dtype=dtype).view(1, 3, size, size)

    def step():
        loss = D(x).square().mean()
        loss.backward()
        return loss

    return {"D": D}, {"D step": (D, step)}


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A function that writes a checkout and the suite that is of it alone."""
    tiny_codebase = Codebase(tiny, "rosinality", absent={"absent_module": {}})
    case = Case("rosinality", {"size": 6}, ("D step",), PATCH | ACCELERATE, "tiny")
    monkeypatch.setitem(programs.CODEBASES, "rosinality", tiny_codebase)
    for name in list(codebases.CASES):
        monkeypatch.delitem(codebases.CASES, name)
    monkeypatch.setitem(codebases.CASES, "tiny", case)
    op = OPS["codebases"]._replace(cases={"tiny": ""}, quick=("tiny",))
    monkeypatch.setattr("fastgan.bench.cli.OPS", {"codebases": op})
    monkeypatch.setattr("fastgan.bench.runner.COPY_BYTES", {"cpu": 1 << 16})
    monkeypatch.setattr(peers, "_loaded", {})
    monkeypatch.setattr(peers, "_folders", {})

    def write():
        for name, text in FILES.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def bench(*arguments):
    return main(["bench", "run", "--quick", "--device", "cpu", "--suite", "codebases", *map(str, arguments)])


def test_a_codebase_is_measured_as_it_is_and_with_fastgan(checkout, tmp_path):
    before, file = dict(sys.modules), tmp_path / "result.json"
    assert bench("--peer", f"rosinality={checkout()}", "--json", file) == 0
    results = {r["contender"].partition(" (")[0]: r for r in json.loads(file.read_text())["results"]}
    assert set(results) == {"as shipped", "fastgan patch", "fastgan accelerate"}
    assert all(r["error"] < 1e-5 and r["mode"] == "D step" for r in results.values())
    assert {name for name in set(sys.modules) - set(before) if name in ("op", "model", "absent_module")} == set()


def test_what_differs_from_the_codebase_is_not_timed(checkout, capsys, monkeypatch):
    monkeypatch.setattr(patching, "_in_the_place_of", lambda theirs, ours: lambda *args: 1.5 * ours(*args))
    assert bench("--peer", f"rosinality={checkout()}") == 1
    out = capsys.readouterr().out
    timed, not_run = out.split("not run")
    assert "as shipped" in timed
    assert "fastgan accelerate" in timed
    assert "fastgan patch" not in timed
    assert "wrong: its relative error is" in not_run


def test_without_a_checkout_the_report_says_how_to_name_one(checkout, capsys):
    assert bench() == 0
    assert "no checkout (--peer rosinality=DIR)" in capsys.readouterr().out


def test_a_checkout_that_cannot_run_is_a_fault(checkout, capsys):
    folder = checkout()
    (folder / "model.py").write_text("import nowhere_to_be_found\n")
    assert bench("--peer", f"rosinality={folder}") == 1
    assert "ModuleNotFoundError" in capsys.readouterr().out


def test_modules_of_a_checkout_come_first_and_are_gone_behind(checkout, monkeypatch):
    other = object()
    monkeypatch.setitem(sys.modules, "model", other)
    with importable(checkout(), {"op": {"FusedLeakyReLU": int}}, {"absent_module": {"there": 1}}) as modules:
        import absent_module
        import model

        assert (model.FusedLeakyReLU, absent_module.there) == (int, 1)
        with pytest.raises(ModuleNotFoundError, match=r"absent_module.gone: absent_module is not installed"):
            absent_module.gone()
        assert cpp_extension.load("nothing", []) is None
    assert sys.modules["model"] is other
    assert modules["model"] is model
    assert "absent_module" not in sys.modules
    assert "op" not in sys.modules
