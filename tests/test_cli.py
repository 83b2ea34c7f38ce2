"""The command `fastgan`, its grammar, and a benchmark from end to end."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastgan
from fastgan import _build_info
from fastgan.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]
RESULT, LICENSE = ROOT / "bench" / "results" / "cpu-codebases.json", ROOT / "LICENSE"


@pytest.fixture
def tiny_bench(monkeypatch):
    """`fastgan bench` with one small case in each op and no time to spend."""
    from fastgan.bench import cli, timing
    from fastgan.bench.cases import Case, Layer
    from fastgan.bench.ops import spectral_norm
    from fastgan.bench.steps import training_step

    tiny = Case("tiny", (Layer("linear", (4, 6)), Layer("conv2d", (3, 2, 3, 3))), "made up")
    monkeypatch.setattr(spectral_norm, "CRITICS", (tiny,))
    monkeypatch.setattr(training_step, "CASES", {"step": training_step.Case(width=4, width_g=4, channels=1, batch=2)})
    ops = [
        cli.OPS["spectral_norm"]._replace(cases={"tiny": "two layers"}, quick=("tiny",)),
        cli.OPS["training_step"]._replace(cases={"step": "one step"}, quick=("step",)),
    ]
    monkeypatch.setattr(cli, "OPS", {op.name: op for op in ops})
    monkeypatch.setattr(timing, "QUICK", timing.Budget(warmup=1, rounds=2, most=2, seconds=0))
    monkeypatch.setattr("fastgan.bench.runner.COPY_BYTES", {"cpu": 1 << 16})


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert all(f"    {name} " in text for name in COMMANDS)


def test_without_a_command_it_is_the_help(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: fastgan [-h] [--version]")
    assert all(f"    {name} " in text for name in COMMANDS)


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"fastgan {fastgan.__version__}\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["sing"], "invalid choice: 'sing' (choose from"),
        (["--sing"], "unrecognized arguments: --sing"),
        (["patch", "psp", "extra"], "unrecognized arguments: extra"),
        (["doctor", "extra"], "unrecognized arguments: extra"),
        (["bench", "list", "extra"], "unrecognized arguments: extra"),
        (["bench", "run", "--op", "nonsense"], "argument --op: invalid choice: 'nonsense' (choose from"),
        (["bench", "run", "--backend", "gpu"], "argument --backend: invalid choice: 'gpu' (choose from"),
        (["bench", "plot", "file.json"], "the following arguments are required: --out"),
    ],
)
def test_words_that_no_command_takes(argv, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("usage: fastgan")
    assert message in said


# --- as a program: pipes, signals, the environment ---

PROGRAM = (sys.executable, "-c", "import sys; from fastgan.cli import main; sys.exit(main())")


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--help"],
        ["--version"],
        ["bench", "list"],
        ["patch", "--list"],
        ["doctor"],
        ["train", "--help"],
        ["sample", "--help"],
    ],
)
def test_a_reader_that_leaves_ends_it_quietly(argv):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as output:
        done = subprocess.run([*PROGRAM, *argv], stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    assert done.stderr == ""
    # argparse takes no notice of it where Python does not buffer its output.
    assert done.returncode in (0, 141)


def test_a_reader_that_leaves_during_training_ends_it_quietly():
    code = "import sys; from fastgan.train import cli; cli.train = lambda *_: 'x'\n" + PROGRAM[2]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as output:
        command = [sys.executable, "-c", code, "train", "images", "--data", "digits"]
        done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")


def test_an_interrupt_ends_it_without_a_traceback(monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("fastgan.doctor.run", interrupted)
    assert main(["doctor"]) == 130
    assert capsys.readouterr() == ("", "fastgan: interrupted\n")


def test_ctrl_c_in_a_measurement(tmp_path):
    """The results before it are in the file."""
    file = tmp_path / "results.json"
    command = [*PROGRAM, "bench", "run", "--op", "spectral_norm", "--quick", "--json", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        while "measuring" not in running.stderr.readline():
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=120)
    assert (running.returncode, out) == (130, "")
    assert err.endswith("fastgan: interrupted\n")
    assert "Traceback" not in err
    assert json.loads(file.read_text())["format"] == 1


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("FASTGAN_BACKEND", "no backend 'nope'; there are cuda, triton, cpu, reference\n"),
        ("FASTGAN_CPU_LEVEL", "level 'nope' is not compiled, or this processor does not have it; there are "),
    ],
)
def test_a_choice_in_the_environment_that_does_not_exist_is_named(variable, message):
    if variable == "FASTGAN_CPU_LEVEL" and not _build_info.CPU:
        pytest.skip(_build_info.REASON_CPU)
    env = os.environ | {variable: "nope"}
    done = subprocess.run([*PROGRAM, "doctor"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"fastgan: {variable}: {message}")
    assert done.stderr.count("\n") == 1


BROKEN = {
    "fastgan._build_info": "this is fastgan's source tree and it is not installed",
    "fastgan._C": "fastgan's compiled part cannot be loaded: ",
    "torch": "No module named 'torch'",
}


@pytest.mark.parametrize("module", BROKEN)
def test_an_installation_that_is_broken_is_named(module):
    if module == "fastgan._C" and not _build_info.CPU:
        pytest.skip(_build_info.REASON_CPU)
    code = f"""
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Broken())
import fastgan
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"Error: {BROKEN[module]}" in done.stderr.splitlines()[-1]


