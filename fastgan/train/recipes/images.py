"""Images of a folder or a zip: SNGAN, hinge loss, spectral norm; a gradient penalty as an option.

The defaults are those of T. Miyato et al., Spectral Normalization for GANs, ICLR 2018, for CIFAR-10.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastgan.train import models
from fastgan.train.config import Config, setting
from fastgan.train.data import MAX_PIXELS, RESOLUTIONS, load_images, to_real
from fastgan.train.pixels import CROPS
from fastgan.train.recipe import Data
from fastgan.train.recipe import Recipe as Base
from fastgan.train.step import Batch


@dataclass(frozen=True)
class Settings(Config):
    """SNGAN's."""

    data: str = setting(
        "digits", "a folder, zip, .npz or .npy of images, or 'digits': scikit-learn's 1,797 scans", may_change=True
    )
    channels: int = setting(3, "colour channels that images are converted to", choices=(1, 3))
    resolution: int = setting(32, "height and width of the networks' images", choices=RESOLUTIONS)
    conditional: bool = setting(False, "tell both networks the classes of the data")
    crop: str = setting(
        "center",
        "of images that are not square: cut around the centre, or refused (none)",
        choices=CROPS,
        may_change=True,
    )
    allow_enlarging: bool = setting(False, "take images smaller than the networks' too", may_change=True)
    skip_corrupt: bool = setting(False, "leave out files that cannot be read, and say which", may_change=True)
    max_pixels: int = setting(MAX_PIXELS, "pixels of the largest image that is read", minimum=1, may_change=True)
    width: int = setting(128, "channels of the discriminator's layers", minimum=1, below=2**16)
    width_g: int = setting(256, "channels of the generator's layers", minimum=1, below=2**16)
    z_dim: int = setting(128, "length of a latent vector", minimum=1, below=2**16)


class Recipe(Base):
    """With classes or without."""

    Settings = Settings

    def load(self) -> Data:
        """Uint8 [M, channels, resolution, resolution], and classes int64 [M] where the data have them."""
        names = ("crop", "allow_enlarging", "skip_corrupt", "max_pixels")
        options = {name: getattr(self.settings, name) for name in names}
        images = load_images(self.settings.data, self.settings.channels, self.settings.resolution, **options)
        if self.settings.conditional:
            if images.labels is None:
                raise ValueError(f"conditional = True: data = {self.settings.data!r} has no classes")
            self.classes = len(images.classes)
        return Data((images.pixels, *([] if images.labels is None else [images.labels])), classes=images.classes)

    def networks(self) -> tuple[nn.Module, nn.Module]:
        """A generator z -> image and a discriminator image -> logit; the class, if conditional, comes second."""
        s = self.settings
        shape = (s.channels, "torch" if s.plain else "fused", s.resolution, self.classes)
        G = models.Generator(s.z_dim, s.width_g, *shape)
        D = models.Discriminator(s.width, *shape)
        models.SPECTRAL_NORMS["torch" if s.plain else "grouped"](D)
        return G, D

    def batch(self, samples: tuple[Tensor, ...], dtype: torch.dtype = torch.float32) -> Batch:
        """Images in [-1, 1], and their classes if conditional."""
        pixels, *labels = samples
        return Batch(to_real(pixels, dtype), tuple(labels) if self.settings.conditional else ())
