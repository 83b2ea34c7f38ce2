"""Build csrc/ into `fastgan._C` with ninja: C++ always, CUDA when nvcc is found. No torch is needed.

Environment:
    CXX, CC             the C++ compiler (CC=gcc-12 means g++-12); else c++, g++ or clang++ from PATH
    FASTGAN_CUDA        auto (default: CUDA when nvcc is found), 1 (no nvcc is an error) or 0
    FASTGAN_CUDA_ARCHS  compute capabilities, such as "90" or "80;90", or all: 80, 90 and 100, for a wheel that others
                        use; else those of the GPUs that are here, else 90
    CUDA_HOME           the CUDA toolkit; else nvcc from PATH
    FASTGAN_SANITIZE    1 builds with AddressSanitizer and UndefinedBehaviorSanitizer

csrc/*.cpp and csrc/bind/*.cpp are compiled once; csrc/cpu/*.cpp once per x86-64 level, the choice among them being
made at run time.
"""

import contextlib
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from setuptools import Extension, find_packages, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

CSRC = Path("csrc")
CXX_OF = {"gcc": "g++", "cc": "c++", "clang": "clang++"}
CUDA_ARCHS = ("80", "90", "100")
CUDA_ARCH_WITHOUT_GPU = "90"
OLDEST_CUDA_ARCH = 80
CUDART = ["-lcudart_static", "-ldl", "-lrt", "-lpthread", "-Wl,--exclude-libs,ALL"]
CXX_FLAGS = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
# Without the second a loop with a choice between two values is not vectorised; neither changes a result.
CXX_FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
NVCC_FLAGS = [
    "-std=c++17",
    "-O3",
    "--expt-relaxed-constexpr",
    "--threads",
    "0",
    "-Xcompiler",
    "-fPIC,-fvisibility=hidden",
]
OPTIMIZE = ["-O3"]
SECONDS_OF_SILENCE = 10
SANITIZE = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
SHARED = ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]


def say(message):
    """Print one line at once, so that it stays in order with the output of the compilers; on the terminal too."""
    print(f"fastgan: {message}", flush=True)
    show(message)


def show(message):
    """Write one line to the terminal, if there is one: pip without -v keeps back all that a build prints."""
    if not sys.stdout.isatty():
        with contextlib.suppress(OSError), Path("/dev/tty").open("w") as terminal:
            terminal.write(f"\r\033[Kfastgan: {message}\n")


def output_of(*command):
    """Return stdout and stderr of a command that must succeed."""
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout


# --- compilers ---


class Toolkit(NamedTuple):
    """A CUDA toolkit: its nvcc, version and root, and the flags that find its headers and libraries."""

    nvcc: str
    version: str
    root: str
    include_flags: list
    library_flags: list


def find_cxx(env):
    """Return the C++ compiler as a command (a list), or None, and the names that were tried."""
    if sys.platform == "win32":
        return None, ["none, as csrc/ was never built on Windows"]
    if env.get("CXX"):
        tried = [env["CXX"]]
    elif env.get("CC"):
        tried = [re.sub(r"\b(gcc|cc|clang)\b", lambda name: CXX_OF[name[0]], env["CC"])]
    else:
        tried = ["c++", "g++", "clang++"]
    commands = [shlex.split(name) for name in tried]
    return next((command for command in commands if shutil.which(command[0], path=env.get("PATH"))), None), tried


def find_toolkit(env):
    """Return the CUDA toolkit or None, and where nvcc was looked for.

    An nvcc on PATH may be a script that starts the real one elsewhere, so the toolkit is where nvcc itself says.
    """
    home = env.get("CUDA_HOME")
    in_home = str(Path(home, "bin", "nvcc")) if home else None
    nvcc = (in_home and shutil.which(in_home)) or shutil.which("nvcc", path=env.get("PATH"))
    if nvcc is None:
        return None, f"{in_home or 'CUDA_HOME (not set)'}, then PATH ({env.get('PATH', '')})"
    dryrun = output_of(nvcc, "--dryrun", "-x", "cu", os.devnull)
    says = {name: shlex.split(value) for name, value in re.findall(r"^#\$ (\w+)=(.*)$", dryrun, re.MULTILINE)}
    version = re.search(r"release (\S+),", output_of(nvcc, "--version"))
    if not (version and {"TOP", "INCLUDES", "LIBRARIES"} <= says.keys()):
        raise SystemExit(f"fastgan: {nvcc} does not answer --dryrun and --version as nvcc does:\n{dryrun}")
    root = os.path.realpath(says["TOP"][0])
    return Toolkit(nvcc, version[1], root, says["INCLUDES"], says["LIBRARIES"]), nvcc


