"""Build, check and measure fastgan on a machine with a CUDA device, the most useful part first; needs no network.

    bench/gpu.sh [--dry-run] OUTDIR [PART...]

Each part has a limit of its own, 780 seconds together, and its results are written when it ends: a line or more in
OUTDIR/summary.txt, its output in a log, its measurements in a result file. What a part leaves of its time is the next
ones', as far as their limits go. No part stops the next one; without a CUDA build Triton is still tried.
FASTGAN_GPU_SECONDS takes less, in the same proportions: 570, say, for a call that may take ten minutes.

Needs python3 (3.11 or later) with torch, numpy, pybind11, ninja, setuptools, pytest, pytest-xdist, pytest-benchmark,
filelock and hypothesis; nvcc for the build; compute-sanitizer for the last part. Nothing is installed: the build is in
build/gpu. FASTGAN_COMMIT goes into the results of a tree without .git. The exit status is 1 if a part failed.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
BUILT = ROOT / "build" / "gpu"
# The source tree has packages of these names too, which are not built.
USES_BUILD = {"PYTHONPATH": str(BUILT), "PYTHONSAFEPATH": "1"}
SECONDS = 780
WORKERS = min(8, os.cpu_count() or 1)
FAILURES_NAMED = 12

# By backend where its kernels are: of an op the file of its name.
SOURCES = {"cuda": "csrc/cuda/{}.cu", "triton": "kernels/{}.py"}
# What finds most comes first.
CHECKS = (
    ("memcheck", "cuda"),
    ("racecheck", "cuda"),
    ("memcheck", "triton"),
    ("initcheck", "cuda"),
    ("synccheck", "cuda"),
)


class Command(NamedTuple):
    """What a part runs: a label, the words, more variables, and how many of its last lines the summary quotes."""

    label: str
    words: Sequence[str]
    env: Mapping[str, str] = MappingProxyType({})
    quoted: int = 0


class Machine(NamedTuple):
    """Where it runs: the devices' architectures, where the results go, and what the build has."""

    archs: tuple[str, ...]
    out: Path
    backends: tuple[str, ...] = ("cuda", "triton")


class Part(NamedTuple):
    """A part: its limit in seconds, its log, what it runs, and how much of that at once."""

    about: str
    limit: int
    log: str
    commands: Callable[[Machine], list[Command]]
    workers: int = 1


# --- the parts ---


def python(*words: str) -> list[str]:
    """A command of the Python that runs this."""
    return [sys.executable, *words]


def build(machine: Machine) -> list[Command]:
    """The kernels for the devices that are here, and nothing else."""
    env = {"FASTGAN_CUDA": "1", "FASTGAN_CUDA_ARCHS": ";".join(machine.archs)}
    return [Command("build", python("setup.py", "--quiet", "build", "--build-lib", str(BUILT)), env, 1)]


def build_without_cuda(_: Machine) -> list[Command]:
    """Python alone: what Triton needs."""
    words = python("setup.py", "--quiet", "build", "--build-lib", str(BUILT))
    return [Command("build without CUDA", words, {"FASTGAN_CUDA": "0", "CXX": "none"})]


def doctor(_: Machine) -> list[Command]:
    """One checked call of each backend."""
    return [Command("doctor", python("-m", "fastgan.cli", "doctor"), quoted=7)]


def tests(_: Machine) -> list[Command]:
    """The CUDA backend first, then Triton."""
    words = ["-m", "pytest", "-q", "-m", "gpu and not slow", "--numprocesses", str(WORKERS), "--dist", "worksteal"]
    words += ["--maxfail", "40", "-p", "no:cacheprovider", "--color", "no", "-k"]
    chosen = {"cuda": "not triton-cuda and not reference-cuda", "triton": "triton-cuda"}
    return [Command(f"tests of {name}", python(*words, expression), quoted=1) for name, expression in chosen.items()]


def bench(machine: Machine, file: str, suites: Sequence[str], *options: str) -> Command:
    """The cases that are for a GPU, on every backend that there is."""
    words = ["-m", "fastgan.cli", "bench", "run", "--quick", "--gpu-cases", "--device", "cuda", *options]
    words += [word for name in machine.backends for word in ("--backend", name)]
    words += [word for suite in suites for word in ("--suite", suite)]
    return Command(file, python(*words, "--json", str(machine.out / file)))


