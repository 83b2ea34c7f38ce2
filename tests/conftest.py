"""What every test shares: the backends of this machine, and fresh memory that is never zero by luck."""

import importlib.util
import shlex
import shutil
import subprocess
import sysconfig
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fastgan import backends, memory

ROOT = Path(__file__).parents[1]
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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes `target` once per backend and device that can run here."""
    if "target" in metafunc.fixturenames:
        targets = [target for target in TARGETS if not why_not(*target)]
        marks = {"cuda": [pytest.mark.gpu], "emulated": [pytest.mark.slow]}
        params = [
            pytest.param((name, device), marks=marks.get(name, []) + marks.get(device, []), id=f"{name}-{device}")
            for name, device in targets
        ]
        metafunc.parametrize("target", params, indirect=True)


@pytest.fixture
def target(request: pytest.FixtureRequest):
    """The device to test on, with its backend chosen strictly."""
    name, device = request.param
    if name == "emulated":
        request.getfixturevalue("emulated_cuda")
        name = "cpu"
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


# --- the CUDA kernels on the CPU ---


@pytest.fixture(scope="session")
def emulated_extension(tmp_path_factory: pytest.TempPathFactory):
    """fastgan._C with csrc/cuda compiled for tests/cuda_emulator, and that folder's own kernels in the same library."""
    pybind11 = pytest.importorskip("pybind11", reason="the CUDA kernels are emulated in C++: no pybind11")
    if not shutil.which("g++"):
        pytest.skip("the CUDA kernels are emulated in C++: no g++")
    folder, emulator = tmp_path_factory.mktemp("emulated"), ROOT / "tests" / "cuda_emulator"
    includes = [emulator, ROOT / "csrc", pybind11.get_include(), sysconfig.get_path("include")]
    flags = ["-std=c++17", "-O1", "-fPIC", "-fopenmp", "-fvisibility=hidden", *(f"-I{path}" for path in includes)]
    # nvcc lets a pointer of one type read numbers of another.
    kernel_flags = ["-fsanitize=alignment,null,bounds", "-fno-strict-aliasing", "-Wno-unknown-pragmas", "-xc++"]
    more_flags = {".cu": kernel_flags, ".cpp": ["-DFASTGAN_WITH_CUDA", "-DFASTGAN_CPU_LEVEL=base"]}
    sources = [*ROOT.glob("csrc/*.cpp"), *ROOT.glob("csrc/cpu/*.cpp"), *ROOT.glob("csrc/cuda/*.cu")]
    compilations, objects = [], []
    for source in [*sources, *emulator.glob("*.c*")]:
        objects.append(f"{folder}/{source.parent.name}_{source.stem}.o")
        command = ["g++", *flags, *more_flags[source.suffix], "-c", source, "-o", objects[-1]]
        compilations.append(subprocess.Popen(command, text=True, stderr=subprocess.PIPE))
    library = folder / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    for compilation in compilations:
        messages = compilation.communicate()[1]
        assert compilation.returncode == 0, f"{shlex.join(map(str, compilation.args))}\n{messages}"
    # Linked without the sanitizers' library: the emulator takes their reports.
    subprocess.run(["g++", "-shared", "-fopenmp", *objects, "-o", library], check=True)
    spec = importlib.util.spec_from_loader("emulated._C", ExtensionFileLoader("emulated._C", str(library)))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def emulated_cuda(emulated_extension, monkeypatch: pytest.MonkeyPatch):
    """CPU tensors go to the emulated CUDA kernels, where they would go to the CPU's; the emulated `_C.cuda`."""
    if reason := why_not("emulated", "cpu"):
        pytest.skip(f"what calls compiled kernels is not there: {reason}")
    from fastgan import _native
    from fastgan.native import sample_norm, scale_shift_act, spectral_norm, sum_channels

    monkeypatch.setattr(_native, "_C", SimpleNamespace(cpu=emulated_extension.cuda))
    caches = [op._workspace_size for op in (sample_norm, spectral_norm, sum_channels)]
    caches.append(scale_shift_act.workspace_size)
    for sizes in caches:
        sizes.cache_clear()
    yield emulated_extension.cuda
    for sizes in caches:
        sizes.cache_clear()
