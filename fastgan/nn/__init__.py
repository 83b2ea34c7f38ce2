"""Drop-in modules and utilities, named as in torch.nn."""

from fastgan.nn import utils
from fastgan.nn.bias_act import BiasAct

__all__ = [
    "BiasAct",
    "utils",
]
