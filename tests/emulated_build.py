"""csrc/ with its CUDA kernels compiled for the CPU: for tests/cuda_emulator, which stands in for the CUDA runtime.

ninja keeps it in build/emulated, and compiles what has changed since the last time.
"""

import shlex
import subprocess
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / f"emulated-{sysconfig.get_config_var('SOABI')}"
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-fopenmp", "-fvisibility=hidden"]
INCLUDES = [f"-I{path}" for path in ("tests/cuda_emulator", "csrc", sysconfig.get_path("include"))]
# nvcc lets a pointer of one type read values of another.
KERNEL_FLAGS = ["-fsanitize=alignment,null,bounds", "-fno-strict-aliasing", "-Wno-unknown-pragmas", "-xc++"]
CPP_FLAGS = ["-DFASTGAN_WITH_CUDA", "-DFASTGAN_CPU_LEVEL=base"]
SOURCES = ("csrc/cuda/*.cu", "csrc/cpu/*.cpp", "csrc/*.cpp", "csrc/bind/*.cpp", "tests/cuda_emulator/*.c*")


def ninja_file(library: Path) -> str:
    """The text of build.ninja. It is linked without the sanitizers' library: the emulator takes their reports."""
    import pybind11

    sources = sorted(source.relative_to(ROOT) for pattern in SOURCES for source in ROOT.glob(pattern))
    objects = {source: (FOLDER / source).relative_to(ROOT).with_suffix(".o") for source in sources}
    edges = [f"build {target}: {source.suffix[1:]} {source}\n" for source, target in objects.items()]
    rules = [
        f"""\
rule {suffix}
  command = g++ {shlex.join([*FLAGS, *INCLUDES, *flags])} -MD -MF $out.d -c $in -o $out
  depfile = $out.d
  deps = gcc
"""
        for suffix, flags in (("cu", KERNEL_FLAGS), ("cpp", [*CPP_FLAGS, f"-I{pybind11.get_include()}"]))
    ]
    return f"""\
builddir = {FOLDER.relative_to(ROOT)}
{"".join(rules)}rule link
  command = g++ -shared -fopenmp $in -o $out
{"".join(edges)}build {library.relative_to(ROOT)}: link {" ".join(map(str, objects.values()))}
"""


def build() -> Path:
    """Bring the Python extension module up to date, and return its path; for one process at a time."""
    import ninja

    library = FOLDER / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    script = FOLDER / "build.ninja"
    script.write_text(ninja_file(library))
    command = [Path(ninja.BIN_DIR, "ninja"), "-C", ROOT, "-f", script]
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert done.returncode == 0, done.stdout
    return library
