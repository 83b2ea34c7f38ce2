"""Equality before time: with contenders that are right, wrong or broken."""

from dataclasses import replace

import pytest
import torch

from fastgan import backends
from fastgan.bench.cases import Case, Layer
from fastgan.bench.ops import spectral_norm
from fastgan.bench.registry import OPS
from fastgan.bench.results import Report
from fastgan.bench.runner import Settings, copy_bandwidth, run
from fastgan.bench.timing import Budget, wall_timer
from fastgan.bench.workload import Contender, Op, Workload, relative_error

CPU = torch.device("cpu")
SETTINGS = Settings(CPU, ["reference"], compiled=False, budget=Budget(warmup=1, rounds=3, most=3, seconds=0))


def measure(contenders, monkeypatch, settings=SETTINGS, **changes):
    """The report on a workload with these contenders, the first of which is the baseline."""
    monkeypatch.setattr("fastgan.bench.runner.COPY_BYTES", {"cpu": 1 << 16})
    values = {
        "baseline": "torch",
        "contenders": contenders,
        "skipped": {"absent": "left out"},
        "modes": ("forward",),
        "moved_bytes": {"forward": 1000},
        "baseline_bound": 1e-6,
        "rounding": 1e-7,
    }
    op = Op("op", {"case": "a case"}, ("case",), lambda *_: Workload(**{**values, **changes}))
    report = Report({})
    run(op, "case", settings, report)
    return report


class Fake:
    """A contender that counts its calls."""

    def __init__(self, error):
        self.error, self.calls = error, 0

    def __call__(self):
        return Contender({"forward": self.run}, lambda run: (run(), self.error)[1])

    def run(self):
        self.calls += 1


def test_right_contenders_are_timed(monkeypatch):
    report = measure({"fastgan": Fake(3e-7), "torch": Fake(1e-7)}, monkeypatch)
    assert [(r.contender, r.rounds, r.error) for r in report.results] == [("torch", 3, 1e-7), ("fastgan", 3, 3e-7)]
    assert [r.ratio is None for r in report.results] == [True, False]
    assert all(r.gb_per_s > 0 and r.floor_share > 0 for r in report.results)
    assert [(n.contender, n.reason) for n in report.not_run] == [("absent", "left out")]
    assert not report.failed


@pytest.mark.parametrize("error", [3.1e-7, float("inf")])
def test_wrong_result_is_never_timed(error, monkeypatch):
    wrong = Fake(error)
    report = measure({"torch": Fake(1e-7), "fastgan": wrong}, monkeypatch)
    assert [r.contender for r in report.results] == ["torch"]
    assert "wrong: its relative error is" in report.not_run[1].reason
    assert report.failed
    # One call to look at the result, one to look at the memory; none by a timer.
    assert wrong.calls <= 2


def test_wrong_result_of_something_else_is_reported_and_no_fault_of_ours(monkeypatch):
    report = measure({"torch": Fake(1e-7), "torch.compile": Fake(1.0), "fastgan": Fake(1e-7)}, monkeypatch)
    assert [r.contender for r in report.results] == ["torch", "fastgan"]
    assert not report.failed


def test_nothing_is_timed_against_a_wrong_baseline(monkeypatch):
    report = measure({"torch": Fake(1e-3), "fastgan": Fake(1e-7)}, monkeypatch)
    assert report.results == []
    assert report.failed


@pytest.mark.parametrize("stage", ["build", "run"])
def test_contender_that_raises_is_reported(stage, monkeypatch):
    def raises(*_):
        raise RuntimeError("it broke\nand a trace")

    broken = raises if stage == "build" else lambda: Contender({"forward": raises}, lambda run: run())
    report = measure({"torch": Fake(1e-7), "fastgan": broken}, monkeypatch)
    assert [r.contender for r in report.results] == ["torch"]
    assert report.not_run[1].reason == "RuntimeError: it broke"
    assert report.failed