def ops(machine: Machine) -> list[Command]:
    """Every op at two sizes, eager and as a graph."""
    return [bench(machine, "ops.json", ("ops", "layers"), "--no-compile")]


def compiled(machine: Machine) -> list[Command]:
    """The same with torch.compile, which takes much longer to get ready."""
    return [bench(machine, "compile.json", ("ops", "layers"), "--compile")]


def steps(machine: Machine) -> list[Command]:
    """Penalties and whole steps."""
    paths = Command("ways of the penalty", python("-m", "fastgan.bench.penalty_paths"), quoted=12)
    return [paths, bench(machine, "steps.json", ("steps",), "--no-compile")]


def kernels(backend: str) -> list[str]:
    """The ops that have kernels of their own for a backend; the names of these kernels hold the op's."""
    names = sorted(path.stem for path in (ROOT / "fastgan" / "ops").glob("[!_]*.py"))
    return [name for name in names if (ROOT / SOURCES[backend].format(name)).exists()]


def sanitize(_: Machine) -> list[Command]:
    """Every tool over every kernel, each in a process of its own."""
    commands = []
    # Without torch's cache every tensor is an allocation of its own, with an end that can be overrun.
    env = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    for tool, backend in CHECKS:
        for kernel in kernels(backend):
            words = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9"]
            words += ["--target-processes", "application-only", "--kernel-regex", f"kns={kernel}"]
            words += python("-m", "fastgan.bench.sanitizer_calls", backend, kernel)
            commands.append(Command(f"{tool} of {backend}, {kernel}", words, env))
    return commands


PARTS = {
    "build": Part("csrc/ for the architectures that are here; always, before what is named", 120, "build.log", build),
    "doctor": Part("one checked call of each backend", 45, "build.log", doctor),
    "tests": Part("the tests that need a GPU, in parallel", 165, "tests.log", tests),
    "ops": Part("every op at two sizes against eager PyTorch, eager and as a CUDA graph", 100, "bench.log", ops),
    "compile": Part("the same against torch.compile", 130, "bench.log", compiled),
    "steps": Part("which way the penalty goes for each critic, and whole steps", 110, "bench.log", steps),
    "sanitize": Part("compute-sanitizer over every kernel, in parallel", 100, "sanitizer.log", sanitize, WORKERS),
}
WITHOUT_CUDA = Part("Python alone", 10, "build.log", build_without_cuda)


# --- running them ---


class Outcome(NamedTuple):
    """What became of a command: None, or why it failed; what it printed."""

    command: Command
    failure: str | None
    said: str


def run_command(command: Command, deadline: float, folder: Path) -> Outcome:
    """Run a command until the deadline at the latest, and all that it has started.

    Some time before, it is interrupted: pytest and the benchmarks then say what they found.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        return Outcome(command, "not run: no time left", "")
    env = os.environ | USES_BUILD | {"PYTHONUNBUFFERED": "1"} | {**command.env}
    with tempfile.TemporaryFile("w+", dir=folder, errors="replace") as output:
        try:
            running = subprocess.Popen(
                command.words, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return Outcome(command, str(error), "")
        grace = min(8.0, left / 4)
        failure = None
        for signal_, seconds in ((signal.SIGINT, left - grace), (signal.SIGKILL, grace)):
            try:
                if status := running.wait(timeout=max(seconds, 0)):
                    failure = failure or f"status {status}"
                break
            except subprocess.TimeoutExpired:
                failure = f"stopped after {left:.0f} s"
                os.killpg(running.pid, signal_)
        running.wait()
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)  # what it has started
        output.seek(0)
        return Outcome(command, failure, output.read())


def run_part(name: str, part: Part, machine: Machine, seconds: float) -> bool:
    """Run a part's commands, write its log and its lines of the summary, and say whether all went well."""
    start = time.monotonic()
    print(f"== {name}: at most {seconds:.0f} s", flush=True)
    with ThreadPoolExecutor(part.workers) as pool, tempfile.TemporaryDirectory() as folder:
        commands = part.commands(machine)
        outcomes = list(pool.map(lambda command: run_command(command, start + seconds, Path(folder)), commands))
    failures = [f"{outcome.command.label}: {outcome.failure}" for outcome in outcomes if outcome.failure]
    with (machine.out / part.log).open("a") as log:
        for command, failure, said in outcomes:
            log.write(f"== {command.label}: {failure or 'passed'}\n{shlex.join(command.words)}\n{said}\n")
    took = f"{time.monotonic() - start:.0f} s, see {part.log}"
    verdict = f"{len(failures)} of {len(outcomes)} FAILED" if failures else "passed"
    lines = [f"{name:10} {verdict} in {took}"]
    lines += [f"           {failure}" for failure in failures[:FAILURES_NAMED]]
    lines += ["           ..."] * (len(failures) > FAILURES_NAMED)
    for command, _, said in outcomes:
        last = [line for line in said.splitlines() if line.strip()][-command.quoted :] if command.quoted else []
        lines += [f"           | {line}" for line in last]
    note(machine, *lines)
    return not failures


