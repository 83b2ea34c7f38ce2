"""The contenders of the gradient penalty's benchmark compute the same gradient, and one that does not is not timed."""

from functools import partial

import pytest
import torch
from torch import nn

from fastgan.bench.registry import OPS
from fastgan.bench.results import Report
from fastgan.bench.runner import Settings, run
from fastgan.bench.steps import gradient_penalty
from fastgan.bench.timing import Budget

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Every case with a small critic and two images, and the benchmark's own draws, which no test seed changes.

    A draw for so small a critic may be all kinks: plain PyTorch in bfloat16 is then off by as much as the gradient.
    """
    monkeypatch.setattr(torch, "manual_seed", torch.random.manual_seed)
    torch.random.manual_seed(0)
    sizes = {
        gradient_penalty.dcgan: {"width": 4},
        gradient_penalty.r3gan: {"widths": (4, 8, 8, 8), "cardinality": 4},
        gradient_penalty.Discriminator: {"width": 4},
    }
    cases = {
        name: case._replace(
            critic=partial(case.critic, **sizes[getattr(case.critic, "func", case.critic)]), batch={"cpu": 2}
        )
        for name, case in gradient_penalty.CASES.items()
    }
    monkeypatch.setattr(gradient_penalty, "CASES", cases)
    monkeypatch.setattr("fastgan.bench.runner.COPY_BYTES", {"cpu": 1 << 16})


def measure(case, compiled=False):
    settings = Settings(CPU, ["reference"], compiled, Budget(warmup=0, rounds=1, most=1, seconds=0))
    report = Report({})
    run(OPS["gradient_penalty"], case, settings, report)
    return report


@pytest.mark.parametrize("case", gradient_penalty.CASES)
def test_contenders_agree(case):
    report = measure(case)
    assert not report.failed, report.not_run
    ours = {f"fastgan {way} (reference)" for way in ("accelerate", *gradient_penalty.CASES[case].engines)}
    assert {r.contender for r in report.results} == {*gradient_penalty.CASES[case].plain, *ours}
    bf16 = gradient_penalty.CASES[case].bf16
    assert all(1e-4 < r.error < 0.5 if bf16 else r.error < 1e-5 for r in report.results)


@pytest.mark.slow
def test_compiled_contender_agrees():
    report = measure("dcgan-r1", compiled=True)
    assert "torch.compile" in {r.contender for r in report.results}, report.not_run


def test_wrong_gradient_is_not_timed(monkeypatch):
    right = gradient_penalty.penalized_loss

    def wrong(*args, penalties, **kwargs):
        return right(*args, penalties=[gradient_penalty.R1(10 * p.gamma) for p in penalties], **kwargs)

    monkeypatch.setattr(gradient_penalty, "penalized_loss", wrong)
    report = measure("dcgan-r1")
    assert {r.contender for r in report.results} == {"separate", "shared forward", "fastgan accelerate (reference)"}
    assert report.failed


def test_gradient_counts_what_no_loss_reached():
    model = nn.Linear(2, 1)
    model.weight.grad = torch.ones(1, 2)
    assert gradient_penalty._gradient(model).tolist() == [1, 1, 0]
