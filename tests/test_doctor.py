"""`fastgan doctor`: right on this machine, and 1 when a backend is not."""

import json
from importlib import import_module

import pytest
import torch

from fastgan import backends, doctor
from fastgan.cli import main
from fastgan.reference import spectral_norm as reference


@pytest.fixture
def native(monkeypatch):
    """The CPU backend's module, to be broken."""
    ok, reason = backends.available()["cpu"]
    if not ok:
        pytest.skip(reason)
    from fastgan.native import spectral_norm

    return spectral_norm


def test_all_is_well(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert text.endswith("all well\n")
    for name, (ok, reason) in backends.available().items():
        assert ok or f"{name:20}not available: {reason}" in text


def test_json(capsys):
    assert main(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert findings["ok"]
    assert set(findings["backends"]) == set(backends.PACKAGES)
    for name, (ok, reason) in backends.available().items():
        entry = findings["backends"][name]
        assert (entry["available"], entry["reason"]) == (ok, reason)
        assert bool(entry["checks"]) == ok
    assert all(check["error"] < doctor.BOUND for check in findings["backends"]["reference"]["checks"])


def test_wrong_forward_is_found(native, monkeypatch, capsys):
    def wrong(*args):
        weights, *others = reference.forward(*args)
        return [1.001 * weights[0], *weights[1:]], *others

    monkeypatch.setattr(native, "forward", wrong)
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "cpu: WRONG (spectral_norm), relative error 1e-03" in text
    assert text.endswith("a backend is WRONG\n")


def test_wrong_backward_is_found(native, monkeypatch, capsys):
    monkeypatch.setattr(native, "backward", lambda *args: [float("nan") * dw for dw in reference.backward(*args)])
    assert main(["doctor", "--json"]) == 1
    check = json.loads(capsys.readouterr().out)["backends"]["cpu"]["checks"][0]
    assert check == {
        "device": "cpu",
        "ok": False,
        "error": None,
        "message": "WRONG (spectral_norm), relative error inf",
    }


@pytest.mark.parametrize("stem", ["sample_norm", "scale_samples", "interpolate"])
def test_wrong_op_on_samples_is_found(native, stem, monkeypatch, capsys):
    module = import_module(f"fastgan.native.{stem}")
    right = module.forward
    monkeypatch.setattr(module, "forward", lambda *args: 1.001 * right(*args))
    assert main(["doctor"]) == 1
    assert "cpu: WRONG (samples), relative error 1e-03" in capsys.readouterr().out


def test_backend_that_raises_is_found(native, monkeypatch, capsys):
    def broken(*_):
        raise OSError("no such kernel")

    monkeypatch.setattr(native, "forward", broken)
    assert main(["doctor"]) == 1
    assert "cpu: FAILED: OSError: no such kernel" in capsys.readouterr().out


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_backends_are_checked(capsys):
    assert main(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["backends"]
    assert [check["device"] for check in findings["triton"]["checks"]] == ["cuda:0"]
