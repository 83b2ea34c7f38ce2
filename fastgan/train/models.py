"""SNGAN's ResNet generator and discriminator, for images of 32x32 to 512x512, with classes or without.

Source: Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks", appendix B, table 4
(there: 32x32, generator width 256, discriminator width 128, z_dim 128). Classes: Miyato and Koyama 2018, "cGANs with
Projection Discriminator". Beyond 32x32 each doubling of the resolution halves the channels.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from fastgan.nn import BatchNormAct2d, ConditionalBatchNormAct2d, DBlock, DBlockOptimized, GBlock
from fastgan.nn.utils import group_spectral_norm

IMAGE_SIZE = 32


class TorchBatchNormReLU(nn.BatchNorm2d):
    """Batch norm and ReLU, one after the other."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        return F.relu(super().forward(x))


class TorchConditionalBatchNormReLU(nn.BatchNorm2d):
    """Batch norm whose gain and bias depend on the class, and ReLU, one after the other."""

    def __init__(self, num_features: int, classes: int):
        super().__init__(num_features, affine=False)
        del self.bias
        self.gain, self.bias = nn.Embedding(classes, num_features), nn.Embedding(classes, num_features)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """[N, C, H, W] and classes [N] -> [N, C, H, W]."""
        if self.training:
            self.num_batches_tracked.add_(1)
        x = F.batch_norm(x, self.running_mean, self.running_var, None, None, self.training, self.momentum, self.eps)
        return F.relu(x * (1 + self.gain(y))[..., None, None] + self.bias(y)[..., None, None])


class TorchGBlock(nn.Module):
    """What `fastgan.nn.GBlock` computes, as codebases write it."""

    def __init__(self, c_in: int, c_out: int, norm: Callable[[int], nn.Module] = TorchBatchNormReLU):
        super().__init__()
        self.bn1 = norm(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.bn2 = norm(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.conv_sc = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, *y: Tensor) -> Tensor:
        """[N, C_in, H, W], and classes [N] for a conditional norm -> [N, C_out, 2H, 2W]."""
        h = F.interpolate(self.bn1(x, *y), scale_factor=2, mode="nearest")
        h = self.conv2(self.bn2(self.conv1(h), *y))
        return h + self.conv_sc(F.interpolate(x, scale_factor=2, mode="nearest"))


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
    conditional: Callable[[int], Callable[..., nn.Module]]  # classes -> (channels) -> norm and ReLU of x and classes
    up: Callable[..., nn.Module]
    first_down: Callable[[int, int], nn.Module]
    down: Callable[[int, int], nn.Module]
    same: Callable[[int, int], nn.Module]


BLOCKS = {
    "fused": Blocks(
        norm_relu=BatchNormAct2d,
        conditional=lambda classes: partial(ConditionalBatchNormAct2d, condition=partial(nn.Embedding, classes)),
        up=GBlock,
        first_down=DBlockOptimized,
        down=partial(DBlock, downsample=True),
        same=DBlock,
    ),
    "torch": Blocks(
        norm_relu=TorchBatchNormReLU,
        conditional=lambda classes: partial(TorchConditionalBatchNormReLU, classes=classes),
        up=TorchGBlock,
        first_down=partial(TorchDBlock, downsample=True, preactivation=False),
        down=partial(TorchDBlock, downsample=True),
        same=TorchDBlock,
    ),
}


class Generator(nn.Module):
    """Images from latent vectors, and classes where there are several."""

    def __init__(
        self,
        z_dim: int = 128,
        width: int = 256,
        channels: int = 3,
        blocks: str = "fused",
        resolution: int = IMAGE_SIZE,
        classes: int = 0,
    ):
        super().__init__()
        made_of = BLOCKS[blocks]
        self.z_dim, self.width, self.classes = z_dim, width, classes
        options = {"norm": made_of.conditional(classes)} if classes else {}
        sizes = [width, *_widths(width, 8, resolution)]
        self.linear = nn.Linear(z_dim, 4 * 4 * width)
        self.blocks = nn.ModuleList([made_of.up(a, b, **options) for a, b in pairwise(sizes)])
        self.norm = made_of.norm_relu(sizes[-1])
        self.to_image = nn.Conv2d(sizes[-1], channels, 3, padding=1)
        initialize(self)

    def forward(self, z: Tensor, *y: Tensor) -> Tensor:
        """[N, z_dim], and int64 [N] where there are classes -> [N, channels, resolution, resolution] in (-1, 1)."""
        x = self.linear(z).view(-1, self.width, 4, 4)
        for block in self.blocks:
            x = block(x, *y)
        return torch.tanh(self.to_image(self.norm(x)))


class Discriminator(nn.Module):
    """Logits from images, and classes where there are several: then by projection."""

    def __init__(
        self,
        width: int = 128,
        channels: int = 3,
        blocks: str = "fused",
        resolution: int = IMAGE_SIZE,
        classes: int = 0,
    ):
        super().__init__()
        made_of = BLOCKS[blocks]
        sizes = _widths(width, 8, resolution // 2)[::-1]
        self.blocks = nn.Sequential(
            made_of.first_down(channels, sizes[0]),
            *(made_of.down(a, b) for a, b in pairwise(sizes)),
            made_of.same(width, width),
            made_of.same(width, width),
        )
        self.linear = nn.Linear(width, 1)
        self.embed = nn.Embedding(classes, width) if classes else None
        initialize(self)

    def forward(self, x: Tensor, *y: Tensor) -> Tensor:
        """[N, channels, resolution, resolution], and int64 [N] where there are classes -> [N]."""
        x = F.relu(self.blocks(x)).sum((2, 3))
        logits = self.linear(x).squeeze(1)
        return logits if self.embed is None else logits + (self.embed(*y) * x).sum(1)


def _widths(width: int, least: int, resolution: int) -> list[int]:
    """The channels at resolutions from the least one to the image's, doubling."""
    sizes = [size for size in (8, 16, 32, 64, 128, 256, 512) if least <= size <= resolution]
    return [max(width // max(size // IMAGE_SIZE, 1), 1) for size in sizes]


def initialize(model: nn.Module) -> None:
    """Glorot-uniform weights, gain sqrt(2) for the 3x3 convolutions of residual blocks; zero biases and embeddings.

    A generator's classes begin alike: gain 1 and bias 0. A discriminator's embedding begins as its linear layer does.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            residual = name.endswith(("conv1", "conv2"))
            nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(2) if residual else 1.0)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Embedding):
            (nn.init.xavier_uniform_ if name == "embed" else nn.init.zeros_)(layer.weight)


def torch_spectral_norm(model: nn.Module) -> None:
    """Put torch's spectral norm on every convolution, linear layer and embedding, in place."""
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear, nn.Embedding)):
            parametrizations.spectral_norm(layer)


def grouped_spectral_norm(model: nn.Module) -> None:
    """Torch's spectral norm, all layers of which are computed in one grouped call: same keys, same values."""
    torch_spectral_norm(model)
    group_spectral_norm(model)


SPECTRAL_NORMS: dict[str, Callable[[nn.Module], None]] = {
    "grouped": grouped_spectral_norm,
    "torch": torch_spectral_norm,
}
