"""Tests of fastgan.fusion run tiny networks, in float64, in which all chains run as one however small they are."""

import pytest
import torch

from fastgan.convolution import choice
from fastgan.fusion import double_backward
from fastgan.fusion.chains import elementwise
from fastgan.ops import resample


@pytest.fixture(autouse=True)
def float64():
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(dtype)


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch):
    """The rule of what pays is not what is tested here."""
    monkeypatch.setattr(elementwise, "_too_small", lambda x, least: "")
    monkeypatch.setattr(double_backward, "LEAST_WORK", 0)
    monkeypatch.setattr(double_backward, "POINTWISE_PIXELS", 0)
    monkeypatch.setattr(resample, "LEAST", 0)
    monkeypatch.setattr(choice, "LEAST_WORK", 0)
    monkeypatch.setattr(choice, "FOLDED_PIXELS", 0)
    monkeypatch.setattr(choice, "FOLDED_CHANNELS", {True: 0, False: 0})


@pytest.fixture(params=[True, False], ids=["with gradients", "without"])
def grad(request):
    """Inside or outside of torch.no_grad."""
    with torch.set_grad_enabled(request.param):
        yield request.param
