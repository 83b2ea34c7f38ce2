"""The command `fastgan`, its grammar, and a benchmark from end to end."""

import json
import subprocess
import sys

import pytest

from fastgan.cli import COMMANDS, main


@pytest.fixture
def tiny_bench(monkeypatch):
    """`fastgan bench` with one small case in each op and no time to spend."""
    from fastgan.bench import cli, spectral_norm, timing, training_step
    from fastgan.bench.cases import Case, Layer

    tiny = Case("tiny", (Layer("linear", (4, 6)), Layer("conv2d", (3, 2, 3, 3))), "made up")
    monkeypatch.setattr(spectral_norm, "CRITICS", (tiny,))
    monkeypatch.setattr(training_step, "CASES", {"step": training_step.Case(width=4, width_g=4, channels=1, batch=2)})
    ops = [
        spectral_norm.OP._replace(cases={"tiny": "two layers"}, quick=("tiny",)),
        training_step.OP._replace(cases={"step": "one step"}, quick=("step",)),
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


@pytest.mark.parametrize("argv", [[], ["sing"]])
def test_no_such_command(argv, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    assert "command" in capsys.readouterr().err


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

    for document in (readme, tmp_path / "bench" / "README.md"):
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
        (["report", "absent.json"], "absent.json"),
        (["report", "--readme", "absent/README.md"], "there is no result file in absent/bench/results"),
        (["compare", "absent.json", "absent.json"], "absent.json"),
    ],
)
def test_bench_says_what_is_wrong_with_its_arguments(argv, message, capsys):
    assert main(["bench", *argv]) == 1
    assert message in capsys.readouterr().err
