"""Train an SNGAN on a folder of images: `fastgan train`, or `train(Config(...))`."""

from fastgan.train.config import Config
from fastgan.train.loop import train

__all__ = ["Config", "train"]
