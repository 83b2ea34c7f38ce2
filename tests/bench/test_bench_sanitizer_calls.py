"""The calls that compute-sanitizer watches, made on the CPU."""

import pytest
import torch

from fastgan import backends, functional
from fastgan.bench import sanitizer_calls


@pytest.fixture
def picked(monkeypatch):
    """The ops whose kernels are asked for."""
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    ops, pick = set(), backends.pick
    monkeypatch.setattr(backends, "pick", lambda op, tensor: ops.add(op) or pick(op, tensor))
    return ops


@pytest.mark.parametrize("kernel", sanitizer_calls.CALLS)
def test_calls_reach_the_kernel_and_are_legal(kernel, picked):
    sanitizer_calls.main("reference", kernel)
    assert kernel in picked
    # With Triton a call of an op that has no kernels there raises.
    assert not backends.has("triton", kernel) or all(backends.has("triton", op) for op in picked)


@pytest.mark.usefixtures("picked")
def test_every_dtype_order_and_mode_of_spectral_norm(monkeypatch):
    calls = []
    right = functional.spectral_norm

    def recorded(weights, *args, **kwargs):
        calls.append((weights[0].dtype, kwargs["order"], kwargs["training"], weights[0].storage_offset()))
        return right(weights, *args, **kwargs)

    monkeypatch.setattr(functional, "spectral_norm", recorded)
    sanitizer_calls.main("reference", "spectral_norm")
    assert len(set(calls)) == len(calls) == 4 * 2 * 2 * 2
