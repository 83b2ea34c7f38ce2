"""Bias, activation and pixel shuffle: what only they have; the contract of an op is in contract/."""

import pytest
import torch
from samples import draw
from torch.nn import functional as F

import fastgan
from fastgan import functional
from fastgan.ops import pixel_shuffle_act as op_module


def inputs(device="cpu"):
    return [
        draw(shape, torch.float64, device, seed).requires_grad_() for seed, shape in enumerate([(2, 4, 3, 3), (4,)])
    ]


def test_the_sum_of_a_bias_is_taken_where_it_is_asked_for(target, monkeypatch):
    x, bias = inputs(target)
    y = functional.pixel_shuffle_act(x, bias, 2, "relu")
    sums, dtype_of_sums = [], op_module.accumulation_dtype
    monkeypatch.setattr(op_module, "accumulation_dtype", lambda dtype: sums.append(dtype) or dtype_of_sums(dtype))
    torch.autograd.grad(y.sum(), x, retain_graph=True)
    assert not sums
    torch.autograd.grad(y.sum(), bias)
    assert len(sums) == 1


def test_linear_keeps_nothing():
    x, bias = inputs()
    assert functional.pixel_shuffle_act(x, bias).grad_fn.saved_tensors == (None, None)


@pytest.mark.parametrize("bias", [True, False])
def test_module_is_a_convolution_and_a_shuffle(target, bias):
    ours = fastgan.nn.PixelShuffleUpsample(3, 2, act="lrelu", bias=bias).to(target)
    conv = torch.nn.Conv2d(3, 8, 3, padding=1, bias=bias).to(target)
    conv.load_state_dict(ours.state_dict())
    x = draw((2, 3, 5, 4), torch.float32, target)
    torch.testing.assert_close(ours(x), F.pixel_shuffle(F.leaky_relu(conv(x), 0.2), 2))


X, B = torch.ones(2, 8, 3, 3), torch.ones(8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: functional.pixel_shuffle_act(X[0], B), ValueError, r"x must be \[N, C, H, W\], got"),
        (lambda: functional.pixel_shuffle_act(X, B, 3), ValueError, "x must have a multiple of 9 channels"),
        (lambda: functional.pixel_shuffle_act(X, B, 17), ValueError, "upscale_factor must be an integer from 1 to 16"),
        (lambda: functional.pixel_shuffle_act(X, B, 2.0), ValueError, "upscale_factor must be an integer from 1 to 16"),
        (lambda: functional.pixel_shuffle_act(X, B[:2]), ValueError, r"bias must be \[8\]"),
        (lambda: functional.pixel_shuffle_act(X, X[..., 0, 0]), ValueError, r"bias must be \[8\], one number"),
        (lambda: functional.pixel_shuffle_act(X, B, 2, "sine"), ValueError, "act must be one of linear"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("options", [{"dilation": 2}, {"kernel_size": (3, 5)}, {"padding": 0}], ids=str)
def test_module_keeps_the_size_unless_told(options):
    y = fastgan.nn.PixelShuffleUpsample(3, 2, **options)(torch.ones(1, 3, 6, 6))
    assert y.shape == ((1, 2, 8, 8) if "padding" in options else (1, 2, 12, 12))
