"""Spectral norm under pytest-benchmark, one backend beside the other, for work on a kernel.

`make test ARGS="tests/bench/test_speed.py --benchmark-enable"` measures; else each runs once and no time is judged.
"""

import pytest
import torch

from fastgan import functional
from fastgan.bench.cases import BIGGAN_128, SNGAN_128, SNGAN_CIFAR


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Nothing that takes time of its own."""


CASES = [SNGAN_CIFAR, *(pytest.param(case, marks=pytest.mark.slow) for case in (SNGAN_128, BIGGAN_128))]


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def layers(request, target):
    """Weights, u, v and gradients of a critic, and how to wait for its device."""
    weights = [torch.randn(layer.matrix, device=target, requires_grad=True) for layer in request.param.layers]
    us = [torch.nn.functional.normalize(torch.randn(len(w), device=target), dim=0) for w in weights]
    vs = [torch.nn.functional.normalize(torch.randn(w.shape[1], device=target), dim=0) for w in weights]
    wait = torch.cuda.synchronize if target.type == "cuda" else lambda: None
    return weights, us, vs, [torch.randn_like(w) for w in weights], wait


def test_forward(benchmark, layers):
    weights, us, vs, _, wait = layers

    def run():
        out = functional.spectral_norm(weights, us, vs)
        wait()
        return out

    assert benchmark(run).sigmas.isfinite().all()


def test_forward_and_backward(benchmark, layers):
    weights, us, vs, grads, wait = layers

    def run():
        out = torch.autograd.grad(functional.spectral_norm(weights, us, vs).weights, weights, grads)
        wait()
        return out

    assert all(grad.isfinite().all() for grad in benchmark(run))
