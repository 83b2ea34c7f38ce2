"""What StyleGAN's augmentation samples images with: torch's own where it can be differentiated twice, else ours."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from fastgan.compat import grid_sample as grid_sampling
from fastgan.compat.grid_sample import grid_sample

GRID_SAMPLES = pytest.mark.parametrize("torchs", [True, False], ids=["torch's", "ours"])


@pytest.fixture
def either_grid_sample(torchs, monkeypatch):
    """torch's own, where it can be differentiated twice, and what older ones get."""
    if torchs and not grid_sampling._TORCH_HAS_IT:
        pytest.skip("this torch's own cannot be differentiated twice")
    monkeypatch.setattr(grid_sampling, "_TORCH_HAS_IT", torchs)
    return grid_sample


@GRID_SAMPLES
def test_grid_sample_is_differentiated_twice(either_grid_sample):
    image = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    grid = torch.rand(2, 4, 4, 2, dtype=torch.float64) * 2.2 - 1.1
    assert torch.equal(either_grid_sample(image, grid), F.grid_sample(image, grid, align_corners=False))
    assert torch.autograd.gradcheck(lambda image: either_grid_sample(image, grid), image)
    assert torch.autograd.gradgradcheck(lambda image: either_grid_sample(image, grid), image)
    moving = grid.requires_grad_()
    assert torch.autograd.gradcheck(either_grid_sample, (image, moving))


@pytest.mark.skipif(not grid_sampling._TORCH_HAS_IT, reason="this torch's own cannot be differentiated twice")
def test_grid_sample_is_differentiated_twice_for_the_grid_too():
    image = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    grid = (torch.rand(2, 3, 3, 2, dtype=torch.float64) * 2.2 - 1.1).requires_grad_()
    assert torch.autograd.gradgradcheck(grid_sample, (image, grid))


def test_grid_sample_says_what_it_cannot(monkeypatch):
    monkeypatch.setattr(grid_sampling, "_TORCH_HAS_IT", False)
    image = torch.randn(1, 1, 4, 4, requires_grad=True)
    grid = torch.zeros(1, 2, 2, 2, requires_grad=True)
    (dx,) = torch.autograd.grad(grid_sample(image, grid).square().sum(), image, create_graph=True)
    with pytest.raises(NotImplementedError, match="cannot be differentiated with respect to the grid"):
        dx.sum().backward()


@GRID_SAMPLES
@pytest.mark.parametrize(
    "dtypes", list(itertools.product((torch.float32, torch.bfloat16, torch.float64), repeat=2)), ids=str
)
@pytest.mark.parametrize("enabled", [True, False], ids=["autocast", "plain"])
def test_grid_sample_casts_as_torchs(either_grid_sample, dtypes, enabled):
    base, grid = torch.randn(2, 3, 6, 6).to(dtypes[0]), (torch.rand(2, 5, 5, 2) * 2 - 1).to(dtypes[1])

    def outcome(function):
        image = base.clone().requires_grad_()
        try:
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                y = function(image, grid)
            (dx,) = torch.autograd.grad(y.float().square().sum(), image, create_graph=True)
            dx.float().square().sum().backward()
        except RuntimeError:
            return "refused"
        return y, dx, image.grad

    ours, theirs = outcome(either_grid_sample), outcome(lambda x, g: F.grid_sample(x, g, align_corners=False))
    if not grid_sampling._TORCH_HAS_IT and enabled:
        assert ours != "refused"  # torch's own raises in the second backward
    else:
        assert (ours == "refused") == (theirs == "refused")
    if "refused" not in (ours, theirs):
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype is b.dtype
            torch.testing.assert_close(a, b)
