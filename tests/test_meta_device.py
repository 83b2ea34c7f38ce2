"""Every op on the meta device: shapes without values, forward and backward, the same as on the CPU."""

import pytest
import torch

import fastgan.nn as fnn
from fastgan import functional


def calls(device):
    """Every op's result, from new tensors."""
    with torch.device(device):
        x, weight = torch.zeros(2, 4, 8, 8, requires_grad=True), torch.zeros(6, 4, 3, 3, requires_grad=True)
        b, per_sample = torch.zeros(4, requires_grad=True), torch.zeros(2, 4, requires_grad=True)
        fir, mean, var = torch.ones(4), torch.zeros(4), torch.ones(4)
        blocks = {"GBlock": fnn.GBlock(4, 6), "DBlock": fnn.DBlock(4, 6, downsample=True)}
    inputs = [x, weight, b, per_sample]
    functions = {
        "upsample_conv2d": lambda: functional.upsample_conv2d(x, weight),
        "upsample_conv2d fir": lambda: functional.upsample_conv2d(x, weight, mode="fir", fir=fir),
        "conv_downsample2d": lambda: functional.conv_downsample2d(x, weight),
        "upfirdn2d": lambda: functional.upfirdn2d(x, fir, up=2, padding=1),
        "bias_act": lambda: functional.bias_act(x, b, act="lrelu"),
        "scale_shift_act": lambda: functional.scale_shift_act(x, b, per_sample, "relu"),
        "norm_act": lambda: functional.norm_act(x, b, b, mean, var, act="relu"),
        "pixel_shuffle_act": lambda: functional.pixel_shuffle_act(x, b, 2, "relu"),
        "minibatch_stddev": lambda: functional.minibatch_stddev(x, num_channels=2),
        **{name: (lambda block=block: block(x)) for name, block in blocks.items()},
    }
    return functions, inputs


@pytest.mark.parametrize("name", calls("cpu")[0])
def test_shapes(name):
    shapes = []
    for device in ("cpu", "meta"):
        functions, inputs = calls(device)
        out = functions[name]()
        gradients = torch.autograd.grad(out.sum(), inputs, allow_unused=True)
        shapes.append([None if t is None else (t.shape, t.dtype) for t in (out, *gradients)])
        assert {t.device.type for t in (out, *gradients) if t is not None} == {device}
    assert shapes[0] == shapes[1]