def test_on_cuda_graphs_are_measured_beside_eager_and_may_be_refused(monkeypatch):
    def captured(run, _):
        if run.__self__ is refusing:
            raise RuntimeError("cannot be captured")
        return run

    fakes = {
        "captured": captured,
        "copy_bandwidth": lambda _: 1e9,
        "peak_bytes": lambda *_: 5,
        "timer_for": lambda *_: wall_timer,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(f"fastgan.bench.runner.{name}", fake)
    refusing = Fake(1e-7)
    settings = replace(SETTINGS, device=torch.device("cuda"))
    report = measure({"torch": Fake(1e-7), "fastgan": refusing}, monkeypatch, settings)
    measured = [(r.contender, r.execution, r.peak_bytes) for r in report.results]
    assert measured == [("torch", "eager", 5), ("fastgan", "eager", 5), ("torch", "graph", None)]
    assert ("forward, graph", "RuntimeError: cannot be captured") in [(n.mode, n.reason) for n in report.not_run]
    assert not report.failed


def test_a_backend_without_the_ops_kernels_is_not_measured(monkeypatch):
    """And it is no failure: the op is computed by another one."""
    monkeypatch.setattr("fastgan.bench.runner.COPY_BYTES", {"cpu": 1 << 16})
    given = []

    def workload(case, device, names, compiled):
        given.extend(names)
        return Workload("torch", {"torch": Fake(0)}, {}, ("forward",), {}, 1e-6, 1e-7)

    kernels = {"sample_norm": None, "absent_in_triton": None}
    monkeypatch.setattr(backends, "has", lambda name, op: (name, op) != ("triton", "absent_in_triton"))
    report, settings = Report({}), replace(SETTINGS, backends=["triton", "reference"])
    run(Op("op", {"case": "a case"}, ("case",), workload, kernels=kernels), "case", settings, report)
    assert given == ["reference"]
    assert [(n.contender, n.reason) for n in report.not_run] == [("fastgan (triton)", "it has no absent_in_triton")]
    assert not report.failed


def test_no_bytes_no_bandwidth(monkeypatch):
    report = measure({"torch": Fake(1e-7)}, monkeypatch, moved_bytes={})
    assert (report.results[0].gb_per_s, report.results[0].floor_share) == (None, None)


def test_copy_bandwidth_is_positive(monkeypatch):
    monkeypatch.setattr("fastgan.bench.runner.COPY_BYTES", {"cpu": 1 << 16})
    assert copy_bandwidth(CPU) > 0


def test_relative_error():
    expected = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert relative_error(torch.tensor([3.0, 4.5]), expected) == pytest.approx(0.1)
    assert relative_error(torch.tensor([3.0, float("nan")]), expected) == float("inf")
    assert relative_error(torch.tensor([3.0]), expected) == float("inf")


@pytest.fixture
def tiny(monkeypatch):
    layers = (Layer("conv2d", (6, 3, 3, 3)), Layer("linear", (1, 6)), Layer("embedding", (5, 6)))
    monkeypatch.setattr(spectral_norm, "CRITICS", (Case("tiny", layers, "made up"),))
    monkeypatch.setattr("fastgan.bench.runner.COPY_BYTES", {"cpu": 1 << 16})


def test_spectral_norm_contenders_agree(tiny):
    available = [name for name, (ok, _) in backends.available().items() if ok and name != "triton"]
    settings = Settings(CPU, available, compiled=False, budget=SETTINGS.budget)
    report = Report({})
    run(OPS["spectral_norm"], "tiny", settings, report)
    assert [n.contender for n in report.not_run] == ["torch.compile"]
    # Per mode: torch's two styles, and two of ours per backend.
    assert len(report.results) == 2 * (2 + 2 * len(available))
    assert {r.backend for r in report.results} == {None, *available}


def test_spectral_norm_that_is_wrong_is_not_timed(tiny, monkeypatch):
    right = spectral_norm.fastgan.functional.spectral_norm

    def wrong(*args, **kwargs):
        result = right(*args, **kwargs)
        return result._replace(weights=[1.001 * weight for weight in result.weights])

    monkeypatch.setattr(spectral_norm.fastgan.functional, "spectral_norm", wrong)
    report = Report({})
    run(OPS["spectral_norm"], "tiny", SETTINGS, report)
    timed = {r.contender for r in report.results}
    assert {"torch parametrization", "torch hook"} <= timed
    assert "fastgan functional (reference)" not in timed
    assert report.failed


def test_every_case_is_compiled_anew(monkeypatch):
    """One process measures many cases: none may find another one's symbolic sizes, or that torch has given up."""
    compilations = []

    def compiler(graph, inputs):
        compilations.append([t.shape for t in inputs if isinstance(t, torch.Tensor)])
        return graph.forward

    def double(x):
        return x * 2

    sizes = range(3, 13)
    for size in sizes:

        def contender(x=torch.ones(size)):  # noqa: B008
            compiled = torch.compile(double, backend=compiler)
            return Contender({"forward": lambda: compiled(x)}, lambda run: float((run() - 2).abs().max()))

        measure({"torch": contender}, monkeypatch, replace(SETTINGS, compiled=True))
    assert compilations == [[torch.Size([size])] for size in sizes]
