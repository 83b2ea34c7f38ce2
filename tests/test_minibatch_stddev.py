"""Minibatch standard deviation: every backend against the definition in float64, and the contract of an op."""

import pytest
import torch
from samples import (
    DTYPES,
    assert_as_exact,
    assert_same_bits_from_any_number_of_threads,
    draw,
    layouts,
)

from fastgan import decompositions, functional, nn
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


@pytest.mark.exact
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "group_size", "num_channels"), CASES)
def test_as_exact_as_torch(target, dtype, shape, group_size, num_channels):
    def ours(x):
        return functional.minibatch_stddev(x, group_size, num_channels)

    def plain(x):
        return defined(x, group_size, num_channels)

    x = draw(shape, dtype, target)
    y = ours(x)
    assert y.shape == (shape[0], shape[1] + num_channels, *shape[2:])
    assert torch.equal(y[:, : shape[1]], x)
    dy = draw(y.shape, dtype, target, 1)
    exact, exact_dy = x.double().cpu(), dy.double().cpu()
    # A deviation is a sum of distances, each off by what x is; its gradient divides them by the deviation.
    size = exact.abs().amax() if exact.numel() else 0
    count = max(x[0].numel() if len(x) else 1, 1)
    truth = plain(exact)
    assert_as_exact(y, plain(x), truth, truth.abs() + size, count)
    if x.numel():
        slopes = exact_dy[:, shape[1] :].abs().sum() + exact_dy[:, : shape[1]].abs()
        truth = gradient(plain, exact, exact_dy)
        assert_as_exact(gradient(ours, x, dy), gradient(plain, x, dy), truth, slopes.expand_as(exact), count)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["channels_last", "permuted", "batch_inside", "sliced", "misaligned", "expanded"])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_layouts(target, layout, dtype, num_channels):
    x = layouts(draw((4, 6, 5, 7), dtype, target))[layout]
    y = functional.minibatch_stddev(x, 2, num_channels)
    expected = functional.minibatch_stddev(x.contiguous(), 2, num_channels)
    torch.testing.assert_close(y, expected)
    if layout == "channels_last":
        assert y.is_contiguous(memory_format=torch.channels_last)
    dy = draw(y.shape, dtype, target, 1)
    for upstream in (dy, dy.contiguous(memory_format=torch.channels_last), dy[:, :1].expand_as(dy)):
        dx = gradient(lambda x: functional.minibatch_stddev(x, 2, num_channels), x, upstream)
        contiguous = x.contiguous()
        expected = gradient(lambda x: functional.minibatch_stddev(x, 2, num_channels), contiguous, upstream)
        torch.testing.assert_close(dx, expected)


@pytest.mark.parametrize(("shape", "group_size", "num_channels"), [((4, 2, 2), 2, 2), ((3, 2), None, 1)])
def test_gradcheck(target, shape, group_size, num_channels):
    x = draw(shape, device=target).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: functional.minibatch_stddev(x, group_size, num_channels), x)
    assert torch.autograd.gradgradcheck(lambda x: functional.minibatch_stddev(x, group_size, num_channels), x)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_same_bits_from_any_number_of_threads(dtype):
    x = draw((8, 64, 33, 17), dtype)

    def run():
        y = functional.minibatch_stddev(x, 4, 4)
        return y, gradient(lambda x: functional.minibatch_stddev(x, 4, 4), x, y)

    assert_same_bits_from_any_number_of_threads(run)


# --- the ways torch calls an op ---


@pytest.mark.parametrize("channels_last", [False, True])
def test_opcheck(target, channels_last):
    x = draw((4, 4, 3, 5), device=target)
    x = x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format).requires_grad_()
    torch.library.opcheck(torch.ops.fastgan.minibatch_stddev.default, (x, 2, 2, EPS))
    dy = draw((4, 6, 3, 5), device=target)
    torch.library.opcheck(torch.ops.fastgan.minibatch_stddev_backward.default, (dy, x.detach(), 2, 2, EPS))


def test_compile(target):
    x = draw((4, 4, 3, 5), device=target).requires_grad_()
    compiled = torch.compile(functional.minibatch_stddev, fullgraph=True, backend="aot_eager")
    results = [function(x, 2, 2) for function in (compiled, functional.minibatch_stddev)]
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*(torch.autograd.grad(y.square().sum(), x)[0] for y in results))


def test_torch_func(target):
    x = draw((3, 4, 4, 2), device=target)
    y = torch.func.vmap(lambda x: functional.minibatch_stddev(x, 2, 2))(x)
    torch.testing.assert_close(y, torch.stack([functional.minibatch_stddev(each, 2, 2) for each in x]))

    def of(x):
        return functional.minibatch_stddev(x, 2, 2).pow(3).sum()

    expected = torch.stack([torch.autograd.grad(of(each.requires_grad_()), each)[0] for each in x.detach().unbind()])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(of))(x), expected)
    with pytest.raises(NotImplementedError, match="minibatch_stddev: forward-mode"):
        torch.func.jvp(of, (x[0],), (x[0],))


def test_decomposition():
    x = draw((4, 4, 3))
    op = torch.ops.fastgan.minibatch_stddev.default
    torch.testing.assert_close(decompositions()[op](x, 2, 2, EPS), op(x, 2, 2, EPS))


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
