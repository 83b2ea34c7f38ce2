"""csrc/ with its CUDA kernels compiled for the CPU: for tests/cuda_emulator, which stands in for the CUDA runtime."""

import os
import shlex
import subprocess
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
EMULATOR = ROOT / "tests" / "cuda_emulator"
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-fopenmp", "-fvisibility=hidden"]
# nvcc lets a pointer of one type read numbers of another.
KERNEL_FLAGS = ["-fsanitize=alignment,null,bounds", "-fno-strict-aliasing", "-Wno-unknown-pragmas", "-xc++"]
CPP_FLAGS = ["-DFASTGAN_WITH_CUDA", "-DFASTGAN_CPU_LEVEL=base"]


def compiled(source: Path, folder: str) -> str:
    """Compile one file into a folder; its object."""
    import pybind11

    includes = [EMULATOR, ROOT / "csrc", pybind11.get_include(), sysconfig.get_path("include")]
    flags = [*FLAGS, *(f"-I{path}" for path in includes), *(KERNEL_FLAGS if source.suffix == ".cu" else CPP_FLAGS)]
    command = ["g++", *flags, "-c", str(source), "-o", f"{folder}/{source.parent.name}_{source.stem}.o"]
    result = subprocess.run(command, text=True, capture_output=True, check=False)
    assert result.returncode == 0, f"{shlex.join(command)}\n{result.stderr}"
    return command[-1]


def build(library: Path) -> None:
    """Compile and link all of it into a Python extension module."""
    sources = [*ROOT.glob("csrc/cuda/*.cu"), *ROOT.glob("csrc/cpu/*.cpp"), *ROOT.glob("csrc/*.cpp")]
    sources += EMULATOR.glob("*.c*")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as threads:
        objects = list(threads.map(partial(compiled, folder=folder), sources))
        # Linked without the sanitizers' library: the emulator takes their reports.
        subprocess.run(["g++", "-shared", "-fopenmp", *objects, "-o", library], check=True)
