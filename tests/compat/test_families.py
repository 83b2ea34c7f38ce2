"""What the families' functions compute."""

import pytest
import torch
import torch.nn.functional as F

from fastgan import functional
from fastgan.compat.families import basicsr
from fastgan.compat.families.stylegan import conv2d, conv2d_resample, modulated_conv2d
from fastgan.compat.grid_sample import grid_sample

X = torch.linspace(-2, 2, 2 * 3 * 8 * 8).view(2, 3, 8, 8)


@pytest.mark.parametrize("resampling", [{}, {"up": 2}, {"down": 2}])
@pytest.mark.parametrize(("demodulate", "with_noise"), [(True, True), (True, False), (False, True), (False, False)])
def test_modulated_convolution_is_one_with_a_weight_for_every_sample(resampling, demodulate, with_noise):
    torch.manual_seed(0)
    x, weight, styles = (torch.randn(shape, dtype=torch.float64) for shape in ((2, 3, 8, 8), (4, 3, 3, 3), (2, 3)))
    f = functional.setup_filter([1, 3, 3, 1])
    weights = weight * styles[:, None, :, None, None]
    if demodulate:
        weights = weights * (weights.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    expected = torch.cat([conv2d_resample(x[i : i + 1], weights[i], f, padding=1, **resampling) for i in range(2)])
    noise = torch.randn(2, 1, *expected.shape[2:], dtype=torch.float64) if with_noise else None
    y = modulated_conv2d(x, weight, styles, noise, padding=1, resample_filter=f, demodulate=demodulate, **resampling)
    torch.testing.assert_close(y, expected if noise is None else expected + noise, rtol=1e-12, atol=1e-12)


def test_modulated_convolution_does_not_overflow_in_float16():
    torch.manual_seed(0)
    x, weight, styles = torch.randn(2, 8, 6, 6), 1e3 * torch.randn(4, 8, 3, 3), 1e3 * torch.randn(2, 8)
    expected = modulated_conv2d(x.double(), weight.double(), styles.double(), padding=1)
    y = modulated_conv2d(x.half(), weight, styles, padding=1)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.double(), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("down", [1, 2])
@pytest.mark.parametrize("padding", [1, [2, 1, 0, 1]])
@pytest.mark.parametrize("flips", [(True, False), (False, True)])
def test_conv2d_resample(up, down, padding, flips):
    """Against upsampling, convolution and downsampling one after the other."""
    flip_weight, flip_filter = flips
    x, w = X.double(), torch.linspace(-1, 1, 4 * 3 * 9, dtype=torch.float64).view(4, 3, 3, 3)
    f = functional.setup_filter([1, 2, 3, 1])
    left, right, top, bottom = [padding] * 4 if isinstance(padding, int) else padding
    # Padding is of what the convolution reads; of the filter's own border as much as of any other pixel.
    k = 3
    wide = [left + k, right + k, top + k, bottom + k]
    y = functional.upfirdn2d(
        x,
        f if up > 1 else None,
        up,
        padding=[p + (e if up > 1 else 0) for p, e in zip(wide, [2, 1, 2, 1] if up > 1 else [0] * 4, strict=True)],
        flip_filter=flip_filter,
        gain=up**2,
    )
    y = F.conv2d(y, w if flip_weight else w.flip(2, 3))
    if down > 1:
        y = functional.upfirdn2d(y, f, 1, down, [1 - k, 1 - k, 1 - k, 1 - k], flip_filter)
    else:
        y = y[..., k:-k, k:-k]
    got = conv2d_resample(x, w, f, up, down, padding, flip_weight=flip_weight, flip_filter=flip_filter)
    torch.testing.assert_close(got, y)


@pytest.mark.parametrize("shape", [(8, 64, 1, 1), (4, 64, 3, 3)], ids=["1x1", "3x3"])
def test_convolutions_of_gradfix(shape):
    torch.manual_seed(0)
    x, w = (torch.randn(s, requires_grad=True, dtype=torch.float64) for s in ((2, 64, 16, 16), shape))
    results = []
    for function in (conv2d, F.conv2d):
        y = function(input=x, weight=w, padding=shape[-1] // 2)
        dx, dw = torch.autograd.grad(y.square().sum(), (x, w), create_graph=True)
        second = torch.autograd.grad(dx.square().sum() + dw.square().sum(), (x, w))
        with torch.no_grad():
            results.append([y, function(x, w, padding=shape[-1] // 2), dx, dw, *second])
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).norm() <= 1e-12 * theirs.norm()
    assert torch.func.vmap(lambda w: conv2d(x, w))(w[None]).shape[:3] == (1, 2, shape[0])


def test_basicsrs_extensions():
    empty = X.new_empty(0)
    y = basicsr.fused_bias_act(X, torch.ones(3), empty, 3, 0, 0.2, 2**0.5)
    torch.testing.assert_close(y, F.leaky_relu(X + 1, 0.2) * 2**0.5)
    x = X.clone().requires_grad_()
    dy = torch.linspace(1, 2, X.numel()).view_as(X)
    (dx,) = torch.autograd.grad(F.leaky_relu(x + 1, 0.2) * 2**0.5, x, dy)
    torch.testing.assert_close(basicsr.fused_bias_act(dy, empty, y, 3, 1, 0.2, 2**0.5), dx)
    with pytest.raises(NotImplementedError, match="act must be 3 and grad 0 or 1, got act 1 and grad 0"):
        basicsr.fused_bias_act(X, empty, empty, 1, 0, 0.2, 1.0)
    kernel = torch.arange(12.0).view(3, 4)
    y = basicsr.upfirdn2d_ext(X.view(6, 8, 8, 1), kernel, 2, 1, 1, 2, 1, 0, 2, 1)
    expected = functional.upfirdn2d(X.view(6, 1, 8, 8), kernel, [2, 1], [1, 2], [1, 0, 2, 1])
    torch.testing.assert_close(y.view_as(expected), expected)


# --- grid_sample ---


def test_grid_sample_is_differentiated_twice():
    image = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    grid = torch.rand(2, 4, 4, 2, dtype=torch.float64) * 2.2 - 1.1
    assert torch.equal(grid_sample(image, grid), F.grid_sample(image, grid, align_corners=False))
    assert torch.autograd.gradcheck(lambda image: grid_sample(image, grid), image)
    assert torch.autograd.gradgradcheck(lambda image: grid_sample(image, grid), image)
    moving = grid.requires_grad_()
    assert torch.autograd.gradcheck(grid_sample, (image, moving))
