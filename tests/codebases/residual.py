"""Residual networks: the functional way of BigGAN, the methods of SNGAN, lambdas and nn.AvgPool2d."""

import functools

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import spectral_norm
from torch.nn.utils.parametrizations import spectral_norm as parametrized

from codebases.zoo import codebase


class ConditionalNorm(nn.Module):
    """Gain and bias from an embedding, as [N, C, 1, 1]."""

    def __init__(self, channels, condition, linear):
        super().__init__()
        self.gain, self.bias = linear(condition, channels), linear(condition, channels)
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))

    def forward(self, x, y):
        gain = (1 + self.gain(y)).view(y.size(0), -1, 1, 1)
        bias = self.bias(y).view(y.size(0), -1, 1, 1)
        out = F.batch_norm(x, self.stored_mean, self.stored_var, None, None, self.training, 0.1, 1e-5)
        return out * gain + bias


class UpBlock(nn.Module):
    """Takes whatever upsamples as a function."""

    def __init__(self, c_in, c_out, condition, activation, upsample, conv, linear):
        super().__init__()
        self.conv1, self.conv2, self.conv_sc = conv(c_in, c_out), conv(c_out, c_out), conv(c_in, c_out, 1, padding=0)
        self.bn1, self.bn2 = ConditionalNorm(c_in, condition, linear), ConditionalNorm(c_out, condition, linear)
        self.activation, self.upsample = activation, upsample

    def forward(self, x, y):
        h = self.activation(self.bn1(x, y))
        if self.upsample:
            h = self.upsample(h)
            x = self.upsample(x)
        h = self.conv1(h)
        h = self.activation(self.bn2(h, y))
        return self.conv2(h) + self.conv_sc(x)


class Attention(nn.Module):
    """Self-attention with a learned gain."""

    def __init__(self, channels, conv):
        super().__init__()
        self.channels = channels
        self.theta, self.phi = conv(channels, 1, 1, padding=0), conv(channels, 1, 1, padding=0)
        self.g, self.o = conv(channels, 2, 1, padding=0), conv(2, channels, 1, padding=0)
        self.gamma = nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        theta, phi, g = self.theta(x), F.max_pool2d(self.phi(x), [2, 2]), F.max_pool2d(self.g(x), [2, 2])
        theta, phi, g = (t.view(t.size(0), t.size(1), -1) for t in (theta, phi, g))
        beta = F.softmax(torch.bmm(theta.transpose(1, 2), phi), -1)
        o = self.o(torch.bmm(g, beta.transpose(1, 2)).view(-1, 2, x.shape[2], x.shape[3]))
        return self.gamma * o + x


@codebase("biggan generator", (6,), labels=3)
class BigGANGenerator(nn.Module):
    def __init__(self):
        super().__init__()

        def conv(c_in, c_out, kernel_size=3, padding=1):
            return spectral_norm(nn.Conv2d(c_in, c_out, kernel_size, padding=padding))

        linear = functools.partial(nn.Linear, bias=False)
        self.shared = nn.Embedding(3, 4)
        self.linear = spectral_norm(nn.Linear(6, 6 * 4))
        upsample = functools.partial(F.interpolate, scale_factor=2)
        activation = nn.ReLU(inplace=False)
        self.blocks = nn.ModuleList([
            nn.ModuleList([UpBlock(6, 4, 4, activation, upsample, conv, linear)]),
            nn.ModuleList([UpBlock(4, 4, 4, activation, upsample, conv, linear), Attention(4, conv)]),
        ])  # fmt: skip
        self.output = nn.Sequential(nn.BatchNorm2d(4), activation, conv(4, 3))

    def forward(self, z, y):
        y = self.shared(y)
        h = self.linear(z).view(z.size(0), -1, 2, 2)
        for blocks in self.blocks:
            for block in blocks:
                h = block(h, y) if isinstance(block, UpBlock) else block(h)
        return torch.tanh(self.output(h))


class DownBlock(nn.Module):
    def __init__(self, c_in, c_out, conv, activation, preactivation=True, downsample=None):
        super().__init__()
        self.conv1, self.conv2, self.conv_sc = conv(c_in, c_out), conv(c_out, c_out), conv(c_in, c_out, 1, padding=0)
        self.activation, self.preactivation, self.downsample = activation, preactivation, downsample

    def shortcut(self, x):
        if self.preactivation:
            x = self.conv_sc(x)
            if self.downsample:
                x = self.downsample(x)
        else:
            if self.downsample:
                x = self.downsample(x)
            x = self.conv_sc(x)
        return x

    def forward(self, x):
        h = F.relu(x) if self.preactivation else x
        h = self.conv2(self.activation(self.conv1(h)))
        if self.downsample:
            h = self.downsample(h)
        return h + self.shortcut(x)


