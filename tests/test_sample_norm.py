"""Norms of samples: what only they have; the contract of an op is in contract/."""

import pytest
import torch
from samples import draw

from fastgan import functional
from fastgan.reference import sample_norm as reference

both = pytest.mark.parametrize("squared", [False, True], ids=["norm", "squared"])


def plain(x, squared):
    """What codebases write, in the dtype that the result has."""
    flat = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32).reshape(len(x), x[:1].numel())
    return flat.square().sum(1) if squared else torch.linalg.vector_norm(flat, dim=1)


def gradient(compute, x, dy, squared):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(compute(x, squared), x, dy)[0]


def ours(x, squared):
    return functional.sample_norm(x, squared=squared)


@both
def test_zero_samples_have_finite_derivatives(target, squared):
    """The subgradient of torch.linalg.vector_norm; torch's second derivative is NaN there."""
    x = draw((3, 40), torch.float32, target)
    x[1] = 0
    x.requires_grad_()
    (dx,) = torch.autograd.grad(ours(x, squared).sub(1).square().sum(), x, create_graph=True)
    (ddx,) = torch.autograd.grad(dx.square().sum(), x)
    assert (dx[1] == 0).all()
    assert ddx.isfinite().all()
    torch.testing.assert_close(dx, gradient(plain, x, 2 * (plain(x, squared) - 1), squared))


@both
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_non_finite_number_stays_in_its_sample(target, bad, squared):
    for shape in ((70, 3), (3, 1000), (3, 9000)):
        x = draw(shape, torch.float32, target)
        x[1, -1] = bad
        x.requires_grad_()
        y = ours(x, squared)
        (dx,) = torch.autograd.grad(y.sum(), x)
        expected = torch.arange(len(x), device=target) != 1
        assert torch.equal(y.isfinite(), expected)
        assert torch.equal(dx.isfinite().all(1) & dx[:, -1].isfinite(), expected)


def test_input_changed_before_backward_is_an_error():
    x = draw((3, 4)).requires_grad_()
    y = functional.sample_norm(x)
    with torch.no_grad():
        x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (3.0, TypeError, "x must be a tensor, got float 3.0"),
        (
            torch.ones(()),
            ValueError,
            r"x must be \[N, ...\] with one or more dimensions, got torch.float32 \[\] on cpu",
        ),
        (torch.ones(2, dtype=torch.int32), TypeError, "x.dtype must be one of torch.float64, .*, got torch.int32"),
    ],
)
def test_bad_input(x, error, message):
    with pytest.raises(error, match=message):
        functional.sample_norm(x)


def test_reference_is_finite_at_zero():
    norms, x = torch.zeros(2, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
    dx = reference.backward(torch.ones(2), x, norms)
    assert all(g.isfinite().all() for g in torch.autograd.grad(dx.sum(), (norms, x)))
