"""Path length regularisation against the Jacobian."""

import math

import pytest
import torch
from torch import nn

from fastgan.penalty.path_length import path_length_penalty


class Generator(nn.Module):
    """Latents [N, D] or [N, L, D] -> images [N, 2, 4, 4]; every sample by itself."""

    def __init__(self, size):
        super().__init__()
        self.first, self.last = nn.Linear(size, 8), nn.ConvTranspose2d(2, 2, 2, 2)

    def forward(self, latents):
        return self.last(torch.nn.functional.leaky_relu(self.first(latents.flatten(1)).view(-1, 2, 2, 2), 0.2)).tanh()


def formula(generator, latents, mean, noise, decay, weight):
    """The same from full Jacobians: sample by sample, layer by layer."""
    lengths = []
    for w, y in zip(latents, noise, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda w: generator(w[None])[0], w, create_graph=True)
        product = (jacobian.flatten(0, 2) * (y / 4).flatten().view(-1, *[1] * w.ndim)).sum(0)
        squares = product.square().sum(-1)
        lengths.append((squares.mean() if w.ndim == 2 else squares).sqrt())
    lengths = torch.stack(lengths)
    mean = (1 - decay) * mean + decay * lengths.mean().item()
    return weight * ((lengths - mean) ** 2).mean(), mean


@pytest.fixture
def case(request):
    torch.manual_seed(0)
    shape = request.param
    generator = Generator(math.prod(shape[1:])).double()
    return generator, torch.randn(shape, dtype=torch.float64), torch.randn(shape[0], 2, 4, 4, dtype=torch.float64)


@pytest.mark.parametrize("case", [(3, 5), (3, 2, 5)], ids=str, indirect=True)
@pytest.mark.parametrize("options", [{}, {"decay": 0.3, "weight": 0.7}], ids=str)
def test_against_the_jacobian(case, options):
    generator, latents, noise = case
    mean = torch.tensor(0.2, dtype=torch.float64)
    penalty, new_mean = path_length_penalty(generator, latents, mean, noise=noise, **options)
    expected, expected_mean = formula(generator, latents, 0.2, noise, **{"decay": 0.01, "weight": 2.0} | options)
    torch.testing.assert_close(penalty, expected, rtol=1e-10, atol=0)
    assert new_mean.item() == pytest.approx(expected_mean, rel=1e-10)
    assert mean.item() == 0.2
    assert not new_mean.requires_grad
    # The last bias does not act through the Jacobian's zeros, but through tanh.
    parameters = list(generator.parameters())
    wanted = torch.autograd.grad(expected, parameters)
    for want, got in zip(wanted, torch.autograd.grad(penalty, parameters), strict=True):
        assert want.any()
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("case", [(3, 5)], indirect=True)
def test_the_mapping_network_is_differentiated(case):
    generator, z, noise = case
    mapping = nn.Linear(5, 5).double()
    penalty, _ = path_length_penalty(generator, mapping(z), 0.0, noise=noise)
    expected, _ = formula(generator, mapping(z), 0.0, noise, 0.01, 2.0)
    want, got = (torch.autograd.grad(value, mapping.weight)[0] for value in (expected, penalty))
    assert want.any()
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-14)


def test_noise_is_drawn_from_torch():
    generator, latents = Generator(5), torch.randn(3, 5)
    torch.manual_seed(1)
    noise = torch.randn(3, 2, 4, 4)
    torch.manual_seed(1)
    drawn, _ = path_length_penalty(generator, latents, 0.0)
    given, _ = path_length_penalty(generator, latents, 0.0, noise=noise)
    assert torch.equal(drawn, given)
    assert not latents.requires_grad


def test_the_running_mean_converges():
    generator, latents, noise = Generator(5), torch.randn(3, 5), torch.randn(3, 2, 4, 4)
    mean = torch.zeros(())
    _, target = path_length_penalty(generator, latents, mean, decay=1.0, noise=noise)
    for _ in range(20):
        _, mean = path_length_penalty(generator, latents, mean, decay=0.5, noise=noise)
    torch.testing.assert_close(mean, target, rtol=1e-5, atol=0)


def test_lengths_of_zero_are_finite():
    generator = Generator(5)
    nn.init.zeros_(generator.first.weight)
    penalty, mean = path_length_penalty(generator, torch.randn(3, 5), 1.0)
    penalty.backward()
    assert mean.item() == pytest.approx(0.99)
    assert penalty.item() == pytest.approx(2 * 0.99**2)
    assert all(p.grad is None or p.grad.isfinite().all() for p in generator.parameters())


def test_half_precision():
    generator, latents = Generator(5).to(torch.bfloat16), torch.randn(3, 5, dtype=torch.bfloat16)
    penalty, mean = path_length_penalty(generator, latents, torch.zeros(()))
    assert penalty.dtype == mean.dtype == torch.float32
    penalty.backward()
    assert generator.first.weight.grad.isfinite().all()


LATENTS = torch.randn(3, 5)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((Generator(5), [1.0], 0.0), {}, TypeError, "latents must be a tensor, got list"),
        ((Generator(5), LATENTS.long(), 0.0), {}, TypeError, "latents.dtype must be one of"),
        ((Generator(5), LATENTS[0], 0.0), {}, ValueError, r"latents must be \[N, D\] or \[N, L, D\]"),
        ((Generator(5), LATENTS[:0], 0.0), {}, ValueError, r"latents must be .* with N >= 1"),
        ((Generator(5), LATENTS, None), {}, TypeError, r"mean must be a number or a tensor \[\]"),
        ((Generator(5), LATENTS, torch.zeros(1)), {}, TypeError, r"mean must be a number or a tensor \[\]"),
        ((Generator(5), LATENTS, 0.0), {"decay": 1.5}, ValueError, "decay must be from 0 to 1, got 1.5"),
        ((Generator(5), LATENTS, 0.0), {"weight": math.nan}, ValueError, "weight must be finite, got nan"),
        ((Generator(5), LATENTS, 0.0), {"noise": torch.ones(3, 2, 4, 5)}, ValueError, "noise must have the shape"),
        ((lambda w: w[0], LATENTS, 0.0), {}, ValueError, r"generator must return images \[3, C, ...\]"),
        ((lambda w: torch.ones(3, 2), LATENTS, 0.0), {}, ValueError, "generator must give images that depend"),
        ((lambda w: Generator(5)(LATENTS), LATENTS, 0.0), {}, ValueError, "generator must give images that depend"),
    ],
)
def test_what_is_refused(arguments, options, error, message):
    with pytest.raises(error, match=message):
        path_length_penalty(*arguments, **options)
