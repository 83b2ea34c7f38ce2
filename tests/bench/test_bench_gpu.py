"""bench/gpu.sh without a GPU: its parts, their order and limits, and what becomes of one that hangs or fails."""

import importlib.util
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from fastgan.bench import penalty_paths, sanitizer_calls
from fastgan.bench.registry import SUITES
from fastgan.cli import main

BENCH = Path(__file__).parents[2] / "bench"

# Stands for Python: notes what it is asked for, then passes, fails or hangs as the test says.
PYTHON = """#!/bin/sh
echo "$*" >> "$FAKES/calls"
case "$*" in
  *available*) echo cuda triton; exit 0 ;;
  *penalty_paths*) echo "dcgan-r1   linearized: the critic is piecewise linear" ;;
  *'-m pytest'*) echo "3 passed, 1 skipped in 2.00s" ;;
esac
for word in $HANGS; do
  case " $* " in *" $word "*)
    trap '' INT
    sleep 300 &
    echo $! >> "$FAKES/pids"
    echo "before it hung"
    wait; sleep 300 ;;
  esac
done
for word in $FAILS; do
  case "$*" in *"$word"*) echo "it broke"; exit 3 ;; esac
done
json=$(echo "$*" | sed -n 's/.*--json //p')
[ -z "$json" ] || echo "{}" > "$json"
"""


@pytest.fixture
def gpu():
    """The module bench/gpu.py, which is no part of the package: it runs before there is one."""
    spec = importlib.util.spec_from_file_location("bench_gpu", BENCH / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """A folder at the front of PATH with an nvidia-smi that sees an H200 twice, and a compute-sanitizer."""
    folder = tmp_path / "fakes"
    folder.mkdir()
    programs = {"nvidia-smi": "echo 9.0\necho 9.0\n", "python": PYTHON}
    programs["compute-sanitizer"] = 'while [ "$1" != "$FAKES/python" ]; do shift; done\nexec "$@"\n'
    for name, text in programs.items():
        program = folder / name
        program.write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKES", str(folder))
    for name in ("HANGS", "FAILS"):
        monkeypatch.setenv(name, "")
    return folder


@pytest.fixture
def run(gpu, fakes, tmp_path, monkeypatch):
    """`run(*arguments, seconds=...)`: the status, and the lines of the summary."""
    monkeypatch.setattr(gpu, "python", lambda *words: [str(fakes / "python"), *words])
    out = tmp_path / "out"

    def ran(*arguments, seconds=780):
        monkeypatch.setenv("FASTGAN_GPU_SECONDS", str(seconds))
        status = gpu.main([str(out), *arguments])
        return status, (out / "summary.txt").read_text().splitlines()

    return ran


def parts(summary):
    """name -> the rest of its line."""
    return dict(line.split(maxsplit=1) for line in summary if not line.startswith(" "))


@pytest.mark.parametrize("seconds", [780, 570, 100])
def test_limits_are_within_the_whole(fakes, tmp_path, seconds):
    env = os.environ | {"FASTGAN_GPU_SECONDS": str(seconds)}
    command = ["bash", BENCH / "gpu.sh", "--dry-run", tmp_path / "nowhere"]
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    planned = dict(re.findall(r"^(\w+) (\d+) s$", said, re.MULTILINE))
    assert list(planned) == ["build", "doctor", "tests", "ops", "compile", "steps", "sanitize"]
    assert sum(map(int, planned.values())) <= min(seconds, 13 * 60)
    assert all(int(limit) > 0 for limit in planned.values())
    assert not (tmp_path / "nowhere").exists()


def test_the_build_without_cuda_is_within_them_too(gpu):
    assert sum(part.limit for part in gpu.PARTS.values()) + gpu.WITHOUT_CUDA.limit <= gpu.SECONDS == 13 * 60


def test_all_parts_in_their_order(gpu, run, fakes, tmp_path):
    status, summary = run()
    assert status == 0
    assert list(parts(summary)) == list(gpu.PARTS)
    assert all(text.startswith("passed in ") for text in parts(summary).values())
    assert "           | dcgan-r1   linearized: the critic is piecewise linear" in summary
    assert summary.count("           | 3 passed, 1 skipped in 2.00s") == 2
    calls = (fakes / "calls").read_text()
    marks = ["setup.py", "available", "doctor", "not triton-cuda", "ops.json", "compile.json", "penalty_paths"]
    marks += ["steps.json", "sanitizer_calls cuda"]
    assert [calls.index(mark) for mark in marks] == sorted(calls.index(mark) for mark in marks)
    # What comes back from a machine that is lent: eight files at most, side by side.
    files = sorted(path.name for path in (tmp_path / "out").rglob("*"))
    logs = ["bench.log", "build.log", "sanitizer.log", "summary.txt", "tests.log"]
    assert files == sorted([*logs, "compile.json", "ops.json", "steps.json"])


@pytest.mark.usefixtures("fakes")
def test_builds_for_the_architecture_that_is_here_alone(gpu):
    archs, reason = gpu.architectures()
    assert not reason
    (command,) = gpu.build(gpu.Machine(archs, Path()))
    assert command.env == {"FASTGAN_CUDA": "1", "FASTGAN_CUDA_ARCHS": "90"}


def test_a_part_that_hangs_is_cut_and_the_rest_runs(gpu, run, fakes, monkeypatch):
    """Though it takes no notice of an interrupt and has a child of its own."""
    monkeypatch.setenv("HANGS", "pytest")
    monkeypatch.setitem(gpu.PARTS, "tests", gpu.PARTS["tests"]._replace(limit=2))
    start = time.monotonic()
    status, summary = run(seconds=780)
    assert time.monotonic() - start < 150  # it would hang for twice as long
    assert status == 1
    found = parts(summary)
    assert list(found) == list(gpu.PARTS)
    assert found.pop("tests").startswith("2 of 2 FAILED in ")
    assert re.search(r"tests of cuda: stopped after \d s", "\n".join(summary))
    assert "           tests of triton: not run: no time left" in summary
    assert "           | before it hung" in summary
    assert all(text.startswith("passed") for text in found.values())
    for pid in (fakes / "pids").read_text().split():
        assert not Path("/proc", pid).exists() or "Z" in Path("/proc", pid, "stat").read_text()


@pytest.mark.parametrize(
    "part", ["doctor", "numprocesses", "/ops.json", "/compile.json", "/steps.json", "sanitizer_calls"]
)
def test_a_part_that_fails_stops_no_other(gpu, run, part, monkeypatch):
    monkeypatch.setenv("FAILS", part)
    status, summary = run()
    assert status == 1
    assert list(parts(summary)) == list(gpu.PARTS)
    failed = [name for name, text in parts(summary).items() if "FAILED" in text]
    assert len(failed) == 1
    assert any(line.endswith(": status 3") for line in summary)


def test_what_could_not_start_is_a_failure(run, fakes):
    (fakes / "compute-sanitizer").unlink()
    status, summary = run("sanitize")
    assert status == 1
    assert list(parts(summary)) == ["build", "sanitize"]
    assert "No such file or directory: 'compute-sanitizer'" in "\n".join(summary)


def test_without_a_cuda_build_triton_is_tried(run, fakes, monkeypatch):
    monkeypatch.setenv("FAILS", "setup.py")
    status, summary = run("doctor")
    assert status == 1
    assert list(parts(summary)) == ["build", "without", "doctor"]
    assert parts(summary)["doctor"].startswith("passed")
    assert (fakes / "calls").read_text().count("setup.py") == 2


def test_without_a_device_it_says_so(gpu, run, fakes):
    (fakes / "nvidia-smi").write_text("#!/bin/sh\necho 'No devices were found'; exit 6\n")
    status, summary = run()
    assert status == 1
    assert list(parts(summary)) == list(gpu.PARTS)
    assert all(text.startswith("not run: nvidia-smi: ") for text in parts(summary).values())
    assert not (fakes / "calls").exists()


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        ([], {}, "the following arguments are required: OUTDIR"),
        (["out", "nothing"], {}, "no part nothing: there are build, doctor, tests"),
        (["out"], {"FASTGAN_GPU_SECONDS": "ten"}, "FASTGAN_GPU_SECONDS=ten: expected a whole number"),
    ],
)
def test_a_wrong_call(gpu, arguments, variables, message, monkeypatch, capsys):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stopped:
        gpu.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


