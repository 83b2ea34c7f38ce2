"""Drop-in modules and utilities, named as in torch.nn."""

from fastgan.nn import utils
from fastgan.nn.upfirdn2d import Downsample2d, Filter2d, Upsample2d

__all__ = ["Downsample2d", "Filter2d", "Upsample2d", "utils"]
