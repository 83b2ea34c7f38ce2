"""SNGAN's ResNet generator and discriminator for 32x32 images.

Source: Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks", appendix B, table 4
(there: generator width 256, discriminator width 128, z_dim 128).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from fastgan.nn.utils import group_spectral_norm

IMAGE_SIZE = 32


class UpBlock(nn.Module):
    """Residual block that doubles the resolution."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.shortcut = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C_in, H, W] -> [N, C_out, 2H, 2W]."""
        y = F.interpolate(F.relu(self.norm1(x)), scale_factor=2, mode="nearest")
        y = self.conv2(F.relu(self.norm2(self.conv1(y))))
        return y + self.shortcut(F.interpolate(x, scale_factor=2, mode="nearest"))


class DownBlock(nn.Module):
    """Residual block that may halve the resolution.

    `first`: the input is an image, which must not pass a ReLU; its shortcut is pooled before the convolution.
    """

    def __init__(self, c_in: int, c_out: int, *, down: bool, first: bool = False):
        super().__init__()
        self.down, self.first = down, first
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if down or c_in != c_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C_in, H, W] -> [N, C_out, H/2, W/2], or [N, C_out, H, W] without `down`."""
        y = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        if not self.down:
            return y + self.shortcut(x)
        y = F.avg_pool2d(y, 2)
        return y + (self.shortcut(F.avg_pool2d(x, 2)) if self.first else F.avg_pool2d(self.shortcut(x), 2))


class Generator(nn.Module):
    """Images from latent vectors."""

    def __init__(self, z_dim: int = 128, width: int = 256, channels: int = 3):
        super().__init__()
        self.z_dim, self.width = z_dim, width
        self.linear = nn.Linear(z_dim, 4 * 4 * width)
        self.blocks = nn.Sequential(*(UpBlock(width, width) for _ in range(3)))
        self.norm = nn.BatchNorm2d(width)
        self.to_image = nn.Conv2d(width, channels, 3, padding=1)
        initialize(self)

    def forward(self, z: Tensor) -> Tensor:
        """[N, z_dim] -> [N, channels, 32, 32] in (-1, 1)."""
        x = self.linear(z).view(-1, self.width, 4, 4)
        x = F.relu(self.norm(self.blocks(x)))
        return torch.tanh(self.to_image(x))


class Discriminator(nn.Module):
    """Logits from images."""

    def __init__(self, width: int = 128, channels: int = 3):
        super().__init__()
        self.blocks = nn.Sequential(
            DownBlock(channels, width, down=True, first=True),
            DownBlock(width, width, down=True),
            DownBlock(width, width, down=False),
            DownBlock(width, width, down=False),
        )
        self.linear = nn.Linear(width, 1)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, 32, 32] -> [N]."""
        x = F.relu(self.blocks(x)).sum((2, 3))
        return self.linear(x).squeeze(1)


def initialize(model: nn.Module) -> None:
    """Glorot-uniform weights, gain sqrt(2) for the 3x3 convolutions of residual blocks, and zero biases."""
    for name, layer in model.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            residual = name.endswith(("conv1", "conv2"))
            nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(2) if residual else 1.0)
            nn.init.zeros_(layer.bias)


def torch_spectral_norm(model: nn.Module) -> None:
    """Put torch's spectral norm on every convolution and linear layer, in place."""
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            parametrizations.spectral_norm(layer)


def grouped_spectral_norm(model: nn.Module) -> None:
    """Torch's spectral norm, all layers of which are computed in one grouped call: same keys, same numbers."""
    torch_spectral_norm(model)
    group_spectral_norm(model)


SPECTRAL_NORMS: dict[str, Callable[[nn.Module], None]] = {
    "grouped": grouped_spectral_norm,
    "torch": torch_spectral_norm,
}
