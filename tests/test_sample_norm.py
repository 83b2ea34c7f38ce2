"""Norms of samples: every backend against float64, torch and the contract of an op."""

import pytest
import torch
from samples import (
    DTYPES,
    KEPT,
    LAYOUTS,
    SHAPES,
    assert_as_exact,
    assert_same_bits_from_any_number_of_threads,
    computed_once,
    draw,
    layouts,
)

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


@pytest.mark.exact
@both
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_as_exact_as_torch(target, dtype, squared):
    for seed, shape in enumerate(SHAPES):
        x, dy = draw(shape, dtype, target, seed), draw(shape[:1], torch.float64, target, seed + 1)
        exact, size = x.double().cpu(), x[:1].numel()
        assert_as_exact(
            ours(x, squared), computed_once(plain, x, squared), computed_once(plain, exact, squared), n=size
        )
        dy = dy.to(plain(x, squared).dtype)
        truth = computed_once(gradient, plain, exact, dy.double().cpu(), squared)
        dx = gradient(ours, x, dy, squared)
        assert dx.dtype == dtype
        assert_as_exact(dx, computed_once(gradient, plain, x, dy, squared), truth, n=size)


@both
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(target, name, dtype, squared):
    x = layouts(draw((5, 4, 6, 8), device=target))[name].to(dtype)
    if name == "misaligned":
        x = torch.cat([x.flatten()[:1], x.flatten()])[1:].view_as(x)
        assert x.data_ptr() % 16
    dy = draw((5,), device=target).to(ours(x, squared).dtype)
    exact = x.double().cpu()
    assert_as_exact(ours(x, squared), plain(x, squared), plain(exact, squared), n=x[0].numel())
    dx = gradient(ours, x, dy, squared)
    truth = gradient(plain, exact, dy.double().cpu(), squared)
    assert_as_exact(dx, truth.to(dx), truth, n=x[0].numel())
    if name in KEPT:
        assert dx.stride() == x.stride()


@both
def test_gradcheck(target, squared):
    for shape in ((3, 2, 2), (2, 5)):
        x = draw(shape, device=target).requires_grad_()
        assert torch.autograd.gradcheck(lambda x: ours(x, squared), x)
        assert torch.autograd.gradgradcheck(lambda x: ours(x, squared), x)


@both
def test_third_derivatives_equal_torchs(target, squared):
    def derivatives(compute):
        x = draw((3, 4), device=target).requires_grad_()
        found = [compute(x, squared).pow(3).sum()]
        for _ in range(3):
            found.append(torch.autograd.grad(found[-1].sum(), x, create_graph=True)[0])
        return found

    for a, b in zip(derivatives(ours), derivatives(plain), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


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


def test_a_gradient_that_nobody_asked_for_is_not_computed(target):
    x = draw((3, 4), device=target)
    assert not functional.sample_norm(x).requires_grad
    x.requires_grad_()
    with torch.no_grad():
        assert not functional.sample_norm(x).requires_grad


def test_input_changed_before_backward_is_an_error():
    x = draw((3, 4)).requires_grad_()
    y = functional.sample_norm(x)
    with torch.no_grad():
        x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_same_bits_from_any_number_of_threads():
    x = draw((3, 70001), torch.float32)
    dy = torch.ones(3)
    assert_same_bits_from_any_number_of_threads(lambda: [ours(x, False), gradient(ours, x, dy, False)])


def test_same_bits_from_run_to_run(target):
    x = draw((2, 20000), torch.float32, target)
    assert torch.equal(functional.sample_norm(x), functional.sample_norm(x))


# --- the ways torch calls an op ---


@both
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_opcheck(target, dtype, layout, squared):
    x = draw((3, 4, 5, 2), dtype, target)
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    norms = ours(x, squared)
    torch.library.opcheck(torch.ops.fastgan.sample_norm.default, (x.requires_grad_(), squared))
    arguments = (torch.rand_like(norms), x.detach(), None if squared else norms)
    torch.library.opcheck(torch.ops.fastgan.sample_norm_backward.default, arguments)


def loss(x):
    return functional.sample_norm(x).sub(1).square().sum() + functional.sample_norm(x, squared=True).sin().sum()


@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compile(target, compiler):
    x = draw((3, 4, 5), device=target).requires_grad_()
    compiled = torch.compile(loss, fullgraph=True, backend=compiler)
    torch.testing.assert_close(compiled(x), loss(x))
    torch.testing.assert_close(torch.autograd.grad(compiled(x), x), torch.autograd.grad(loss(x), x))


class Norm(torch.nn.Module):
    def forward(self, x):
        return functional.sample_norm(x, squared=True)


def test_export(target):
    x = draw((3, 4), device=target)
    program = torch.export.export(Norm(), (x,))
    assert "fastgan.sample_norm" in str(program.graph)
    torch.testing.assert_close(program.module()(x), Norm()(x))


def test_torch_func(target):
    x = draw((3, 4), device=target)
    wanted = x.clone().requires_grad_()
    torch.testing.assert_close(torch.func.grad(loss)(x), torch.autograd.grad(loss(wanted), wanted)[0])
    twice = torch.func.grad(lambda x: torch.func.grad(loss)(x).square().sum())(x)
    (dx,) = torch.autograd.grad(loss(wanted), wanted, create_graph=True)
    torch.testing.assert_close(twice, torch.autograd.grad(dx.square().sum(), wanted)[0])


def test_vmap_is_a_longer_batch(target):
    x = draw((3, 4, 2, 5), device=target)
    for dim in (0, 2):
        y = torch.func.vmap(functional.sample_norm, in_dims=dim)(x)
        torch.testing.assert_close(y, torch.stack([functional.sample_norm(part) for part in x.unbind(dim)]))
    per_sample = torch.func.vmap(torch.func.grad(loss))(x)
    torch.testing.assert_close(per_sample[1], torch.func.grad(loss)(x[1]))


@pytest.mark.parametrize("compiled", [False, True])
def test_forward_mode_raises(compiled):
    def jvp(x):
        return torch.func.jvp(loss, (x,), (x,))

    with pytest.raises(NotImplementedError, match="forward-mode"):
        (torch.compile(jvp, backend="aot_eager") if compiled else jvp)(draw((3, 4)))


def test_autocast_changes_nothing(target):
    x = draw((3, 400), torch.float32, target).requires_grad_()
    with torch.autocast(target.type, dtype=torch.bfloat16):
        mixed = torch.autograd.grad(loss(x), x, create_graph=True)[0]
    torch.testing.assert_close(mixed, torch.autograd.grad(loss(x), x)[0])


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
