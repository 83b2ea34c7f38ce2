"""The three weight gradients of the benchmark are one, and one that is not is not timed."""

import pytest
import torch

from fastgan.bench.registry import OPS
from fastgan.bench.results import Report
from fastgan.bench.runner import Settings, run
from fastgan.bench.steps import weight_gradient
from fastgan.bench.timing import Budget


def measure(case, monkeypatch):
    monkeypatch.setattr("fastgan.bench.runner.COPY_BYTES", {"cpu": 1 << 16})
    monkeypatch.setattr(weight_gradient, "CHANNELS", {size: {"cpu": 3} for size in weight_gradient.CHANNELS})
    budget = Budget(warmup=0, rounds=1, most=1, seconds=0)
    report = Report({})
    run(OPS["weight_gradient"], case, Settings(torch.device("cpu"), ["reference"], False, budget), report)
    return report


OURS = "fastgan efficient_convolutions (reference)"


@pytest.mark.parametrize("case", ["conv3x3-16-fp32", "conv3x3-32-fp32", "conv3x3-16-bf16"])
def test_contenders_agree(case, monkeypatch):
    report = measure(case, monkeypatch)
    assert not report.failed, report.not_run
    assert {r.contender for r in report.results} == {weight_gradient.BASELINE, "torch, ordinary", OURS}
    assert all(r.error < (1e-5 if case.endswith("fp32") else 1e-2) for r in report.results)


def test_wrong_gradient_is_not_timed(monkeypatch):
    right = weight_gradient._double_backward

    def wrong(g, h, w):
        y, dy = right(g, h, w)
        return y, dy * (1.001 if type(y.grad_fn).__name__.startswith("_Input") else 1)

    monkeypatch.setattr(weight_gradient, "_double_backward", wrong)
    report = measure("conv3x3-16-fp32", monkeypatch)
    assert OURS not in {r.contender for r in report.results}
    assert report.failed