def choose_toolkit(env):
    """Return the toolkit that FASTGAN_CUDA asks for, or None and the reason why there is none."""
    choice = env.get("FASTGAN_CUDA", "auto")
    if choice not in ("0", "1", "auto"):
        raise SystemExit(f"fastgan: FASTGAN_CUDA must be 0, 1 or auto, not {choice!r}")
    if choice == "0":
        return None, "FASTGAN_CUDA=0"
    toolkit, looked = find_toolkit(env)
    if toolkit is None and choice == "1":
        raise SystemExit(f"fastgan: FASTGAN_CUDA=1, but nvcc was not found. Looked in: {looked}")
    return toolkit, "" if toolkit else f"no nvcc when it was built; looked in: {looked}"


def archs_of_gpus(env, known):
    """The compute capabilities of the GPUs that are here; of one that nvcc is too old for, the newest it knows."""
    nvidia_smi = shutil.which("nvidia-smi", path=env.get("PATH"))
    if nvidia_smi is None:
        return []
    query = [nvidia_smi, "--query-gpu=compute_cap", "--format=csv,noheader"]
    said = subprocess.run(query, text=True, capture_output=True, check=False).stdout
    found = {int(major + minor) for major, minor in re.findall(r"^(\d+)\.(\d)\s*$", said, re.MULTILINE)}
    taken = [[arch for arch in map(int, known) if OLDEST_CUDA_ARCH <= arch <= gpu] for gpu in found]
    return [str(max(archs)) for archs in taken if archs]


def choose_cuda_archs(env, toolkit):
    """Return the compute capabilities to build for, oldest first, and why those."""
    known = re.findall(r"compute_(\d+)", output_of(toolkit.nvcc, "--list-gpu-arch"))
    asked = re.findall(r"[^;,\s]+", env.get("FASTGAN_CUDA_ARCHS", ""))
    if asked == ["all"]:
        archs, why = set(CUDA_ARCHS) & set(known), "FASTGAN_CUDA_ARCHS=all"
    elif asked:
        archs, why = asked, "FASTGAN_CUDA_ARCHS"
    elif archs := archs_of_gpus(env, known):
        why = "the GPU that is here"
    else:
        archs, why = [CUDA_ARCH_WITHOUT_GPU], "no GPU is here"
    if not archs or set(archs) - set(known):
        raise SystemExit(
            f"fastgan: FASTGAN_CUDA_ARCHS={';'.join(archs or CUDA_ARCHS)}, "
            f"but nvcc {toolkit.version} takes {', '.join(known)}, separated by ';', or all"
        )
    return sorted(set(archs), key=int), why


