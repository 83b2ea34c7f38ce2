"""Interpolates and scaled samples: what only they have; the contract of an op is in contract/."""

import pytest
import torch
from samples import DTYPES, draw

from fastgan import functional

# By name: the op and how many batches it takes.
OPS = {"scale_samples": (functional.scale_samples, 1), "interpolate": (functional.interpolate, 2)}
each = pytest.mark.parametrize("op", OPS)


def inputs(op, shape, dtype=torch.float64, device="cpu"):
    batches = [draw(shape, dtype, device, seed) for seed in range(OPS[op][1])]
    return [*batches, draw(shape[:1], torch.float64, device, 9).to(torch.promote_types(dtype, torch.float32))]


@each
def test_per_sample_numbers_of_any_dtype_and_stride(target, op):
    *batches, c = inputs(op, (6, 4), torch.float32, target)
    expected = OPS[op][0](*batches, c)
    torch.testing.assert_close(OPS[op][0](*batches, c.double()), expected)
    torch.testing.assert_close(OPS[op][0](*batches, torch.stack([c, c], 1)[:, 0]), expected)
    torch.testing.assert_close(OPS[op][0](*batches, c.half()), OPS[op][0](*batches, c.half().float()))


@each
def test_samples_are_kept_only_for_the_gradient_that_reads_them(op):
    *batches, c = inputs(op, (3, 4))
    y = OPS[op][0](batches[0].requires_grad_(), *batches[1:], c)
    assert [t is None for t in y.grad_fn.saved_tensors] == [True] * len(batches) + [False]


@each
def test_non_finite_number_stays_in_its_sample(target, op):
    *batches, c = inputs(op, (3, 5000), torch.float32, target)
    batches[0][1, 7] = torch.nan
    assert OPS[op][0](*batches, c).isfinite().logical_not().sum() == 1
    c[2] = torch.inf
    assert OPS[op][0](*batches, c)[0].isfinite().all()


def test_gradients_of_both_batches_in_one_pass_are_those_that_can_be_differentiated(target):
    for shape, dtype in ((3, 70001), torch.float32), ((600, 3, 2), torch.float16), ((0, 4), torch.bfloat16):
        real, fake, eps = inputs("interpolate", shape, dtype, target)
        y, dy = functional.interpolate(real.requires_grad_(), fake.requires_grad_(), eps), draw(shape, dtype, target, 5)
        one_pass = torch.autograd.grad(y, [real, fake], dy, retain_graph=True)
        apart = [torch.autograd.grad(y, x, dy, create_graph=True)[0] for x in (real, fake)]
        assert all(map(torch.equal, one_pass, apart))


# --- random interpolates ---


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_random_interpolate_is_reproducible(target, dtype):
    real, fake = draw((50, 3), dtype, target), draw((50, 3), dtype, target, 1)
    generator = torch.Generator(target)
    first, second = (functional.random_interpolate(real, fake, generator=generator.manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, functional.random_interpolate(real, fake, generator=generator))
    exact = torch.promote_types(dtype, torch.float32)
    eps = torch.rand(50, dtype=exact, device=target, generator=generator.manual_seed(3))
    assert torch.equal(first, functional.interpolate(real, fake, eps))
    torch.manual_seed(3)
    drawn = torch.rand(50, dtype=exact, device=target)
    torch.manual_seed(3)
    assert torch.equal(functional.random_interpolate(real, fake), functional.interpolate(real, fake, drawn))


def test_random_interpolate_differentiates_both(target):
    real, fake = (draw((5, 3), device=target, seed=i).requires_grad_() for i in range(2))
    d_real, d_fake = torch.autograd.grad(functional.random_interpolate(real, fake).sum(), (real, fake))
    torch.testing.assert_close(d_real + d_fake, torch.ones_like(real))
    assert ((d_real >= 0) & (d_real < 1)).all()


@pytest.mark.parametrize("fake_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("real_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("autocast", [False, True])
def test_dtypes_are_promoted_as_torch_does(target, autocast, real_dtype, fake_dtype):
    dtype = torch.promote_types(real_dtype, fake_dtype)
    real, fake = draw((5, 3, 4), real_dtype, target), draw((5, 3, 4), fake_dtype, target, 1)
    eps = draw((5,), torch.float64, target, 2).to(torch.promote_types(dtype, torch.float32))
    real.requires_grad_(), fake.requires_grad_(), eps.requires_grad_()
    with torch.autocast(target.type, dtype=torch.bfloat16, enabled=autocast):
        y = functional.interpolate(real, fake, eps)
        drawn = functional.random_interpolate(real, fake, generator=torch.Generator(target).manual_seed(3))
    assert y.dtype == drawn.dtype == dtype
    assert torch.equal(y, functional.interpolate(real.to(dtype), fake.to(dtype), eps))
    uniform = torch.rand(5, dtype=eps.dtype, device=target, generator=torch.Generator(target).manual_seed(3))
    assert torch.equal(drawn, functional.interpolate(real.to(dtype), fake.to(dtype), uniform))
    dreal, dfake, deps = torch.autograd.grad(y.double().square().sum(), (real, fake, eps))
    assert (dreal.dtype, dfake.dtype, deps.dtype) == (real_dtype, fake_dtype, eps.dtype)


# --- bad input ---

X, C = torch.ones(3, 4), torch.ones(3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: functional.scale_samples([1.0], C), TypeError, "x must be a tensor, got list"),
        (lambda: functional.scale_samples(X.int(), C), TypeError, "x.dtype must be one of .*, got torch.int32"),
        (lambda: functional.scale_samples(X, 2.0), TypeError, "c must be a tensor, got float 2.0"),
        (lambda: functional.scale_samples(X, C.int()), TypeError, "c.dtype must be one of"),
        (
            lambda: functional.scale_samples(X, C[:2]),
            ValueError,
            r"c must be \[3\], one number per sample, got",
        ),
        (
            lambda: functional.scale_samples(X, C.to("meta")),
            ValueError,
            "c must be on the device of x, cpu, got",
        ),
        (
            lambda: functional.interpolate(X, X[:2], C),
            ValueError,
            r"fake must have the shape of real, \[3, 4\]",
        ),
        (
            lambda: functional.interpolate(X, X.to("meta"), C),
            ValueError,
            "fake must be on the device of real, cpu, got",
        ),
        (lambda: functional.interpolate(X, X.int(), C), TypeError, "fake.dtype must be one of .*, got torch.int32"),
        (lambda: functional.random_interpolate(X, 1.0), TypeError, "fake must be a tensor, got float 1.0"),
        (lambda: functional.interpolate(X, X, X), ValueError, r"eps must be \[3\], one number per sample"),
        (lambda: functional.random_interpolate(C[0], X), ValueError, r"real must be \[N, ...\] with one or more"),
        (lambda: functional.random_interpolate(X, C), ValueError, "fake must have the shape of real"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
