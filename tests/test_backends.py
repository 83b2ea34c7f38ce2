"""The choice of backend: the order, the strict override, the reasons."""

import os
import subprocess
import sys

import pytest
import torch
from samples import cpu_levels

import fastgan
from fastgan import _build_info, backends


def test_every_backend_says_whether_it_can_run_and_why_not():
    available = backends.available()
    assert list(available) == ["cuda", "triton", "cpu", "reference"]
    assert available["reference"].ok
    assert all(entry.ok == (entry.reason == "") for entry in available.values())
    assert available["cpu"].ok == _build_info.CPU


def test_default_is_the_first_of_the_order():
    expected = "fastgan.native" if _build_info.CPU else "fastgan.reference"
    assert backends.pick("spectral_norm", torch.zeros(1)).__name__ == f"{expected}.spectral_norm"


def test_a_device_without_kernels_gets_the_reference():
    assert backends.pick("spectral_norm", torch.zeros(1, device="meta")).__name__ == "fastgan.reference.spectral_norm"


def test_override_ends_with_the_block():
    before = backends.pick("spectral_norm", torch.zeros(1))
    with fastgan.backend("reference"):
        assert backends.pick("spectral_norm", torch.zeros(1)).__name__ == "fastgan.reference.spectral_norm"
    assert backends.pick("spectral_norm", torch.zeros(1)) is before


def test_override_is_restored_after_an_error():
    before = backends.pick("spectral_norm", torch.zeros(1))
    with pytest.raises(ZeroDivisionError), fastgan.backend("reference"):
        _ = 1 / 0
    assert backends.pick("spectral_norm", torch.zeros(1)) is before


def test_blocks_of_threads_end_in_any_order():
    before = backends.pick("spectral_norm", torch.zeros(1))
    first, second = fastgan.backend("reference"), fastgan.backend("reference")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert backends.pick("spectral_norm", torch.zeros(1)).__name__ == "fastgan.reference.spectral_norm"
    second.__exit__(None, None, None)
    assert backends.pick("spectral_norm", torch.zeros(1)) is before


def test_unknown_backend():
    with (
        pytest.raises(ValueError, match="no backend 'cdua'; there are cuda, triton, cpu, reference"),
        fastgan.backend("cdua"),
    ):
        pass


def test_unavailable_backend_raises_with_its_reason(monkeypatch):
    monkeypatch.setattr(backends, "_missing", lambda name: f"{name} is broken")
    with pytest.raises(RuntimeError, match="backend 'cpu' is not available: cpu is broken"), fastgan.backend("cpu"):
        pass


def test_override_never_falls_back():
    with (
        fastgan.backend("cpu"),
        pytest.raises(
            RuntimeError,
            match="'cpu' was asked for and cannot run spectral_norm on a meta tensor: it serves cpu tensors",
        ),
    ):
        backends.pick("spectral_norm", torch.zeros(1, device="meta"))
    with (
        fastgan.backend("cpu"),
        pytest.raises(RuntimeError, match="cannot run no_such_op on a cpu tensor: it has no no_such_op"),
    ):
        backends.pick("no_such_op", torch.zeros(1))


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_environment_chooses():
    code = "import torch; from fastgan import backends; print(backends.pick('spectral_norm', torch.zeros(1)).__name__)"
    assert run(code, FASTGAN_BACKEND="reference").stdout.strip() == "fastgan.reference.spectral_norm"
    wrong = run(code, FASTGAN_BACKEND="gpu")
    assert wrong.returncode
    assert "FASTGAN_BACKEND: no backend 'gpu'" in wrong.stderr


@pytest.mark.parametrize("level", cpu_levels())
def test_environment_chooses_a_level(level):
    code = "from fastgan import doctor; print(doctor.examine()['build']['cpu_level_used'])"
    assert run(code, FASTGAN_CPU_LEVEL=level).stdout.strip() == level


def test_levels_are_strict():
    found = run("import fastgan; fastgan.backends.environment()", FASTGAN_CPU_LEVEL="v9")
    assert found.returncode
    assert (
        "FASTGAN_CPU_LEVEL: level 'v9' is not compiled, or this processor does not have it; there are " in found.stderr
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here: nothing is unavailable")
def test_environment_is_strict():
    code = "import torch; from fastgan import backends; backends.pick('spectral_norm', torch.zeros(1))"
    assert (
        "'cuda' was asked for and cannot run spectral_norm on a cpu tensor" in run(code, FASTGAN_BACKEND="cuda").stderr
    )
