"""Drop-in modules and utilities, named as in torch.nn."""

from fastgan.nn import utils
from fastgan.nn.norm_act import BatchNormAct2d, ConditionalBatchNormAct2d, InstanceNormAct2d
from fastgan.nn.pixel_shuffle import PixelShuffleUpsample

__all__ = ["BatchNormAct2d", "ConditionalBatchNormAct2d", "InstanceNormAct2d", "PixelShuffleUpsample", "utils"]