def accepted(cxx, flags, expression="0"):
    """Whether the compiler takes these flags and this expression, to compile and to link."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text(f"int fastgan_probe() {{ return {expression}; }}\n")
        command = [*cxx, "-fPIC", *SHARED, *flags, str(source), "-o", str(Path(folder, "probe.so"))]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


# --- ninja ---


class Plan(NamedTuple):
    """What is compiled, and how: everything that `ninja_file` needs."""

    folder: Path
    cxx: list
    cxx_flags: list
    link_flags: list
    levels: dict
    toolkit: Toolkit = None
    cuda_archs: tuple = ()
    why_archs: str = ""

    @property
    def library(self):
        """The linked extension module, in the build folder."""
        return self.folder / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"


def make_plan(env, cxx, toolkit):
    """Ask the compilers what they can do, and return the plan of the build."""
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        raise SystemExit(
            f"fastgan: no Python.h in {sysconfig.get_path('include')}: install the development files of this Python "
            "(python3-dev on Debian), or set CXX=none for a pure-Python install"
        )
    sanitize = env.get("FASTGAN_SANITIZE") == "1"
    mode = SANITIZE if sanitize else OPTIMIZE
    openmp = ["-fopenmp"] if accepted(cxx, ["-fopenmp"]) else []
    includes = [f"-I{CSRC}", f"-isystem{sysconfig.get_path('include')}"]
    levels = {"base": []}
    if platform.machine() == "x86_64":
        for level in ("v3", "v4"):
            flags = [f"-march=x86-64-{level}"]
            if accepted(cxx, flags, f'__builtin_cpu_supports("x86-64-{level}")'):
                levels[level] = flags
    archs, why = choose_cuda_archs(env, toolkit) if toolkit else ((), "")
    return Plan(
        folder=Path("build", f"ninja-{sysconfig.get_config_var('SOABI')}{'-sanitize' if sanitize else ''}"),
        cxx=cxx,
        cxx_flags=[*CXX_FLAGS, *mode, *openmp, *includes],
        link_flags=[*SHARED, *mode, *openmp],
        levels=levels,
        toolkit=toolkit,
        cuda_archs=tuple(archs),
        why_archs=why,
    )


def ninja_file(plan):
    """Return the text of build.ninja."""
    import pybind11  # a build requirement, not needed to read this file

    def shell(arguments):
        return shlex.join(map(str, arguments)).replace("$", "$$")

    def compiled(rule, source, stem, flags):
        objects.append((plan.folder / stem).as_posix() + ".o")
        edges.append(f"build {objects[-1]}: {rule} {source.as_posix()}\n  flags = {shell(flags)}\n")

    objects, edges = [], []
    link_flags = list(plan.link_flags)
    bind_flags = [f"-isystem{pybind11.get_include()}"]
    bind_flags += [f"-DFASTGAN_HAS_{name.upper()}" for name in plan.levels if name != "base"]
    bind_flags += ["-DFASTGAN_WITH_CUDA", *plan.toolkit.include_flags] if plan.toolkit else []
    for source in sorted([*CSRC.glob("*.cpp"), *CSRC.glob("bind/*.cpp")]):
        compiled("cxx", source, source.relative_to(CSRC).with_suffix(""), bind_flags)
    # Lowest level first: of an inline function that several levels emit, the linker keeps the first, and a copy
    # compiled for a higher level would be an illegal instruction on an older CPU.
    for level, level_flags in plan.levels.items():
        for source in sorted(CSRC.glob("cpu/*.cpp")):
            compiled("cxx", source, f"cpu/{source.stem}.{level}", [f"-DFASTGAN_CPU_LEVEL={level}", *level_flags])
    nvcc_rule = ""
    if plan.toolkit:
        targets = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in plan.cuda_archs]
        targets.append(f"-gencode=arch=compute_{plan.cuda_archs[-1]},code=compute_{plan.cuda_archs[-1]}")
        nvcc = [plan.toolkit.nvcc, *NVCC_FLAGS, f"-I{CSRC}", *targets]
        # The report of ptxas is kept beside the object; it is printed only when the compilation fails.
        nvcc_rule = f"""\
rule nvcc
  command = {shell(nvcc)} -Xptxas -v -MD -MF $out.d -c $in -o $out > $out.log 2>&1 || {{ cat $out.log; exit 1; }}
  description = CUDA $in
  depfile = $out.d
  deps = gcc
"""
        for source in sorted(CSRC.glob("cuda/*.cu")):
            compiled("nvcc", source, f"cuda-{'-'.join(plan.cuda_archs)}/{source.stem}", [])
        link_flags += [*plan.toolkit.library_flags, *CUDART]
    return f"""\
ninja_required_version = 1.5
builddir = {plan.folder.as_posix()}
rule cxx
  command = {shell([*plan.cxx, *plan.cxx_flags])} $flags -MD -MF $out.d -c $in -o $out
  description = C++ $in $flags
  depfile = $out.d
  deps = gcc
{nvcc_rule}rule link
  command = {shell(plan.cxx)} $in {shell(link_flags)} -o $out
  description = link $out

{"".join(edges)}
build {plan.library.as_posix()}: link {" ".join(objects)}
"""


def find_ninja():
    """Return the path of ninja: that of the Python package, or, where pip builds in isolation, the one on PATH."""
    package = importlib.util.find_spec("ninja") and importlib.import_module("ninja").BIN_DIR
    program = shutil.which("ninja", path=package) or shutil.which("ninja")
    if program is None:
        raise SystemExit("fastgan: no ninja, neither as a Python package nor on PATH: run `pip install ninja`")
    return program


def run_ninja(plan):
    """Write build.ninja and bring the library up to date."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    script = plan.folder / "build.ninja"
    script.write_text(ninja_file(plan))
    said = time.monotonic()
    with subprocess.Popen([find_ninja(), "-f", str(script)], stdout=subprocess.PIPE, text=True) as running:
        for line in running.stdout:
            print(line, end="", flush=True)
            done = re.match(r"\[(\d+/\d+)\]", line)
            if done and time.monotonic() - said > SECONDS_OF_SILENCE:
                show(f"{done[1]} files compiled")
                said = time.monotonic()
    if running.returncode:
        raise SystemExit("fastgan: csrc/ did not compile; the compiler's message is above")


