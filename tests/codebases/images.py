"""From images to images: pix2pix and CycleGAN's generators, super-resolution."""

import torch
import torch.nn.functional as F
from torch import nn

from codebases.zoo import codebase


@codebase("cyclegan generator", (3, 8, 8))
def cyclegan():
    class Block(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.block = nn.Sequential(
                nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), nn.InstanceNorm2d(channels), nn.ReLU(True),
                nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), nn.InstanceNorm2d(channels),
            )  # fmt: skip

        def forward(self, x):
            return x + self.block(x)

    return nn.Sequential(
        nn.ReflectionPad2d(3), nn.Conv2d(3, 4, 7), nn.InstanceNorm2d(4), nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.InstanceNorm2d(6), nn.ReLU(inplace=True), Block(6),
        nn.Upsample(scale_factor=2), nn.Conv2d(6, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.ReLU(inplace=True),
        nn.ReflectionPad2d(3), nn.Conv2d(4, 3, 7), nn.Tanh(),
    )  # fmt: skip


@codebase("pix2pix generator", (3, 8, 8))
class UNet(nn.Module):
    """Skip connections by cat; the ReLU in place is on what is concatenated."""

    def __init__(self):
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 4, 4, 2, 1), nn.Conv2d(4, 4, 4, 2, 1)
        self.norm1, self.norm2, self.norm3 = nn.InstanceNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.up1, self.up2 = nn.ConvTranspose2d(4, 4, 4, 2, 1), nn.Conv2d(8, 3, 3, padding=1)
        self.lrelu, self.relu = nn.LeakyReLU(0.2, True), nn.ReLU(True)

    def forward(self, x):
        one = self.norm1(self.down1(x))
        two = self.norm2(self.down2(self.lrelu(one)))
        up = self.norm3(self.up1(self.relu(two)))
        both = self.relu(torch.cat([one, up], 1))
        return torch.tanh(self.up2(F.interpolate(both, scale_factor=2)))


@codebase("super-resolution", (3, 4, 4))
class SuperResolution(nn.Module):
    """Dense blocks, nearest upsampling, a residual that is scaled."""

    def __init__(self):
        super().__init__()
        self.first, self.c1, self.c2 = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 2, 3, 1, 1), nn.Conv2d(6, 4, 3, 1, 1)
        self.up1, self.up2, self.hr, self.last = (nn.Conv2d(4, 4, 3, 1, 1) for _ in range(4))
        self.lrelu = nn.LeakyReLU(negative_slope=0.2, inplace=True)

    def forward(self, x):
        feat = self.first(x)
        x1 = self.lrelu(self.c1(feat))
        feat = feat + self.c2(torch.cat((feat, x1), 1)) * 0.2
        feat = self.lrelu(self.up1(F.interpolate(feat, scale_factor=2, mode="nearest")))
        feat = self.lrelu(self.up2(F.interpolate(feat, scale_factor=2, mode="nearest")))
        return self.last(self.lrelu(self.hr(feat)))


@codebase("patch critic", (3, 8, 8), critic=True)
def patch_critic():
    return nn.Sequential(
        nn.Conv2d(3, 4, 4, 2, 1), nn.LeakyReLU(0.2, True), nn.Conv2d(4, 6, 4, 2, 1, bias=False), nn.InstanceNorm2d(6),
        nn.LeakyReLU(0.2, True), nn.Conv2d(6, 1, 2),
    )  # fmt: skip
