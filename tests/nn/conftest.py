"""Tests of the group run one script on torch's own layers and on grouped ones, and compare all that can be seen."""

import sys

import pytest
import torch
from nn_critic import STYLES, Critic
from samples import seeded

from fastgan.nn.utils import group_spectral_norm


@pytest.fixture(autouse=True)
def float64_on_one_thread():
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)


@pytest.fixture
def x():
    return torch.randn(4, 3, 8, 8, generator=seeded(1))


@pytest.fixture(params=STYLES)
def style(request):
    return request.param


@pytest.fixture
def op_calls(monkeypatch):
    """The number of layers in each call of the op."""
    module = sys.modules["fastgan.spectral.parametrization"]
    compute = module._op.normalized
    calls = []

    def counting(weights, *args):
        calls.append(len(weights))
        return compute(weights, *args)

    monkeypatch.setattr(module._op, "normalized", counting)
    return calls


@pytest.fixture
def same(style, op_calls):
    """Runs script(model) on a plain and on a grouped model, compares, and returns the op's calls of the latter."""

    def run(script, make=Critic, group=group_spectral_norm, tolerance=1e-12):
        seen = []
        for norm, prepare in zip(STYLES[style], (lambda model: None, group), strict=True):
            torch.manual_seed(0)
            model = make(norm)
            prepare(model)
            op_calls.clear()
            result = script(model)
            grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            seen.append((result, grads, dict(model.state_dict())))
        plain, grouped = seen
        torch.testing.assert_close(grouped, plain, rtol=tolerance, atol=tolerance)
        return list(op_calls)

    return run
