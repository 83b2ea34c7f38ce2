"""Drop-in modules and utilities, named as in torch.nn."""

from fastgan.nn import utils
from fastgan.nn.bias_act import BiasAct
from fastgan.nn.blocks import DBlock, DBlockOptimized, GBlock
from fastgan.nn.minibatch_stddev import MinibatchStddev
from fastgan.nn.norm_act import BatchNormAct2d, ConditionalBatchNormAct2d, InstanceNormAct2d
from fastgan.nn.pixel_shuffle import PixelShuffleUpsample
from fastgan.nn.resampled_conv import (
    ConvDownsample1d,
    ConvDownsample2d,
    ConvDownsample3d,
    UpsampleConv1d,
    UpsampleConv2d,
    UpsampleConv3d,
)
from fastgan.nn.upfirdn2d import Downsample2d, Filter2d, Upsample2d

__all__ = [
    "BatchNormAct2d",
    "BiasAct",
    "ConditionalBatchNormAct2d",
    "ConvDownsample1d",
    "ConvDownsample2d",
    "ConvDownsample3d",
    "DBlock",
    "DBlockOptimized",
    "Downsample2d",
    "Filter2d",
    "GBlock",
    "InstanceNormAct2d",
    "MinibatchStddev",
    "PixelShuffleUpsample",
    "Upsample2d",
    "UpsampleConv1d",
    "UpsampleConv2d",
    "UpsampleConv3d",
    "utils",
]
