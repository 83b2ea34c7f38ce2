"""Kinds of penalties against their formulas, written with loops over samples."""

import math

import pytest
import torch
from samples import seeded

from fastgan.penalty.kinds import DRAGAN, R1, R2, WGANGP, MaxGradient, ZeroCentered

SHAPE = (4, 3, 5, 6)


def norms(g):
    return [math.sqrt(sum(e * e for e in sample.flatten().tolist())) for sample in g]


def pixel_norms(g):
    return [math.sqrt(sum(e * e for e in g[n, :, i, j].tolist())) for n in range(4) for i in range(5) for j in range(6)]


def mean(values):
    values = list(values)
    return sum(values) / len(values)


VALUES = {
    "r1": (R1(), lambda g: 5 * mean(n**2 for n in norms(g))),
    "r1 gamma": (R1(gamma=0.3), lambda g: 0.15 * mean(n**2 for n in norms(g))),
    "r2": (R2(3), lambda g: 1.5 * mean(n**2 for n in norms(g))),
    "wgan_gp": (WGANGP(), lambda g: 10 * mean((n - 1) ** 2 for n in norms(g))),
    "wgan_gp center": (WGANGP(2.0, 0.5), lambda g: 2 * mean((n - 0.5) ** 2 for n in norms(g))),
    "wgan_gp one-sided": (
        WGANGP(center=9.5, one_sided=True),
        lambda g: 10 * mean(max(0, n - 9.5) ** 2 for n in norms(g)),
    ),
    "wgan_gp pixel": (WGANGP(norm="pixel"), lambda g: 10 * mean((n - 1) ** 2 for n in pixel_norms(g))),
    "wgan_gp pixel one-sided": (
        WGANGP(norm="pixel", one_sided=True),
        lambda g: 10 * mean(max(0, n - 1) ** 2 for n in pixel_norms(g)),
    ),
    "zero_centered": (ZeroCentered(), lambda g: 10 * mean(n**2 for n in norms(g))),
    "max_gradient": (MaxGradient(), lambda g: max(n**2 for n in norms(g))),
    "dragan": (DRAGAN(7.0, center=2.0), lambda g: 7 * mean((n - 2) ** 2 for n in norms(g))),
}
KINDS = {penalty.name: penalty for penalty in (R1(), R2(), WGANGP(), ZeroCentered(), MaxGradient(), DRAGAN())}


@pytest.mark.parametrize("name", VALUES)
def test_value(name):
    penalty, formula = VALUES[name]
    g = torch.randn(SHAPE, dtype=torch.float64, generator=seeded(0))
    value = penalty.value(g)
    assert name.split()[0] == penalty.name
    assert value.shape == ()
    assert value.item() == pytest.approx(formula(g), rel=1e-10)


@pytest.mark.parametrize("name", VALUES)
def test_derivative(name):
    penalty, _ = VALUES[name]
    g = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(penalty.value, g)


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_zero_gradients_are_finite(name, dtype):
    penalty, formula = VALUES[name]
    g = torch.zeros(SHAPE, dtype=dtype, requires_grad=True)
    value = penalty.value(g)
    value.backward()
    assert value.item() == pytest.approx(formula(g))
    assert torch.equal(g.grad, torch.zeros_like(g))


@pytest.mark.parametrize("penalty", KINDS.values(), ids=KINDS)
def test_nan_is_not_hidden(penalty):
    g = torch.ones(SHAPE)
    g[1, 2, 3, 4] = math.nan
    assert penalty.value(g).isnan()


@pytest.mark.parametrize("name", VALUES)
def test_half_precision_is_summed_in_float32(name):
    penalty, formula = VALUES[name]
    # The squares of these numbers are beyond float16.
    g = torch.full(SHAPE, 300.0, dtype=torch.float16)
    value = penalty.value(g)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(formula(g), rel=1e-5)


def test_equal_maxima_share_the_derivative():
    g = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    MaxGradient().value(g).backward()
    assert torch.equal(g.grad, torch.ones_like(g))


