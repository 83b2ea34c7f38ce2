"""No sample at all: every layer and block returns none, and its parameters' gradients are zeros, as in torch."""

from functools import partial

import pytest
import torch
from torch import nn as torch_nn

from fastgan import nn

LAYERS = {
    "UpsampleConv2d": lambda: nn.UpsampleConv2d(4, 6, 3),
    "UpsampleConv2d, fir": lambda: nn.UpsampleConv2d(4, 6, 3, fir=[1, 3, 3, 1]),
    "UpsampleConv2d, reflect": lambda: nn.UpsampleConv2d(4, 6, 3, padding_mode="reflect"),
    "UpsampleConv2d, same": lambda: nn.UpsampleConv2d(4, 6, 4, padding="same"),
    "ConvDownsample2d": lambda: nn.ConvDownsample2d(4, 6, 3),
    "ConvDownsample2d, fir": lambda: nn.ConvDownsample2d(4, 6, 3, fir=[1, 3, 3, 1]),
    "ConvDownsample2d, circular": lambda: nn.ConvDownsample2d(4, 6, 3, padding_mode="circular"),
    "PixelShuffleUpsample": lambda: nn.PixelShuffleUpsample(4, 4, act="lrelu"),
    "BatchNormAct2d": lambda: nn.BatchNormAct2d(4),
    "InstanceNormAct2d": lambda: nn.InstanceNormAct2d(4, affine=True),
    "Conditional": lambda: nn.ConditionalBatchNormAct2d(4, condition=partial(torch_nn.Linear, 3)),
    "BiasAct": lambda: nn.BiasAct(4),
    "Upsample2d": nn.Upsample2d,
    "Downsample2d": nn.Downsample2d,
    "Filter2d": nn.Filter2d,
    "GBlock": lambda: nn.GBlock(4, 6),
    "DBlock": lambda: nn.DBlock(4, 6, downsample=True),
    "DBlockOptimized": lambda: nn.DBlockOptimized(4, 6),
    "spectral norm": lambda: nn.utils.spectral_norm(nn.UpsampleConv2d(4, 6, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_sample(name, training, dtype):
    layer = LAYERS[name]().to(dtype).train(training)
    x = torch.empty(0, 4, 8, 8, dtype=dtype, requires_grad=True)
    y = layer(x, *[torch.empty(0, 3, dtype=dtype)] * (name == "Conditional"))
    one = layer(torch.ones(1, 4, 8, 8, dtype=dtype), *[torch.ones(1, 3, dtype=dtype)] * (name == "Conditional"))
    assert y.shape == (0, *one.shape[1:])
    (dx,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert dx.shape == x.shape
    layer(x, *[torch.empty(0, 3, dtype=dtype)] * (name == "Conditional")).sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad is None or not parameter.grad.any()