def test_doctor_needs_no_extra():
    code = (
        "import sys\n"
        "from fastgan.cli import main\n"
        "status = main(['doctor'])\n"
        "extras = {'PIL', 'sklearn', 'safetensors', 'fastgan.train'} & set(sys.modules)\n"
        "sys.exit(f'imported {extras}' if extras else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_bench_list(capsys):
    assert main(["bench", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "spectral_norm" in lines
    assert any(line.startswith("  biggan-128") and "87.97 M weights" in line for line in lines)


@pytest.mark.usefixtures("tiny_bench")
def test_bench_runs_and_reports(tmp_path, capsys):
    file, readme = tmp_path / "bench" / "results" / "here.json", tmp_path / "README.md"
    assert main(["bench", "run", "--quick", "--device", "cpu", "--json", str(file)]) == 0
    assert "fastgan grouped (" in capsys.readouterr().out
    measured = json.loads(file.read_text())
    assert {r["case"] for r in measured["results"]} == {"tiny", "step"}
    assert measured["environment"]["torch"]

    assert main(["bench", "report", str(file)]) == 0
    assert "spectral_norm / tiny / forward / eager" in capsys.readouterr().out
    assert main(["bench", "compare", str(file), str(file)]) == 0
    assert "no difference" in capsys.readouterr().out

    for document in (readme, tmp_path / "docs" / "benchmarks.md"):
        document.parent.mkdir(exist_ok=True)
        document.write_text("<!-- bench:spectral_norm -->\n<!-- /bench -->\n")
        assert main(["bench", "report", "--readme", str(document)]) == 0
        assert "| tiny, forward |" in document.read_text()

    picture = tmp_path / "speed.svg"
    assert main(["bench", "plot", str(file), "--out", str(picture)]) == 0
    assert "<svg" in picture.read_text()


@pytest.mark.usefixtures("tiny_bench")
def test_plain_bench_is_a_quick_run(capsys):
    assert main(["bench", "--device", "cpu", "--op", "spectral_norm", "--backend", "reference"]) == 0
    text = capsys.readouterr().out
    assert "fastgan functional (reference)" in text
    assert "step" not in text


@pytest.mark.usefixtures("tiny_bench")
def test_bench_exits_1_when_something_is_wrong(monkeypatch, capsys):
    from fastgan import backends
    from fastgan.reference import spectral_norm as reference

    ok, reason = backends.available()["cpu"]
    if not ok:
        pytest.skip(reason)
    right = reference.backward
    monkeypatch.setattr(
        "fastgan.native.spectral_norm.backward", lambda *args: [1.01 * dw for dw in right(*args)], raising=True
    )
    assert main(["bench", "--device", "cpu", "--op", "spectral_norm", "--backend", "cpu"]) == 1
    assert "wrong: its relative error is" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["run", "--suite", "nothing"], "--suite nothing: there are "),
        (["run", "--peer", "stylegan3=absent"], "--peer stylegan3=absent: absent is not a folder"),
        (["run", "--json", "/proc/absent/file.json"], "/proc/absent"),
        (["report", "absent.json"], "absent.json"),
        (["report", str(RESULT), "--readme", str(LICENSE)], "found no '<!-- bench:OP -->'"),
        (["report", str(LICENSE)], "LICENSE is not a fastgan result file: "),
        (["compare", str(RESULT), str(LICENSE)], "LICENSE is not a fastgan result file: "),
        (["plot", str(LICENSE), "--out", "absent/x.png"], "LICENSE is not a fastgan result file: "),
        (["plot", str(RESULT), "--out", "absent"], "absent: expected a file such as speed.png, .svg or .pdf"),
        (["plot", str(RESULT), "--out", "absent.such"], "Format 'such' is not supported"),
        (["report", "--readme", "absent/README.md"], "there is no result file in absent/bench/results"),
        (["compare", "absent.json", "absent.json"], "absent.json"),
    ],
)
def test_bench_says_what_is_wrong_with_its_arguments(argv, message, capsys):
    assert main(["bench", *argv]) == 1
    said = capsys.readouterr().err
    assert said.startswith("fastgan bench: ")
    assert message in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here: nothing is unavailable")
def test_bench_runs_nothing_that_is_not_available(monkeypatch, capsys):
    for argv in (["--device", "cuda"], ["--backend", "cuda"]):
        assert main(["bench", "run", *argv]) == 1
    monkeypatch.setenv("FASTGAN_BACKEND", "cuda")
    assert main(["bench"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "fastgan bench: --device cuda: torch sees no CUDA device"
    assert said[1].startswith("fastgan bench: --backend cuda: it is not available: ")
    assert said[2].startswith("fastgan bench: FASTGAN_BACKEND cuda: it is not available: ")


def test_plot_without_matplotlib(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["bench", "plot", str(RESULT), "--out", str(tmp_path / "x.png")]) == 1
    assert capsys.readouterr().err == "fastgan bench: plots need matplotlib: pip install matplotlib\n"
