"""Minibatch standard deviation: the reference is the definition; the contract of an op is in contract/."""

import pytest
import torch
from samples import draw

from fastgan import functional, nn
from fastgan.reference import minibatch_stddev as reference

# Shape, group_size, num_channels: one value, parts of several sizes, one group, several slices, no channel left out.
CASES = [
    ((4, 3), 4, 1),
    ((2, 5, 3), 4, 1),
    ((6, 4, 3, 3), 3, 2),
    ((8, 7, 4, 4), None, 7),
    ((4, 6, 37, 21), 2, 2),
    ((4, 1, 33, 37), 4, 1),
    ((1, 4, 2, 2), 4, 1),
    ((0, 4, 3, 3), 4, 1),
    ((4, 2, 0, 3), 4, 1),
    ((4, 2051), 2, 1),
]
EPS = 1e-8


def defined(x, group_size, num_channels, eps=EPS):
    """As it is written in the paper, group by group."""
    group = min(group_size or x.shape[0], x.shape[0]) or 1
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    slices = [[] for _ in range(x.shape[0])]
    for m in range(x.shape[0] // group):
        for part in wide[m :: x.shape[0] // group].chunk(num_channels, 1):
            statistic = (part.var(0, correction=0) + eps).sqrt().mean()
            for g in range(group):
                slices[g * (x.shape[0] // group) + m].append(statistic.expand(x.shape[2:]))
    if not slices:
        return torch.cat([x, x.new_empty(0, num_channels, *x.shape[2:])], 1)
    return torch.cat([x, torch.stack([torch.stack(each) for each in slices]).to(x.dtype)], 1)


def gradient(function, x, dy):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(function(x), x, dy)[0]


@pytest.mark.parametrize(("shape", "group_size", "num_channels"), CASES)
def test_the_reference_is_the_definition(shape, group_size, num_channels):
    x = draw(shape)
    group = min(group_size or shape[0], shape[0]) or 1
    y = reference.forward(x, group, num_channels, EPS)
    torch.testing.assert_close(y, defined(x, group_size, num_channels), rtol=1e-12, atol=1e-12)
    if x.numel():
        dy = draw(y.shape, seed=1)
        expected = gradient(lambda x: defined(x, group_size, num_channels), x, dy)
        torch.testing.assert_close(reference.backward(dy, x, group, num_channels, EPS), expected, rtol=1e-9, atol=1e-9)


def test_samples_that_are_all_the_same(target):
    x = draw((1, 4, 3, 3), device=target).expand(4, 4, 3, 3).clone().requires_grad_()
    y = functional.minibatch_stddev(x)
    torch.testing.assert_close(y[:, 4:], torch.full_like(y[:, 4:], 1e-4))
    assert torch.equal(torch.autograd.grad(y[:, 4:].sum(), x)[0], torch.zeros_like(x))


def test_a_nan_reaches_its_group_and_slice_alone(target):
    x = draw((4, 4, 2, 2), device=target)
    x[1, 0, 0, 0] = torch.nan
    y = functional.minibatch_stddev(x, 2, 2)
    assert y[1, 4].isnan().all()
    assert y[3, 4].isnan().all()
    assert not y[:, 5].isnan().any()
    assert not y[::2].isnan().any()


def test_module():
    x = draw((4, 4, 3, 3))
    layer = nn.MinibatchStddev(2, 2)
    assert torch.equal(layer(x), functional.minibatch_stddev(x, 2, 2))
    assert repr(layer) == "MinibatchStddev(group_size=2, num_channels=2, eps=1e-08)"
    assert not layer.state_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0],), "x must be a tensor"),
        ((torch.ones(4),), r"x must be \[N, C, ...\]"),
        ((torch.ones(4, 2, dtype=torch.int64),), "x.dtype must be one of"),
        ((torch.ones(6, 2), 4), "x must have a multiple of group_size = 4 samples"),
        ((torch.ones(4, 3), 4, 2), "x must have a multiple of num_channels = 2 channels"),
        ((torch.ones(4, 0), 4), "x must have a multiple of num_channels = 1 channels"),
        ((torch.ones(4, 2), 0), "group_size must be 1 or more"),
        ((torch.ones(4, 2), 2.0), "group_size must be an int"),
        ((torch.ones(4, 2), 4, -1), "num_channels must be 1 or more"),
        ((torch.ones(4, 2), 4, 1, 0), "eps must be more than 0"),
        ((torch.ones(4, 2), 4, 1, "1"), "eps must be a number"),
    ],
)
def test_errors_name_the_argument(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        functional.minibatch_stddev(*arguments)
