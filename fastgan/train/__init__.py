"""Train a GAN by a recipe: `fastgan train digits`, or `train(Recipe(settings))`; then `load` the generator."""

from fastgan.train.config import Config, default, setting
from fastgan.train.loop import train
from fastgan.train.recipe import Data, Recipe, find
from fastgan.train.step import Batch
from fastgan.train.trained import load

__all__ = ["Batch", "Config", "Data", "Recipe", "default", "find", "load", "setting", "train"]
