"""What every test shares: the backends of this machine, and fresh memory that is never zero by luck."""

import pytest
import torch

from fastgan import backends, memory

# (backend, device type), the ones that cannot run here included.
TARGETS = [
    ("reference", "cpu"),
    ("cpu", "cpu"),
    ("triton", "cpu"),
    ("reference", "cuda"),
    ("triton", "cuda"),
    ("cuda", "cuda"),
]


def why_not(name: str, device: str) -> str:
    """Why a backend cannot be tested on a device here; empty if it can."""
    if device == "cuda" and not torch.cuda.is_available():
        return "no CUDA device"
    if name == "triton" and (device == "cpu") != backends._interpreting():
        return "TRITON_INTERPRET is " + ("set" if backends._interpreting() else "not set")
    return backends.available()[name].reason


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes `target` once per backend and device that can run here."""
    if "target" in metafunc.fixturenames:
        targets = [target for target in TARGETS if not why_not(*target)]
        marks = {"cuda": [pytest.mark.gpu], "cpu": []}
        metafunc.parametrize(
            "target", [pytest.param(t, marks=marks[t[1]], id="-".join(t)) for t in targets], indirect=True
        )


@pytest.fixture
def target(request: pytest.FixtureRequest):
    """The device to test on, with its backend chosen strictly."""
    name, device = request.param
    with backends.backend(name):
        yield torch.device(device)


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch):
    """Fresh memory holds NaN: what a kernel forgets to write is seen."""
    empty = memory.empty

    def poisoned(shape, dtype, device):
        out = empty(shape, dtype, device)
        out.view(-1).view(torch.uint8).fill_(255)
        return out

    monkeypatch.setattr(memory, "empty", poisoned)
    # With deterministic algorithms torch fills what torch.empty returns with NaN.
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