@pytest.mark.parametrize("penalty", [*KINDS.values(), WGANGP(norm="pixel")], ids=[*KINDS, "pixel"])
def test_vectors(penalty):
    # A scalar per sample is a sample, too; only the norm over channels needs channels.
    g = torch.tensor([3.0, 4.0])
    if penalty == WGANGP(norm="pixel"):
        with pytest.raises(ValueError, match=r'norm="pixel" takes the gradients of samples \[N, C, ...\]'):
            penalty.value(g)
    else:
        assert torch.equal(penalty.value(g), penalty.value(g[:, None]))


# --- points ---


@pytest.fixture
def pair():
    generator = seeded(0)
    real, fake = torch.randn(2, *SHAPE, dtype=torch.float64, generator=generator)
    return real.requires_grad_(), fake.requires_grad_()


@pytest.mark.parametrize("penalty", KINDS.values(), ids=KINDS)
def test_points_have_no_history(pair, penalty):
    real, fake = pair
    points = penalty.inputs(real * 1, fake * 1)
    assert not points.requires_grad
    assert points.shape == SHAPE
    assert points.dtype == torch.float64


def test_points_at_samples(pair):
    real, fake = pair
    assert torch.equal(R1().inputs(real, None), real)
    assert torch.equal(R2().inputs(real, fake), fake)
    assert (R1.points, R2.points, WGANGP.points, DRAGAN.points) == ("real", "fake", "interpolates", "noisy_real")


@pytest.mark.parametrize("kind", [WGANGP, ZeroCentered, MaxGradient])
def test_interpolates(pair, kind):
    real, fake = pair
    points = kind().inputs(real, fake, seeded(1))
    assert torch.equal(points, kind().inputs(real, fake, seeded(1)))
    eps = ((points - fake) / (real - fake)).flatten(1)
    torch.testing.assert_close(eps, eps[:, :1].expand_as(eps), rtol=1e-10, atol=1e-10)
    assert len(eps[:, 0].unique()) == 4
    assert ((eps > 0) & (eps < 1)).all()


@pytest.mark.parametrize("shape", [(4,), (4, 1, 1, 1), (1, 3, 1, 1), SHAPE, (5, 6), ()], ids=str)
def test_a_given_eps(pair, shape):
    real, fake = pair
    # Here [N] could be taken for a column of the image.
    real, fake = (real[:, :, :, :4], fake[:, :, :, :4]) if shape == (4,) else (real, fake)
    eps = torch.rand(shape, dtype=torch.float64)
    points = WGANGP(eps=eps).inputs(real, fake)
    factor = eps[:, None, None, None] if shape == (4,) else eps
    torch.testing.assert_close(points, (factor * real + (1 - factor) * fake).detach(), rtol=1e-12, atol=1e-12)


def test_eps_keeps_the_samples_dtype_and_layout():
    real = torch.randn(SHAPE).to(torch.bfloat16, memory_format=torch.channels_last)
    points = WGANGP(eps=torch.full((4,), 0.3, dtype=torch.float64)).inputs(real, -real)
    assert points.dtype == torch.bfloat16
    assert points.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(points.double(), -0.4 * real.double(), rtol=2**-7, atol=0)


HALVES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("fake_dtype", HALVES, ids=str)
@pytest.mark.parametrize("real_dtype", HALVES, ids=str)
@pytest.mark.parametrize("eps", [None, torch.rand(4), torch.rand(SHAPE)], ids=["drawn", "[N]", "of the shape"])
@pytest.mark.parametrize("kind", [WGANGP, ZeroCentered, MaxGradient])
def test_interpolates_of_two_dtypes(pair, kind, eps, real_dtype, fake_dtype):
    """Fake images of a generator under autocast are in half precision, the real ones are not."""
    real, fake = (x.to(dtype) for x, dtype in zip(pair, (real_dtype, fake_dtype), strict=True))
    dtype = torch.promote_types(real_dtype, fake_dtype)
    points = kind(eps=eps).inputs(real, fake, torch.Generator().manual_seed(1))
    assert points.dtype == dtype
    expected = kind(eps=eps).inputs(real.to(dtype), fake.to(dtype), torch.Generator().manual_seed(1))
    assert torch.equal(points, expected)


