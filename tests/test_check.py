"""What a refusal says: the argument, what came in a few words, and what is accepted."""

import inspect
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import fastgan
from fastgan import check, functional, penalty
from first_calls import first_call
from public_ops import FUNCTIONS

LARGE = torch.arange(10_000.0).view(100, 100)
# What no message may show.
VALUES = [
    LARGE,
    [LARGE] * 50,
    {"x": LARGE},
    LARGE.numpy(),
    "x" * 10_000,
    list(range(10_000)),
    10**5000,
    (LARGE, [LARGE]),
]
VALUES += [nn.Sequential(*[nn.Linear(2, 2)] * 50), object(), np.float32(3), b"b" * 5000, {1, 2}, torch.float32, type]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_is_described_in_a_line(value):
    for text in (check.describe(value), check.short(value)):
        assert len(text) < 600
        assert "\n" not in text
    assert type(value).__name__ in check.describe(value) or isinstance(value, torch.Tensor)
    if isinstance(value, torch.Tensor):
        assert check.describe(value) == "torch.float32 [100, 100] on cpu"


def test_a_value_that_cannot_be_shown():
    class Broken:
        def __repr__(self):
            raise RuntimeError("no")

    assert "Broken" in check.describe(Broken())


X = torch.ones(2, 4, 6, 6)
W = torch.ones(4, 4, 3, 3)
OTHERS = {
    "setup_filter": (functional.setup_filter, {"f": [1, 2, 1]}),
    "accelerate": (fastgan.accelerate, {"ops": "all"}),
    "backend": (fastgan.backend, {"name": "cpu"}),
    **{kind.__name__: (kind, {}) for kind in (penalty.R1, penalty.WGANGP, penalty.DRAGAN, penalty.MaxGradient)},
}
# torch's convolutions are refused by torch, in its own words.
OURS = [name for name in FUNCTIONS if getattr(functional, name).__module__ != "fastgan.convolution.plain"]


@pytest.mark.parametrize("name", [*OURS, *OTHERS])
def test_refusals_are_short(name):
    """Whatever an argument is, no message shows its values."""
    function, good = OTHERS.get(name) or first_call(name)
    left = {"device", "generator"}  # torch's own, and what it says of them
    if name == "setup_filter":
        left.add("f")  # takes nearly everything
    names = [n for n, p in inspect.signature(function).parameters.items() if p.kind is not p.VAR_POSITIONAL]
    for argument in set(names) - left:
        for value in VALUES:
            message = refusal(function, {**good, argument: value})
            assert len(message) < 1000, (argument, message[:3000])
            assert "tensor(" not in message, (argument, message)


def refusal(function, arguments):
    """What it says; nothing if it runs."""
    try:
        if function is fastgan.accelerate:
            function(nn.Linear(2, 2), **arguments)
        elif function is fastgan.backend:
            with function(**arguments):
                pass
        else:
            function(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        return str(error)
    return ""


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("number", [np.float16, np.float32, np.float64, np.int64, Fraction, int])
def test_numbers_of_other_kinds_are_taken(number):
    expected = functional.bias_act(X, act="lrelu", alpha=0.0, gain=2.0, clamp=1.0)
    assert functional.bias_act(X, act="lrelu", alpha=number(0), gain=number(2), clamp=number(1)).equal(expected)


@pytest.mark.parametrize("value", [np.float32("inf"), np.float16("nan"), 10**400])
def test_what_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match="gain must be finite"):
        functional.bias_act(X, gain=value)


# By the dtype of x; b has the one that is computed in: what converts another is torch, which crashes.
EMPTY = {
    "bias_act": lambda x, b: functional.bias_act(x, b),
    "upfirdn2d_bias_act": lambda x, b: functional.upfirdn2d_bias_act(x, None, b),
    "scale_shift_act, scale": lambda x, b: functional.scale_shift_act(x, b, None),
    "scale_shift_act, shift": lambda x, b: functional.scale_shift_act(x, None, b),
    "norm_act, weight": lambda x, b: functional.norm_act(x, b),
    "norm_act, bias": lambda x, b: functional.norm_act(x, None, b),
    "pixel_shuffle_act": lambda x, b: functional.pixel_shuffle_act(x, b),
    "scale_samples": lambda x, b: functional.scale_samples(x.transpose(0, 1).contiguous(), b),
    "interpolate": lambda x, b: functional.interpolate(
        x.transpose(0, 1).contiguous(), x.transpose(0, 1).contiguous(), b
    ),
}


@pytest.mark.parametrize("name", EMPTY)
@pytest.mark.parametrize("dtype", check.DTYPES, ids=str)
def test_a_storage_that_is_empty_is_refused(name, dtype):
    numbers = torch.ones(4, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    numbers.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"tensor \[4\] has no memory: its storage is empty"):
        EMPTY[name](X.to(dtype), numbers)


@pytest.mark.parametrize(
    "function", [functional.sample_norm, functional.bias_act, functional.norm_act, functional.pixel_shuffle_act]
)
def test_an_x_whose_storage_is_empty_is_refused(function):
    x = torch.ones(2, 4, 6, 6)
    x.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"tensor \[2, 4, 6, 6\] has no memory"):
        function(x)


def test_a_weight_whose_storage_is_empty_is_refused():
    weight = W.clone()
    weight.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"tensor \[4, 4, 3, 3\] has no memory"):
        functional.spectral_norm([W, weight], [torch.ones(4)] * 2, [torch.ones(36)] * 2)