def targets_of(plan):
    """What a plan compiles for, in words."""
    targets = f"CPU ({', '.join(plan.levels)})"
    if plan.toolkit:
        machine = ", ".join(f"sm_{arch}" for arch in plan.cuda_archs)
        targets += f" and CUDA {plan.toolkit.version} ({machine} and PTX for what is newer: {plan.why_archs})"
    return targets


# --- setuptools commands ---


def replace(target, write):
    """Let `write` make a file beside the target, then rename it: a process that has the old one open keeps it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    write(beside)
    beside.replace(target)


def write_build_info(package, facts):
    """Write the constants by which the package knows what was built, and what was not and why."""
    lines = [f"{name} = {value!r}\n" for name, value in facts.items()]
    text = '"""What this installation was built with; written by setup.py."""\n\n' + "".join(lines)
    replace(package / "_build_info.py", lambda path: path.write_text(text))


class CleanBuild(build):
    """A build that starts from an empty staging folder, so that no deleted file comes back in a wheel."""

    def run(self):
        """Empty the staging folder, then build; ninja's objects are elsewhere and are kept."""
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class BuildPython(build_py):
    """Python sources, without what an editable build has left in the source tree."""

    def find_package_modules(self, package, package_dir):
        """List the modules of a package, except the generated one."""
        modules = super().find_package_modules(package, package_dir)
        return [module for module in modules if module[1] != "_build_info"]


class BuildNative(build_ext):
    """csrc/ into fastgan._C, and fastgan/_build_info.py beside it."""

    def run(self):
        """Build for a wheel (into build_lib) or for an editable install (into the source tree)."""
        package = Path("fastgan") if self.inplace or self.editable_mode else Path(self.build_lib, "fastgan")
        target = package / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
        toolkit, reason = choose_toolkit(os.environ)
        cxx, tried = find_cxx(os.environ)
        facts = {"CPU": False, "CUDA": False, "CUDA_ARCHS": (), "CPU_LEVELS": (), "COMPILER": "", "NVCC": ""}
        if cxx:
            if reason:
                say(f"building without CUDA: {reason}")
            plan = make_plan(os.environ, cxx, toolkit)
            say(f"compiling for {targets_of(plan)}; a first build takes minutes")
            run_ninja(plan)
            replace(target, lambda path: shutil.copy2(plan.library, path))
            facts |= {"CPU": True, "CPU_LEVELS": tuple(plan.levels), "REASON_CPU": "", "REASON_CUDA": reason}
            facts["COMPILER"] = output_of(*cxx, "--version").splitlines()[0]
            if toolkit:
                machine = tuple(f"sm_{arch}" for arch in plan.cuda_archs)
                facts |= {"CUDA": True, "CUDA_ARCHS": (*machine, f"compute_{plan.cuda_archs[-1]}")}
                facts["NVCC"] = f"{toolkit.version} ({toolkit.root})"
        else:
            missing = f"no C++ compiler when it was built; looked for: {', '.join(tried)}"
            if os.environ.get("FASTGAN_CUDA") == "1":
                raise SystemExit(f"fastgan: FASTGAN_CUDA=1, but there is {missing}")
            say(f"{missing}. This is a pure-Python install: on a CPU it runs on the reference backend only.")
            target.unlink(missing_ok=True)
            facts |= {"REASON_CPU": missing, "REASON_CUDA": missing}
        write_build_info(package, facts)


def packages():
    """List the packages: kernels/ and bench/ are part of fastgan, never packages of their own."""
    mapped = find_packages(include=["kernels", "kernels.*", "bench", "bench.*"])
    return [*find_packages(include=["fastgan", "fastgan.*"]), *(f"fastgan.{name}" for name in mapped)]


if __name__ == "__main__":
    native = Extension(
        "fastgan._C",
        sources=[path.as_posix() for path in sorted(CSRC.rglob("*")) if path.suffix in (".cpp", ".cu")],
        depends=[path.as_posix() for path in sorted(CSRC.rglob("*")) if path.suffix in (".h", ".cuh")],
    )
    commands = {"build": CleanBuild, "build_py": BuildPython, "build_ext": BuildNative}
    setup(packages=packages(), ext_modules=[native], cmdclass=commands)