def note(machine: Machine, *lines: str) -> None:
    """Print lines, and add them to the summary."""
    text = "".join(f"{line}\n" for line in lines)
    print(text, end="", flush=True)
    with (machine.out / "summary.txt").open("a") as summary:
        summary.write(text)


def limits(names: Sequence[str], total: float) -> dict[str, float]:
    """The seconds of each part where none leaves anything: its own limit, or its share of the time."""
    share = min(1.0, total / sum(PARTS[name].limit for name in names))
    return {name: share * PARTS[name].limit for name in names}


def run_all(names: Sequence[str], machine: Machine, total: float) -> bool:
    """Run parts one after the other, and say whether all went well."""
    end, well = time.monotonic() + total, True
    for i, name in enumerate(names):
        # The time that an earlier part left is shared again.
        seconds = limits(names[i:], end - time.monotonic())[name]
        passed = run_part(name, PARTS[name], machine, seconds)
        if name == "build":
            if not passed:
                run_part("without", WITHOUT_CUDA, machine, min(WITHOUT_CUDA.limit, end - time.monotonic()))
            # Where there is none the benchmarks say why.
            machine = machine._replace(backends=backends() or machine.backends)
        well = well and passed
    return well


def architectures() -> tuple[tuple[str, ...], str]:
    """Those of the devices that are here, such as 90, and why there are none."""
    words = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        said = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return (), f"nvidia-smi: {error}"
    archs = sorted({line.strip().replace(".", "") for line in said.splitlines()} - {""}, key=int)
    return tuple(archs), "" if archs else "nvidia-smi names no device"


def backends() -> tuple[str, ...]:
    """The GPU backends of the build that can run here."""
    code = "from fastgan.backends import available as a; print(*(n for n in ('cuda', 'triton') if a()[n].ok))"
    env = os.environ | USES_BUILD
    try:
        done = subprocess.run(
            python("-c", code), cwd=ROOT, env=env, capture_output=True, text=True, timeout=30, check=True
        )
    except subprocess.SubprocessError:
        return ()
    return tuple(done.stdout.split())


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for; 1 if a part failed."""
    about = "\n".join(f"  {name:9} {part.limit:4} s  {part.about}" for name, part in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="bench/gpu.sh",
        description=__doc__.partition("\n")[0],
        epilog=f"parts, in this order:\n{about}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", metavar="OUTDIR", type=Path, help="where the results go")
    parser.add_argument("parts", metavar="PART", nargs="*", help="parts to run (all of them)")
    parser.add_argument("--dry-run", action="store_true", help="print the parts, their limits and their commands")
    args = parser.parse_args(argv)
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    seconds = os.environ.get("FASTGAN_GPU_SECONDS", str(SECONDS))
    if not seconds.isdecimal() or not int(seconds):
        parser.error(f"FASTGAN_GPU_SECONDS={seconds}: expected a whole number of seconds")
    names = [name for name in PARTS if name == "build" or not args.parts or name in args.parts]
    archs, reason = architectures()
    machine = Machine(archs, args.out.resolve())
    if args.dry_run:
        for name, limit in limits(names, int(seconds)).items():
            print(f"{name} {limit:.0f} s")
            print(*(f"  {shlex.join(command.words)}" for command in PARTS[name].commands(machine)), sep="\n")
        return 0
    machine.out.mkdir(parents=True, exist_ok=True)
    if reason:
        note(machine, *(f"{name:10} not run: {reason}" for name in names))
        return 1
    return 0 if run_all(names, machine, int(seconds)) else 1


if __name__ == "__main__":
    sys.exit(main())
