"""Which backends run on which CUDA device: capability, PTX, driver, Triton's needs; the devices are made up."""

from types import SimpleNamespace

import pytest
import torch

import fastgan
from fastgan import _build_info, backends, cuda_device, doctor

ARCHS = ("sm_80", "sm_90", "sm_100", "compute_100")


@pytest.fixture
def machine(monkeypatch):
    """`machine(*capabilities, ...)`: from then on torch sees GPUs of these capabilities; no kernel is loaded."""

    def made(*capabilities, archs=ARCHS, runtime=(13, 0), driver=(13, 0), triton=True):
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capabilities[device.index])
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
        monkeypatch.setattr(_build_info, "REASON_CUDA", "")
        monkeypatch.setattr(_build_info, "CUDA_ARCHS", archs)
        monkeypatch.setattr(cuda_device, "cuda_versions", lambda: (runtime, driver))
        monkeypatch.setattr(backends, "find_spec", lambda name: None if name == "triton" and not triton else name)
        monkeypatch.setattr(backends, "_interpreting", lambda: False)
        monkeypatch.setattr(backends, "_module", lambda name, op: f"{name}.{op}")
        backends._missing.cache_clear()
        backends._pick.cache_clear()

    yield made
    monkeypatch.undo()
    backends._missing.cache_clear()
    backends._pick.cache_clear()


def picked(index=0):
    return backends.pick("bias_act", SimpleNamespace(device=torch.device("cuda", index)))


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0), (12, 1)])
def test_machine_code_of_the_major_version_or_ptx_will_do(machine, capability):
    machine(capability)
    assert picked() == "cuda.bias_act"
    assert backends.available()["cuda"] == (True, "")


@pytest.mark.parametrize(
    ("capability", "archs"),
    [
        ((7, 5), ARCHS),  # older than all
        ((8, 0), ("sm_86", "compute_86")),  # the same major version, an older minor one
        ((9, 0), ("sm_100", "compute_100")),
        ((10, 0), ("sm_90",)),  # no PTX
    ],
)
def test_a_device_without_code_in_the_build_is_named(machine, capability, archs):
    machine(capability, archs=archs)
    ok, reason = backends.available()["cuda"]
    assert not ok
    number = ".".join(map(str, capability))
    assert reason.startswith(f"cuda:0: it has compute capability {number}, and this build has code for {archs[0]}")
    assert picked() != "cuda.bias_act"
    with pytest.raises(RuntimeError, match="backend 'cuda' is not available: cuda:0: it has"), fastgan.backend("cuda"):
        pass


def test_ptx_needs_a_driver_as_new_as_the_toolkit(machine):
    machine((12, 0), runtime=(13, 1), driver=(13, 0))
    reason = backends.available()["cuda"].reason
    assert "a driver for CUDA 13.1 has to compile its PTX; this one supports 13.0" in reason
    # Machine code runs under any driver of the runtime's major version.
    machine((9, 0), runtime=(13, 1), driver=(13, 0))
    assert picked() == "cuda.bias_act"


@pytest.mark.parametrize("driver", [(0, 0), (11, 8), (12, 9)])
def test_the_driver_must_know_the_runtime(machine, driver):
    machine((9, 0), driver=driver)
    text = f"cuda:0: the driver supports CUDA {driver[0]}.{driver[1]}, and this build needs CUDA 13"
    assert backends.available()["cuda"] == (False, text)
    assert picked() == "triton.bias_act"


def test_triton_has_an_oldest_capability(machine):
    machine((7, 5))
    reason = backends.available()["triton"].reason
    assert reason == "cuda:0: it has compute capability 7.5, and Triton needs 8.0"
    assert picked() == "reference.bias_act"


def test_triton_that_is_not_installed_is_said(machine):
    machine((7, 5), triton=False)
    assert backends.available()["triton"].reason.startswith("triton is not installed (")
    assert picked() == "reference.bias_act"


def test_every_device_is_asked_for_itself(machine):
    machine((9, 0), (7, 5), (8, 6), archs=("sm_90", "compute_90"))
    assert [picked(index) for index in range(3)] == ["cuda.bias_act", "reference.bias_act", "triton.bias_act"]
    assert backends.available()["cuda"].ok
    with (
        fastgan.backend("cuda"),
        pytest.raises(
            RuntimeError, match=r"'cuda' was asked for and cannot run bias_act on a cuda tensor: it has .*7.5"
        ),
    ):
        picked(1)


def test_doctor_says_it_of_every_device(machine, monkeypatch):
    machine((9, 0), (7, 5))
    monkeypatch.setattr(doctor, "_check", lambda name, device: {"device": str(device), "ok": True, "message": "right"})
    findings = doctor.examine()
    assert findings["devices"]["cuda:1"] == "GPU 1, compute capability 7.5"
    assert findings["build"]["cuda_runtime"] == "13.0, the driver supports 13.0"
    backends_text = doctor.to_text(findings).partition("\nbackends\n")[2]
    (line,) = [line for line in backends_text.splitlines() if line.startswith("  cuda   ")]
    assert line.split(maxsplit=1)[1].startswith("cuda:0: right; cuda:1: not used: it has compute capability 7.5, and ")


def test_versions_of_this_build():
    if not _build_info.CUDA:
        pytest.skip(_build_info.REASON_CUDA)
    runtime, driver = cuda_device.cuda_versions()
    assert _build_info.NVCC.startswith(f"{runtime[0]}.{runtime[1]} (")
    assert driver == (0, 0) or driver >= (12, 0)
