"""SNGAN's ResNet generator and discriminator for 32x32 images.

Source: Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks", appendix B, table 4
(there: generator width 256, discriminator width 128, z_dim 128).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from fastgan.nn import BatchNormAct2d, DBlock, DBlockOptimized, GBlock
from fastgan.nn.utils import group_spectral_norm

IMAGE_SIZE = 32


class TorchGBlock(nn.Module):
    """What `fastgan.nn.GBlock` computes, as codebases write it."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.conv_sc = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C_in, H, W] -> [N, C_out, 2H, 2W]."""
        y = F.interpolate(F.relu(self.bn1(x)), scale_factor=2, mode="nearest")
        y = self.conv2(F.relu(self.bn2(self.conv1(y))))
        return y + self.conv_sc(F.interpolate(x, scale_factor=2, mode="nearest"))


class TorchDBlock(nn.Module):
    """What `fastgan.nn.DBlock` computes, as codebases write it."""

    def __init__(self, c_in: int, c_out: int, *, downsample: bool = False, preactivation: bool = True):
        super().__init__()
        self.downsample, self.preactivation = downsample, preactivation
        hidden = c_in if preactivation else c_out
        self.conv1 = nn.Conv2d(c_in, hidden, 3, padding=1)
        self.conv2 = nn.Conv2d(hidden, c_out, 3, padding=1)
        self.conv_sc = nn.Conv2d(c_in, c_out, 1) if downsample or c_in != c_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C_in, H, W] -> [N, C_out, H/2, W/2], or [N, C_out, H, W] without `downsample`."""
        y = self.conv2(F.relu(self.conv1(F.relu(x) if self.preactivation else x)))
        if not self.downsample:
            return y + self.conv_sc(x)
        y = F.avg_pool2d(y, 2)
        # An image is pooled first: it has fewer channels.
        return y + (F.avg_pool2d(self.conv_sc(x), 2) if self.preactivation else self.conv_sc(F.avg_pool2d(x, 2)))


class Blocks(NamedTuple):
    """What the networks are made of: by numbers of channels; parameters have the same names in every set."""

    norm_relu: Callable[[int], nn.Module]
    up: Callable[[int, int], nn.Module]
    first_down: Callable[[int, int], nn.Module]
    down: Callable[[int, int], nn.Module]
    same: Callable[[int, int], nn.Module]


class TorchBatchNormReLU(nn.BatchNorm2d):
    """Batch norm and ReLU, one after the other."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        return F.relu(super().forward(x))


BLOCKS = {
    "fused": Blocks(
        norm_relu=BatchNormAct2d,
        up=GBlock,
        first_down=DBlockOptimized,
        down=partial(DBlock, downsample=True),
        same=DBlock,
    ),
    "torch": Blocks(
        norm_relu=TorchBatchNormReLU,
        up=TorchGBlock,
        first_down=partial(TorchDBlock, downsample=True, preactivation=False),
        down=partial(TorchDBlock, downsample=True),
        same=TorchDBlock,
    ),
}


class Generator(nn.Module):
    """Images from latent vectors."""

    def __init__(self, z_dim: int = 128, width: int = 256, channels: int = 3, blocks: str = "fused"):
        super().__init__()
        made_of = BLOCKS[blocks]
        self.z_dim, self.width = z_dim, width
        self.linear = nn.Linear(z_dim, 4 * 4 * width)
        self.blocks = nn.Sequential(*(made_of.up(width, width) for _ in range(3)))
        self.norm = made_of.norm_relu(width)
        self.to_image = nn.Conv2d(width, channels, 3, padding=1)
        initialize(self)

    def forward(self, z: Tensor) -> Tensor:
        """[N, z_dim] -> [N, channels, 32, 32] in (-1, 1)."""
        x = self.linear(z).view(-1, self.width, 4, 4)
        return torch.tanh(self.to_image(self.norm(self.blocks(x))))


class Discriminator(nn.Module):
    """Logits from images."""

    def __init__(self, width: int = 128, channels: int = 3, blocks: str = "fused"):
        super().__init__()
        made_of = BLOCKS[blocks]
        self.blocks = nn.Sequential(
            made_of.first_down(channels, width),
            made_of.down(width, width),
            made_of.same(width, width),
            made_of.same(width, width),
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
    """Torch's spectral norm, all layers of which are computed in one grouped call: same keys, same values."""
    torch_spectral_norm(model)
    group_spectral_norm(model)


SPECTRAL_NORMS: dict[str, Callable[[nn.Module], None]] = {
    "grouped": grouped_spectral_norm,
    "torch": torch_spectral_norm,
}
