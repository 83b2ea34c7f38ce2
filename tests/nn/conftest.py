"""Tests of the group run one script on torch's own layers and on grouped ones, and compare all that can be seen."""

import sys

import pytest
import torch
from nn_mixins import biggan, mimicry
from samples import seeded
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as torch_hook

from fastgan.nn.utils import group_spectral_norm, spectral_norm

STYLES = {
    "torch hook": (torch_hook, torch_hook),
    "torch parametrization": (parametrizations.spectral_norm, parametrizations.spectral_norm),
    "fastgan": (parametrizations.spectral_norm, spectral_norm),
    "BigGAN": (biggan, biggan),
    "mimicry": (mimicry, mimicry),
}


class Critic(nn.Module):
    """Every kind of layer; `extra` is used on demand."""

    def __init__(self, norm):
        super().__init__()
        self.body = nn.Sequential(norm(nn.Conv2d(3, 6, 3)), nn.LeakyReLU(0.2), norm(nn.ConvTranspose2d(6, 4, 3, 2)))
        self.embed = norm(nn.Embedding(5, 4))
        self.head = norm(nn.Linear(4, 1), n_power_iterations=2)
        self.extra = norm(nn.Linear(4, 4))

    def forward(self, x, *, extra_uses=0):
        h = self.body(x).relu().mean((2, 3))
        for _ in range(extra_uses):
            h = h + self.extra(h).relu()
        return self.head(h).squeeze(1) + (self.embed(torch.arange(len(x)) % 5) * h).sum(1)


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
    module = sys.modules["fastgan.nn.utils.spectral_norm"]
    compute = module._op.spectral_norm
    calls = []

    def counting(weights, *args):
        calls.append(len(weights))
        return compute(weights, *args)

    monkeypatch.setattr(module._op, "spectral_norm", counting)
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
