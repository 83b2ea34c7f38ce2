"""Equalised learning rate: the bias is added by hand, then leaky ReLU and a gain."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from codebases.zoo import codebase


class EqualConv(nn.Module):
    def __init__(self, c_in, c_out, kernel=3, activate=True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(c_out).uniform_(-1, 1))
        self.scale, self.padding, self.activate = 1 / math.sqrt(c_in * kernel**2), kernel // 2, activate

    def forward(self, x):
        out = F.conv2d(x, self.weight * self.scale, padding=self.padding)
        if not self.activate:
            return out + self.bias[:, None, None]
        return F.leaky_relu(out + self.bias.view(1, -1, 1, 1), 0.2) * math.sqrt(2)


class Styled(nn.Module):
    """Modulated by a style, with noise."""

    def __init__(self, c_in, c_out, style, up=False):
        super().__init__()
        self.conv, self.affine, self.up = EqualConv(c_in, c_out, activate=False), nn.Linear(style, c_in), up
        self.strength, self.register = nn.Parameter(torch.tensor([0.1])), None

    def forward(self, x, w):
        style = self.affine(w)[:, :, None, None] + 1
        x = F.instance_norm(x) * style
        if self.up:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        out = self.conv(x)
        noise = torch.linspace(-1, 1, out[0, 0].numel(), dtype=out.dtype).view(1, 1, *out.shape[2:])
        out = out + noise * self.strength
        return (F.leaky_relu(out, 0.2) * math.sqrt(2)).clamp(-256, 256)


@codebase("style generator", (5,))
class StyleGenerator(nn.Module):
    def __init__(self):
        super().__init__()
        self.mapping = nn.ModuleList([nn.Linear(5, 6), nn.Linear(6, 4)])
        self.const = nn.Parameter(torch.randn(1, 4, 2, 2))
        self.layers = nn.ModuleList([Styled(4, 4, 4), Styled(4, 4, 4, up=True), Styled(4, 4, 4, up=True)])
        self.rgb = nn.ModuleList([EqualConv(4, 3, 1, activate=False) for _ in self.layers])

    def forward(self, z):
        w = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.mapping:
            w = F.leaky_relu(layer(w), 0.2) * 2**0.5
        x, image = self.const.expand(len(z), -1, -1, -1), None
        for layer, rgb in zip(self.layers, self.rgb, strict=True):
            x = layer(x, w)
            if image is not None and image.shape != x.shape:
                image = F.interpolate(image, size=x.shape[2:])
            image = rgb(x) if image is None else image + rgb(x)
        return image


@codebase("style critic", (3, 8, 8), critic=True)
class StyleCritic(nn.Module):
    """Residual, with the deviation over the minibatch."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv0, self.conv1 = EqualConv(3, 4, 1), EqualConv(4, 4), EqualConv(4, 6)
        self.skip = EqualConv(4, 6, 1, activate=False)
        self.final, self.dense = EqualConv(7, 6), nn.Linear(6 * 16, 1)

    def forward(self, x):
        x = self.stem(x)
        h = F.avg_pool2d(self.conv1(self.conv0(x)), 2)
        x = (h + F.avg_pool2d(self.skip(x), 2)) * math.sqrt(0.5)
        deviation = (x.var(0, unbiased=False) + 1e-8).sqrt().mean().view(1, 1, 1, 1)
        x = torch.cat([x, deviation.expand(x.shape[0], 1, *x.shape[2:])], 1)
        return self.dense(self.final(x).flatten(1))
