"""Train an SNGAN on a folder of images: `fastgan train`, or `train(Config(...))`; then `load` the generator."""

from fastgan.train.config import Config
from fastgan.train.loop import train
from fastgan.train.trained import load

__all__ = ["Config", "load", "train"]