def test_noisy_real(pair):
    real, _ = pair
    points = DRAGAN(scale=0.7).inputs(real, None, seeded(1))
    assert torch.equal(points, DRAGAN(scale=0.7).inputs(real, None, seeded(1)))
    values = real.flatten().tolist()
    std = math.sqrt(mean((v - mean(values)) ** 2 for v in values))
    noise = (points - real) / (0.7 * std)
    assert len(noise.unique()) == noise.numel()
    assert 0 <= noise.min() < 0.05
    assert 0.95 < noise.max() < 1
    assert torch.equal(DRAGAN(scale=0).inputs(real, None), real)
    # One number has no deviation.
    assert DRAGAN().inputs(torch.ones(1, 1), None).item() == 1


# --- what is refused ---


@pytest.mark.parametrize("kind", [WGANGP, ZeroCentered, MaxGradient])
@pytest.mark.parametrize(
    ("fake", "error", "message"),
    [
        (None, TypeError, r"fake must be a tensor of samples \[N, \.\.\.\], got NoneType"),
        (torch.ones(3, 3, 5, 6), ValueError, r"fake must have the shape of real, \[4, 3, 5, 6\], got .*\[3, 3, 5, 6\]"),
        (torch.ones(SHAPE, device="meta"), ValueError, "fake must be on the device of real, cpu"),
        (torch.ones(SHAPE).long(), TypeError, "fake must be one of torch.float64"),
    ],
)
def test_samples_that_do_not_match(kind, fake, error, message):
    with pytest.raises(error, match=message):
        kind().inputs(torch.ones(SHAPE), fake)


@pytest.mark.parametrize("penalty", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("samples", [torch.tensor(1.0), torch.ones(2, 3).int(), [1.0], None])
def test_samples_that_are_none(penalty, samples):
    name = "fake" if penalty.points == "fake" else "real"
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be"):
        penalty.inputs(samples, samples)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: R1(-1.0), ValueError, "gamma must be 0 or more, got -1.0"),
        (lambda: R2(gamma=math.nan), ValueError, "gamma must be"),
        (lambda: WGANGP("10"), TypeError, "weight must be a number, got str '10'"),
        (lambda: WGANGP(center=math.inf), ValueError, "center must be"),
        (lambda: WGANGP(norm="l2"), ValueError, "norm must be one of sample, pixel, got str 'l2'"),
        (lambda: ZeroCentered(-1), ValueError, "weight must be"),
        (lambda: MaxGradient(weight=torch.ones(2)), TypeError, "weight must be a number, got torch.float32 .2. on cpu"),
        (lambda: DRAGAN(scale=-0.5), ValueError, "scale must be"),
        (lambda: DRAGAN(center=-1), ValueError, "center must be"),
        (lambda: WGANGP(eps=0.5), TypeError, "eps must be a floating-point tensor or None, got float 0.5"),
        (lambda: WGANGP(eps=torch.ones(4).long()), TypeError, "eps must be a floating-point tensor or None"),
    ],
)
def test_fields_that_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("shape", [(3,), (4, 3), (1, *SHAPE), (6,), (2, 3, 5, 6)], ids=str)
def test_an_eps_that_does_not_fit(shape):
    with pytest.raises(ValueError, match=r"eps must be \[4\] or broadcast to \[4, 3, 5, 6\]"):
        WGANGP(eps=torch.rand(shape)).inputs(torch.ones(SHAPE), torch.ones(SHAPE))


def test_an_eps_elsewhere():
    with pytest.raises(ValueError, match="eps must be on the device of real, cpu"):
        WGANGP(eps=torch.rand(4, device="meta")).inputs(torch.ones(SHAPE), torch.ones(SHAPE))


def test_kinds_compare():
    assert R1(3.0) == R1(3.0)
    assert R1(3.0) != R2(3.0)
    assert not isinstance(R2(), R1)
    assert WGANGP(eps=torch.rand(3)) == WGANGP(eps=torch.rand(3))
    with pytest.raises(AttributeError):
        R1().gamma = 1.0
