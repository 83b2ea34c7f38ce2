"""fastgan.nn.utils.spectral_norm is torch's parametrization: keys, random numbers, values, derivatives, errors."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from fastgan.nn.utils import spectral_norm

MODULES = {
    "Linear": lambda: nn.Linear(5, 4),
    "Conv1d": lambda: nn.Conv1d(3, 4, 3),
    "Conv2d": lambda: nn.Conv2d(3, 4, 3),
    "Conv2d channels_last": lambda: nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last),
    "Conv3d": lambda: nn.Conv3d(3, 4, 3),
    "ConvTranspose1d": lambda: nn.ConvTranspose1d(3, 4, 3),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(3, 4, 3),
    "ConvTranspose2d channels_last": lambda: nn.ConvTranspose2d(3, 4, 3).to(memory_format=torch.channels_last),
    "ConvTranspose3d": lambda: nn.ConvTranspose3d(3, 4, 3),
    "Embedding": lambda: nn.Embedding(7, 4),
    "LayerNorm": lambda: nn.LayerNorm(4),
    "complex Linear": lambda: nn.Linear(5, 4, dtype=torch.complex128),
}


def pair(make, **arguments):
    """The module made with torch's function and with ours, from the same random numbers."""
    made = []
    for norm in (parametrizations.spectral_norm, spectral_norm):
        torch.manual_seed(0)
        made.append(norm(make(), **arguments))
        made[-1].after = torch.rand(2)
    return made


def assert_same(theirs, ours):
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def assert_same_state(theirs, ours):
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert_same(dict(theirs.state_dict()), dict(ours.state_dict()))


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
@pytest.mark.parametrize("arguments", [{}, {"n_power_iterations": 3, "eps": 1e-3}, {"dim": -1}], ids=str)
def test_start_reads_gradients_and_eval(make, arguments):
    theirs, ours = pair(make, **arguments)
    # As many random numbers were drawn.
    assert torch.equal(theirs.after, ours.after)
    assert_same_state(theirs, ours)
    for training in (True, True, False, True):
        weights = []
        for module in (theirs, ours):
            module.train(training)
            weight = module.weight
            module.zero_grad()
            (weight * weight.detach().exp()).sum().abs().backward()
            weights.append(weight)
        assert_same(*weights)
        assert weights[0].stride() == weights[1].stride()
        assert_same(*(module.parametrizations.weight.original.grad for module in (theirs, ours)))
        assert_same_state(theirs, ours)


def test_second_derivatives():
    results = []
    for module in pair(lambda: nn.ConvTranspose2d(3, 4, 3)):
        original = module.parametrizations.weight.original
        (gradient,) = torch.autograd.grad(module.weight.pow(3).sum(), original, create_graph=True)
        results.append((gradient, *torch.autograd.grad(gradient.square().sum(), original)))
    assert_same(*results)


def test_two_forwards_before_one_backward():
    gradients = []
    for module in pair(lambda: nn.Linear(5, 4)):
        x = torch.ones(2, 5)
        (module(x).square().sum() + module(x * 2).sum()).backward()
        gradients.append(module.parametrizations.weight.original.grad)
    assert_same(*gradients)


def test_the_op_computes_it(op_calls):
    module = spectral_norm(nn.Linear(5, 4))
    op_calls.clear()
    module(torch.ones(1, 5))
    assert op_calls == [1]


def test_buffers_are_updated_in_place():
    module = spectral_norm(nn.Linear(5, 4))
    buffers = dict(module.named_buffers())
    before = {name: (value.data_ptr(), value.clone()) for name, value in buffers.items()}
    module(torch.ones(1, 5))
    for name, value in module.named_buffers():
        assert value is buffers[name]
        assert value.data_ptr() == before[name][0]
        assert not torch.equal(value, before[name][1])


def test_assignment_removal_and_copies():
    theirs, ours = pair(lambda: nn.Linear(5, 4))
    for module in (theirs, ours):
        with torch.no_grad():
            module.weight = torch.linspace(-1, 1, 20).view(4, 5)
    assert_same(theirs.weight, ours.weight)
    assert_same(copy.deepcopy(theirs).weight, copy.deepcopy(ours).weight)
    for module in (theirs, ours):
        parametrize.remove_parametrizations(module, "weight")
    assert_same_state(theirs, ours)


def test_another_name():
    theirs, ours = pair(lambda: nn.GRUCell(3, 4), name="weight_hh")
    assert_same_state(theirs, ours)
    assert_same(theirs(torch.ones(2, 3)), ours(torch.ones(2, 3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype):
    module = spectral_norm(nn.Linear(64, 32, dtype=dtype))
    exact = parametrizations.spectral_norm(nn.Linear(64, 32))
    exact.load_state_dict(module.state_dict())
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(module.weight, exact.weight.to(dtype), rtol=2 * eps, atol=2 * eps)


def test_empty_weights_are_torchs():
    with pytest.warns(UserWarning, match="zero-element"):
        theirs, ours = pair(lambda: nn.Linear(0, 4))
    assert_same(theirs(torch.ones(2, 0)), ours(torch.ones(2, 0)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "kernel"}, ValueError, "name must be a parameter or a buffer of Linear, got 'kernel'"),
        ({"n_power_iterations": 0}, ValueError, "n_power_iterations to be positive"),
        ({"dim": 2}, IndexError, "Dimension out of range"),
    ],
)
def test_bad_arguments_raise_what_torch_raises(arguments, error, message):
    with pytest.raises(error):
        parametrizations.spectral_norm(nn.Linear(5, 4), **arguments)
    with pytest.raises(error, match=message):
        spectral_norm(nn.Linear(5, 4), **arguments)
