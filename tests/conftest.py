"""What every test shares: the backends of this machine, and fresh memory that is never zero by luck."""

import importlib.util
import os
import shutil
import signal
import sys
from collections.abc import Callable
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from pkgutil import iter_modules
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock
from samples import SEED, SHIFT, cpu_level, cpu_levels

import emulated_build
from fastgan import backends, memory

# (backend, device type), the ones that cannot run here included. "emulated" are the kernels of "cuda" on CPU tensors.
TARGETS = [
    ("reference", "cpu"),
    ("cpu", "cpu"),
    ("triton", "cpu"),
    ("emulated", "cpu"),
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
    return backends.available()["cpu" if name == "emulated" else name].reason


def pytest_report_header() -> str:
    """What the tests' values, and the CPU kernels, depend on."""
    capability = torch.backends.cpu.get_cpu_capability()
    level = backends.environment().cpu_level or "none"
    return f"FASTGAN_TEST_SEED={SEED}; level {level} of {', '.join(cpu_levels())}; {capability}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes `target` once per backend and device that can run here, and an exact one on every level."""
    if "target" in metafunc.fixturenames:
        targets = [target for target in TARGETS if not why_not(*target)]
        if metafunc.definition.get_closest_marker("around"):
            targets = [target for target in targets if target[0] != "emulated"]
            others = {device for name, device in targets if name != "reference"}
            targets = [(name, device) for name, device in targets if name != "reference" or device not in others]
        if metafunc.definition.get_closest_marker("exact"):
            targets += [(level, "cpu") for level in cpu_levels() if level != backends.environment().cpu_level]
        marks = {"cuda": [pytest.mark.gpu]} | {name: [pytest.mark.slow] for name in ("emulated", *cpu_levels())}
        params = [
            pytest.param((name, device), marks=marks.get(name, []) + marks.get(device, []), id=f"{name}-{device}")
            for name, device in targets
        ]
        metafunc.parametrize("target", params, indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first; the backends of a case one after the other: they share its float64 answer."""
    first = {}

    def order(numbered: tuple[int, pytest.Item]) -> tuple[bool, int]:
        number, item = numbered
        targets = getattr(item, "callspec", None) and item.callspec.params.get("target")
        case = item.nodeid.replace("-".join(targets), "", 1) if targets else item.nodeid
        return bool(targets) or not item.get_closest_marker("slow"), first.setdefault(case, number)

    items[:] = [item for _, item in sorted(enumerate(items), key=order)]


@pytest.fixture
def target(request: pytest.FixtureRequest):
    """The device to test on, with its backend chosen strictly."""
    name, device = request.param
    if name == "emulated":
        request.getfixturevalue("emulated_cuda")
        name = "cpu"
    if name in cpu_levels():
        with cpu_level(name), backends.backend("cpu"):
            yield torch.device(device)
        return
    with backends.backend(name):
        yield torch.device(device)


@pytest.fixture(autouse=True)
def shifted_seeds(monkeypatch: pytest.MonkeyPatch):
    """Numbers that are the same in every run, and others for every FASTGAN_TEST_SEED."""
    seed = torch.manual_seed
    seed(SHIFT)
    if SHIFT:
        monkeypatch.setattr(torch, "manual_seed", lambda n: seed(n + SHIFT))


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch):
    """Fresh memory holds NaN: what a kernel forgets to write is seen."""

    def poisoned(make):
        return lambda *args: make(*args).fill_(torch.nan)

    for name in ("empty", "empty_strided", "empty_like"):
        monkeypatch.setattr(memory, name, poisoned(getattr(memory, name)))
    # With deterministic algorithms torch fills what torch.empty returns with NaN.
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def signals_arrive():
    """Also where a shell has these tests ignore them: a job in the background, nohup."""
    ignored = [number for number in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(autouse=True)
def fresh_compiler():
    """Torch compiles as in the first test: it remembers no sizes of another one, nor how often it compiled."""
    yield
    if dynamo := sys.modules.get("torch._dynamo"):
        dynamo.reset()


# --- the CUDA kernels on the CPU ---


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """`once(name, make)`: a path that `make(path)` has made, in whichever process of the tests asked first."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def made(name: str, make: Callable[[Path], None]) -> Path:
        done = folder / f"{name}.done"
        with FileLock(folder / f"{name}.lock"):
            if not done.exists():
                make(folder / name)
                done.touch()
        return folder / name

    return made


@pytest.fixture(scope="session")
def emulated_extension():
    """fastgan._C with csrc/cuda compiled for tests/cuda_emulator, and that folder's own kernels in the same library."""
    for package in ("ninja", "pybind11"):
        pytest.importorskip(package, reason=f"the CUDA kernels are emulated in C++: no {package}")
    if not shutil.which("g++"):
        pytest.skip("the CUDA kernels are emulated in C++: no g++")
    emulated_build.FOLDER.mkdir(parents=True, exist_ok=True)
    with FileLock(emulated_build.FOLDER / "lock"):
        library = emulated_build.build()
    spec = importlib.util.spec_from_loader("emulated._C", ExtensionFileLoader("emulated._C", str(library)))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def emulated_cuda(emulated_extension, monkeypatch: pytest.MonkeyPatch):
    """CPU tensors go to the emulated CUDA kernels, where they would go to the CPU's; the emulated `_C.cuda`."""
    if reason := why_not("emulated", "cpu"):
        pytest.skip(f"what calls compiled kernels is not there: {reason}")
    from fastgan import _native, native
    from fastgan.native import norm_act

    monkeypatch.setattr(_native, "_C", SimpleNamespace(cpu=emulated_extension.cuda))
    for name in ("forward", "backward"):  # as a whole it is the CPU's alone
        monkeypatch.delattr(norm_act, name)
    ops = [importlib.import_module(f"fastgan.native.{op.name}") for op in iter_modules(native.__path__)]
    caches = [value for op in (_native, *ops) for value in vars(op).values() if hasattr(value, "cache_clear")]
    for cache in caches:
        cache.cache_clear()
    yield emulated_extension.cuda
    for cache in caches:
        cache.cache_clear()