# --- what the parts name exists ---


def test_every_op_is_measured_at_two_sizes():
    for suite, ops in SUITES.items():
        for op in ops:
            assert set(op.gpu) <= set(op.cases)
            if op.name != "codebases":  # measured on a CPU alone
                assert len(set(op.gpu)) == 2 or (suite == "steps" and len(set(op.gpu)) > 2), op.name


@pytest.mark.parametrize("part", ["ops", "compile", "steps"])
def test_what_a_part_measures(gpu, part, monkeypatch, tmp_path):
    """Every case that is for a GPU, and no other: its command is run on the CPU, with nothing measured."""
    found = []
    monkeypatch.setattr("fastgan.bench.cli.run_op", lambda op, case, *_: found.append((op.name, case)))
    *_, command = gpu.PARTS[part].commands(gpu.Machine((), tmp_path, backends=("reference",)))
    words = ["cpu" if word == "cuda" else word for word in command.words]
    assert main(words[words.index("bench") :]) == 0
    suites = ["steps"] if part == "steps" else ["ops", "layers"]
    assert found == [(op.name, case) for suite in suites for op in SUITES[suite] for case in op.gpu]
    assert (tmp_path / f"{part}.json").exists()


def test_every_kernel_is_sanitized(gpu):
    sources = [*(BENCH.parent / "csrc" / "cuda").glob("*.cu*"), *(BENCH.parent / "kernels").glob("*.py")]
    text = "\n".join(path.read_text() for path in sources)
    kernels = set(re.findall(r"(?:__global__[^;{]*?|def )(\w+_kernel)\(", text))
    assert len(kernels) > 20
    names = {*gpu.kernels("cuda"), *gpu.kernels("triton")}
    assert [kernel for kernel in kernels if not any(name in kernel for name in names)] == []
    assert names == set(sanitizer_calls.CALLS)


def test_ways_of_the_penalty(monkeypatch, capsys):
    monkeypatch.setattr(penalty_paths, "CASES", ("r3gan-step", "no-such-case"))
    assert penalty_paths.main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{'r3gan-step':24} linearized: the critic is piecewise linear"
    assert lines[1].startswith(f"{'no-such-case':24} FAILED: KeyError: ")
    assert lines[2].startswith("on c")
