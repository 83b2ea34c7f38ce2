"""Drop-in modules and utilities, named as in torch.nn."""

from fastgan.nn import utils
from fastgan.nn.bias_act import BiasAct
from fastgan.nn.resampled_conv import (
    ConvDownsample1d,
    ConvDownsample2d,
    ConvDownsample3d,
    UpsampleConv1d,
    UpsampleConv2d,
    UpsampleConv3d,
)

__all__ = [
    "BiasAct",
    "ConvDownsample1d",
    "ConvDownsample2d",
    "ConvDownsample3d",
    "UpsampleConv1d",
    "UpsampleConv2d",
    "UpsampleConv3d",
    "utils",
]
