"""Drop-in modules and utilities, named as in torch.nn."""

from fastgan.nn import utils

__all__ = ["utils"]
