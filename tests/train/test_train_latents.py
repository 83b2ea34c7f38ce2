import math

import pytest
import torch

from fastgan.train.afterwards.latents import between, draw


def distribution(z, limit):
    """The distribution function of a standard normal distribution that is cut at -limit and limit."""
    low, high = (torch.special.ndtr(torch.tensor(x, dtype=torch.float64)) for x in (-limit, limit))
    return (torch.special.ndtr(z) - low) / (high - low)


@pytest.mark.parametrize("truncation", [None, 2.0, 0.7, 0.01])
def test_values_follow_the_cut_normal_distribution(truncation):
    z = draw(400, 50, seed=3, truncation=truncation).flatten().sort()[0]
    assert z.dtype == torch.float64
    assert z.isfinite().all()
    limit = math.inf if truncation is None else truncation
    assert z.abs().max() <= limit
    seen = torch.arange(1, len(z) + 1) / len(z)
    # Kolmogorov and Smirnov: one seed in a thousand is further away; this one, which is always the same, is not
    assert (seen - distribution(z, limit)).abs().max() < 1.95 / math.sqrt(len(z))


def test_a_wide_cut_changes_nothing():
    torch.testing.assert_close(draw(4, 8, 0, truncation=30.0), draw(4, 8, 0), rtol=0, atol=0)


def test_the_cut_moves_values_and_keeps_their_order():
    wide, narrow = draw(20, 8, seed=1), draw(20, 8, seed=1, truncation=0.5)
    assert torch.equal(wide.flatten().argsort(), narrow.flatten().argsort())
    assert torch.equal(wide.sign(), narrow.sign())
    assert (narrow.abs() < wide.abs()).all()


def test_the_first_ones_are_the_same_for_every_number():
    assert torch.equal(draw(3, 7, seed=5), draw(100, 7, seed=5)[:3])
    assert not torch.equal(draw(3, 7, seed=5), draw(3, 7, seed=6))


def test_the_way_is_a_circle_of_even_steps():
    start, end = draw(2, 64, seed=0)
    start, end = start / start.norm(), end / end.norm()
    way = between(start, end, 9)
    assert torch.equal(way[0], start)
    torch.testing.assert_close(way[-1], end)
    torch.testing.assert_close(way.norm(dim=1), torch.ones(9, dtype=torch.float64))
    steps = (way[1:] * way[:-1]).sum(1)
    torch.testing.assert_close(steps, steps[0].expand(8))


def test_between_lengths_of_two_the_length_is_between():
    start, end = draw(2, 512, seed=0)
    norms = between(start, 2 * end, 5).norm(dim=1)
    assert (norms[1:] > norms[:-1]).all()


@pytest.mark.parametrize("factor", [1.0, 3.0, -1.0])
def test_in_one_direction_the_way_is_straight(factor):
    start = draw(1, 8, seed=0)[0]
    torch.testing.assert_close(between(start, factor * start, 3)[1], (1 + factor) / 2 * start)