@codebase("biggan critic", (3, 8, 8), labels=3, critic=True)
class BigGANCritic(nn.Module):
    def __init__(self):
        super().__init__()

        def conv(c_in, c_out, kernel_size=3, padding=1):
            return spectral_norm(nn.Conv2d(c_in, c_out, kernel_size, padding=padding))

        activation = nn.ReLU()
        self.blocks = nn.ModuleList([
            DownBlock(3, 4, conv, activation, False, nn.AvgPool2d(2)), Attention(4, conv),
            DownBlock(4, 6, conv, activation, True, nn.AvgPool2d(2)), DownBlock(6, 6, conv, activation),
        ])  # fmt: skip
        self.activation = activation
        self.linear, self.embed = spectral_norm(nn.Linear(6, 1)), spectral_norm(nn.Embedding(3, 6))

    def forward(self, x, y=None):
        h = x
        for block in self.blocks:
            h = block(h)
        h = torch.sum(self.activation(h), [2, 3])
        out = self.linear(h)
        return out if y is None else out + torch.sum(self.embed(y) * h, 1, keepdim=True)


class SNGANBlock(nn.Module):
    """Up or down in methods."""

    def __init__(self, c_in, c_out, *, up=False, down=False, norm=True):
        super().__init__()
        wrap = (lambda layer: layer) if norm else parametrized
        self.c1, self.c2 = wrap(nn.Conv2d(c_in, c_out, 3, 1, 1)), wrap(nn.Conv2d(c_out, c_out, 3, 1, padding=1))
        self.c_sc = wrap(nn.Conv2d(c_in, c_out, 1, 1, 0))
        self.b1, self.b2 = (nn.BatchNorm2d(c_in), nn.BatchNorm2d(c_out)) if norm else (nn.Identity(), nn.Identity())
        self.act = nn.ReLU(True)
        self.up, self.down = up, down

    def _upsample_conv(self, x, conv):
        return conv(F.interpolate(x, scale_factor=2, mode="bilinear" if self.up == "bilinear" else "nearest"))

    def _residual(self, x):
        h = self.act(self.b1(x)) if isinstance(self.b1, nn.BatchNorm2d) else F.relu(x)
        h = self._upsample_conv(h, self.c1) if self.up else self.c1(h)
        h = self.c2(self.act(self.b2(h)))
        return F.avg_pool2d(h, 2) if self.down else h

    def _shortcut(self, x):
        h = self._upsample_conv(x, self.c_sc) if self.up else self.c_sc(x)
        return F.avg_pool2d(h, 2) if self.down else h

    def forward(self, x):
        return self._residual(x) + self._shortcut(x)


@codebase("sngan generator", (6,))
class SNGANGenerator(nn.Module):
    def __init__(self):
        super().__init__()
        self.l1 = nn.Linear(6, 4 * 6)
        self.block2, self.block3 = SNGANBlock(6, 4, up=True), SNGANBlock(4, 4, up="bilinear")
        self.b4, self.activation, self.c4 = nn.BatchNorm2d(4), nn.ReLU(True), nn.Conv2d(4, 3, 3, 1, padding=1)

    def forward(self, x):
        h = self.block3(self.block2(self.l1(x).view(x.shape[0], -1, 2, 2)))
        return torch.tanh(self.c4(self.activation(self.b4(h))))


@codebase("sngan critic", (3, 8, 8), critic=True)
class SNGANCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.block1 = SNGANBlock(3, 4, down=True, norm=False)
        self.block2 = SNGANBlock(4, 6, down=True, norm=False)
        self.activation, self.l3 = nn.ReLU(True), parametrized(nn.Linear(6, 1))

    def forward(self, x):
        return self.l3(torch.sum(self.activation(self.block2(self.block1(x))), dim=(2, 3)))


@codebase("resnet with functions", (4, 4, 4))
class ResNetGenerator(nn.Module):
    """Blocks whose ways up and down are lambdas in a list."""

    def __init__(self):
        super().__init__()
        self.up = lambda x: F.interpolate(x, None, 2.0, "nearest")
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))
        self.skip = nn.Conv2d(4, 4, 1, bias=False)
        self.norm = nn.GroupNorm(2, 4)

    def forward(self, x):
        steps = [
            lambda h: torch.nn.functional.leaky_relu(h, negative_slope=0.2),
            self.up,
            lambda h: self.convs[0](input=h),
            lambda h: F.leaky_relu(input=self.norm(h), negative_slope=0.2),
            lambda h: self.convs[1](h),
        ]
        h = functools.reduce(lambda h, step: step(h), steps, x)
        h = (h + self.up(self.skip(x))) / 2**0.5
        return F.conv2d(F.relu(self.convs[2](h)), self.convs[3].weight, self.convs[3].bias, padding="same").tanh()


@codebase("resnet critic with AvgPool2d", (3, 8, 8), critic=True)
def resnet_critic():
    class Residual(nn.Module):
        def __init__(self, c_in, c_out):
            super().__init__()
            self.main = nn.Sequential(
                nn.LeakyReLU(0.2), nn.Conv2d(c_in, c_out, 3, 1, 1), nn.LeakyReLU(0.2),
                nn.Conv2d(c_out, c_out, 3, 1, 1), nn.AvgPool2d(2),
            )  # fmt: skip
            self.bypass = nn.Sequential(nn.Conv2d(c_in, c_out, 1, 1, 0), nn.AvgPool2d(2, stride=2))

        def forward(self, x):
            return self.bypass(x) + 0.1 * self.main(x)

    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 1, 1), Residual(4, 4), Residual(4, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 1)
    )
