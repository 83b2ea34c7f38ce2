"""Critics of published kinds: piecewise linear in the image, and without coupling between samples."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as hook_spectral_norm

from critics.zoo import CLASSES, Call, conv, entry, labels
from fastgan import functional
from fastgan.nn import ConvDownsample2d, UpsampleConv2d
from fastgan.nn.utils import group_spectral_norm


@entry("dcgan")
def dcgan() -> nn.Module:
    def block(c_in, c_out):
        return nn.Conv2d(c_in, c_out, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)

    return nn.Sequential(
        *block(3, 6), *block(6, 8), nn.Conv2d(8, 1, 4, 1, 0), nn.Flatten(0)
    )  # fmt: skip


class SNGANBlock(nn.Module):
    def __init__(self, c_in, c_out, *, down, first=False):
        super().__init__()
        self.first = first
        self.conv1, self.conv2 = conv(c_in, c_out), conv(c_out, c_out)
        self.shortcut = conv(c_in, c_out, 1) if down or c_in != c_out else None
        self.pool = nn.AvgPool2d(2) if down else nn.Identity()

    def forward(self, x):
        h = self.conv2(torch.relu(self.conv1(x if self.first else torch.relu(x))))
        shortcut = x if self.shortcut is None else self.pool(self.shortcut(x))
        return self.pool(h) + shortcut


class SNGAN(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(
            SNGANBlock(3, 6, down=True, first=True), SNGANBlock(6, 6, down=True), SNGANBlock(6, 6, down=False)
        )
        self.linear = nn.Linear(6, 1)

    def forward(self, x):
        h = torch.relu(self.blocks(x))
        return self.linear(torch.sum(h, dim=(2, 3)))


def normalized(model: nn.Module, norm: Callable[[nn.Module], nn.Module]) -> nn.Module:
    for layer in list(model.modules()):
        if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
            norm(layer)
    return model


@entry("sngan, hooks")
def sngan_hooks() -> nn.Module:
    return normalized(SNGAN(), hook_spectral_norm)


@entry("sngan, parametrizations")
def sngan_parametrizations() -> nn.Module:
    return normalized(SNGAN(), parametrizations.spectral_norm)


@entry("sngan, grouped")
def sngan_grouped() -> nn.Module:
    model = sngan_parametrizations()
    group_spectral_norm(model)
    return model


class Spectral:
    """BigGAN's style of spectral norm: the weight is computed by the layer's forward, u is a buffer."""

    def normalized_weight(self):
        w = self.weight.view(self.weight.size(0), -1)
        with torch.no_grad():
            v = F.normalize(torch.matmul(self.u, w), eps=1e-12)
            self.u[:] = F.normalize(torch.matmul(v, w.t()), eps=1e-12)
        sigma = torch.squeeze(torch.matmul(torch.matmul(v, w.t()), self.u.clone().t()))
        return self.weight / sigma

    def add_u(self):
        self.register_buffer("u", torch.randn(1, self.weight.size(0)))
        return self


class SNConv2d(Spectral, nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.normalized_weight(), self.bias, self.stride, self.padding, self.dilation, self.groups)


class SNLinear(Spectral, nn.Linear):
    def forward(self, x):
        return F.linear(x, self.normalized_weight(), self.bias)


class SNEmbedding(Spectral, nn.Embedding):
    def forward(self, y):
        return F.embedding(y, self.normalized_weight())


class BigGANBlock(nn.Module):
    def __init__(self, c_in, c_out, *, down, preactivation):
        super().__init__()
        self.conv1 = SNConv2d(c_in, c_out, 3, padding=1).add_u()
        self.conv2 = SNConv2d(c_out, c_out, 3, padding=1).add_u()
        self.conv_sc = SNConv2d(c_in, c_out, 1).add_u()
        self.activation = nn.ReLU(False)
        self.down, self.preactivation = down, preactivation

    def shortcut(self, x):
        if self.preactivation:
            x = self.conv_sc(x)
            return F.avg_pool2d(x, 2) if self.down else x
        return self.conv_sc(F.avg_pool2d(x, 2) if self.down else x)

    def forward(self, x):
        h = self.conv1(F.relu(x) if self.preactivation else x)
        h = self.conv2(self.activation(h))
        if self.down:
            h = F.avg_pool2d(h, 2)
        return h + self.shortcut(x)


class BigGAN(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(
            [nn.ModuleList([BigGANBlock(3, 6, down=True, preactivation=False)]),
             nn.ModuleList([BigGANBlock(6, 6, down=True, preactivation=True)]),
             nn.ModuleList([BigGANBlock(6, 6, down=False, preactivation=True)])]
        )  # fmt: skip
        self.activation = nn.ReLU(inplace=True)
        self.linear = SNLinear(6, 1).add_u()
        self.embed = SNEmbedding(CLASSES, 6).add_u()

    def forward(self, x, y=None):
        h = x
        for blocks in self.blocks:
            for block in blocks:
                h = block(h)
        h = torch.sum(self.activation(h), [2, 3])
        out = self.linear(h)
        return out + torch.sum(self.embed(y) * h, 1, keepdim=True)


entry("biggan cifar, projection", args=labels)(BigGAN)


@entry("patch critic")
def patch_critic() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 4, 2, 1), nn.LeakyReLU(0.2, True),
        nn.ReplicationPad2d(1), nn.Conv2d(6, 8, 4, 1, 1), nn.LeakyReLU(0.2, True),
        nn.Conv2d(8, 1, 4, 1, 1),
    )  # fmt: skip


class LabelMap(nn.Module):
    """A class's own plane, concatenated to the image, and a projection on top."""

    def __init__(self):
        super().__init__()
        self.plane = nn.Embedding(CLASSES, 16 * 16)
        self.conv = nn.Sequential(conv(4, 6, stride=2), nn.LeakyReLU(0.1), conv(6, 6, stride=2), nn.LeakyReLU(0.1))
        self.project, self.out = nn.Embedding(CLASSES, 6), nn.Linear(6, 1)

    def forward(self, x, y):
        h = torch.cat([x, self.plane(y).view(-1, 1, 16, 16)], 1)
        h = self.conv(h).mean((2, 3))
        return self.out(h).squeeze(1) + (h * self.project(y)).sum(1)


entry("label map and projection", args=labels)(LabelMap)


class OneHotMap(nn.Module):
    """A one-hot label as constant planes: no parameter, no gradient, but a constant that meets an activation."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(conv(3 + CLASSES, 6, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, 1))

    def forward(self, x, y):
        hot = F.one_hot(y, CLASSES).to(x.dtype)[:, :, None, None]
        return self.net(torch.cat((x, hot.expand(-1, -1, *x.shape[2:])), dim=1))


entry("one-hot planes", args=labels)(OneHotMap)


class Conditioned(nn.Module):
    """A second input of floats, through its own layers, scales and shifts the features."""

    def __init__(self):
        super().__init__()
        self.conv, self.scale, self.shift = conv(3, 6, stride=2), nn.Linear(4, 6), nn.Linear(4, 6)
        self.out = nn.Linear(6 * 64, 1)

    def forward(self, x, c):
        c = torch.tanh(c.to(x.dtype))
        h = self.conv(x) * self.scale(c)[:, :, None, None] + self.shift(c).view(-1, 6, 1, 1)
        return self.out(F.leaky_relu(h, 0.2).flatten(1))


entry("conditioned on floats", args=lambda n: (torch.linspace(-1, 1, 4 * n).view(n, 4),))(Conditioned)


class WaveGAN(nn.Module):
    """Phase shuffle by reflection padding and rolling; the shifts are drawn per forward."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(1, 4, 25, 4, padding=11), nn.Conv1d(4, 6, 25, 4, padding=11)
        self.out = nn.Linear(6 * 4, 1)

    def forward(self, x):
        h = F.leaky_relu(self.conv1(x), 0.2)
        shift = int(torch.randint(-2, 3, ()))
        h = F.pad(h, (max(shift, 0), max(-shift, 0)), mode="reflect")[..., max(-shift, 0) :][..., :16]
        h = torch.roll(h, 1, dims=-1)
        h = F.leaky_relu(self.conv2(h), 0.2)
        return self.out(h.view(x.shape[0], -1))


entry("wavegan", shape=(1, 64))(WaveGAN)


class Video(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv3d(2, 4, 3, padding=1), nn.Conv3d(4, 4, 3, padding=1)
        self.out = nn.Linear(4, 1)

    def forward(self, x):
        h = F.max_pool3d(F.relu(self.conv1(x)), 2)
        h = F.max_pool3d(F.relu(self.conv2(h)), 2)
        return self.out(F.adaptive_avg_pool3d(h, 1).flatten(1))


entry("3-d", shape=(2, 4, 8, 8))(Video)


class ScaledConv(nn.Module):
    """Equalised learning rate: the weight's scale is applied in the forward, as is the bias with its own activation."""

    def __init__(self, c_in, c_out, kernel, groups=1, *, bias=True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in // groups, kernel, kernel))
        self.bias = nn.Parameter(0.1 * torch.randn(c_out)) if bias else None
        self.scale = 1 / math.sqrt(c_in // groups * kernel**2)
        self.padding, self.groups = kernel // 2, groups

    def forward(self, x):
        w = (self.weight * self.scale).to(x.dtype)
        x = F.conv2d(input=x, weight=w, padding=self.padding, groups=self.groups)
        if self.bias is None:
            return x
        x = x + self.bias.to(x.dtype).view(1, -1, 1, 1)
        return F.leaky_relu(x, negative_slope=0.2) * math.sqrt(2)


class GroupedResidual(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.linear1 = ScaledConv(c, 2 * c, 1)
        self.linear2 = ScaledConv(2 * c, 2 * c, 3, groups=c)
        self.linear3 = ScaledConv(2 * c, c, 1, bias=False)

    def forward(self, x):
        return x + self.linear3(self.linear2(self.linear1(x)))


class R3GAN(nn.Module):
    """Grouped residual blocks, one of them used at both resolutions; FIR downsampling; a 4x4 depthwise head."""

    def __init__(self):
        super().__init__()
        self.from_image = ScaledConv(3, 6, 1)
        self.block, self.last = GroupedResidual(6), GroupedResidual(6)
        fir = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("fir", (fir[:, None] * fir) / fir.sum() ** 2)
        self.basis = nn.Conv2d(6, 6, 4, groups=6, bias=False)
        self.out = nn.Linear(6, 1, bias=False)

    def down(self, x):
        kernel = self.fir.to(x.dtype).expand(x.shape[1], 1, 4, 4)
        return F.conv2d(F.pad(x, [1, 1, 1, 1]), kernel, stride=2, groups=x.shape[1])

    def forward(self, x):
        h = self.down(self.block(self.from_image(x)))
        h = self.down(self.last(self.block(h)))
        return self.out(self.basis(h).view(len(x), -1)).view(x.shape[0])


entry("r3gan")(R3GAN)


class MultiScale(nn.Module):
    """A pyramid of the image, a head each; several logits per sample."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList(nn.Sequential(conv(3, 4), nn.LeakyReLU(0.2), conv(4, 1, stride=2)) for _ in range(3))

    def forward(self, x):
        pyramid = [
            x,
            F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
            F.interpolate(x, size=(6, 6), mode="bicubic", align_corners=False),
        ]
        return torch.cat([head(level).flatten(1) for head, level in zip(self.heads, pyramid, strict=True)], dim=1)


entry("multi-scale")(MultiScale)


class UNet(nn.Module):
    """A logit per pixel, and one per image from the middle."""

    def __init__(self):
        super().__init__()
        self.down1, self.down2, self.middle = conv(3, 4, stride=2), conv(4, 6, stride=2), conv(6, 6)
        self.up1, self.up2 = conv(6, 4), nn.ConvTranspose2d(8, 4, 4, 2, 1)
        self.out, self.image = conv(4 + 3, 1), nn.Linear(6, 1)

    def forward(self, x):
        d1 = F.leaky_relu(self.down1(x), 0.2)
        d2 = F.leaky_relu(self.down2(d1), 0.2)
        m = F.leaky_relu(self.middle(d2), 0.2) + d2
        u1 = F.relu(self.up1(F.interpolate(m, scale_factor=2, mode="bilinear", align_corners=True)))
        u2 = F.relu(self.up2(torch.cat([u1, d1], 1)))
        pixels = self.out(torch.cat([u2, x], 1))
        return torch.cat([pixels.flatten(1), self.image(m.mean([2, 3]))], 1)


entry("unet")(UNet)


class Maxout(nn.Module):
    """An MLP: every spelling of a product with a matrix."""

    def __init__(self):
        super().__init__()
        sizes = {"w1": (24, 32), "w2": (6, 8), "w3": (8, 8), "w4": (8, 8), "w5": (8, 1)}
        for name, size in sizes.items():
            setattr(self, name, nn.Parameter(torch.randn(size) / math.sqrt(size[0])))
        self.b1, self.b4 = nn.Parameter(torch.randn(24)), nn.Parameter(torch.randn(8))

    def forward(self, x):
        h = F.linear(input=x, weight=self.w1, bias=self.b1)
        h = h.view(len(x), 6, 4).max(dim=2)[0]
        h = h @ self.w2
        h = torch.relu(torch.einsum("ni,io->no", h, self.w3))
        h = torch.addmm(self.b4, h, self.w4)
        return torch.matmul(h, self.w5)[:, 0]


entry("maxout mlp", shape=(32,))(Maxout)


@entry("batched matmul")
def batched_matmul() -> nn.Module:
    class Tokens(nn.Module):
        """Pixels as tokens, [N, T, C]: bmm with an expanded weight, matmul over the last dimension, transposes."""

        def __init__(self):
            super().__init__()
            self.w1, self.w2 = nn.Parameter(torch.randn(12, 6) / 3), nn.Parameter(torch.randn(6, 6) / 3)
            self.mix, self.out = nn.Linear(64, 64), nn.Linear(6, 1)

        def forward(self, x):
            tokens = F.unfold(x, 2, stride=2).transpose(1, 2)
            h = F.relu(torch.bmm(tokens, self.w1.expand(len(x), 12, 6)))
            h = F.relu(torch.matmul(h, self.w2))
            h = h + self.mix(h.mT).mT
            return self.out(h.mean(1))

    return Tokens()


@entry("prelu, weight norm, eval batch norm, dropout")
def normalizations() -> nn.Module:
    norm = nn.BatchNorm2d(6)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    nn.init.normal_(norm.weight)
    return nn.Sequential(
        parametrizations.weight_norm(conv(3, 6, stride=2)), nn.PReLU(6), norm.eval(), nn.Dropout2d(0.3),
        torch.nn.utils.weight_norm(conv(6, 6, stride=2)), nn.PReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(96, 1),
    )  # fmt: skip


@entry("convolutions with resampling")
def resampled() -> nn.Module:
    fir = functional.setup_filter([1, 3, 3, 1])

    def forward(self, x):
        h = F.leaky_relu(self.down(x), 0.2)
        h = F.leaky_relu(functional.conv_downsample2d(x=h, weight=self.point.weight, bias=self.point.bias), 0.2)
        h = F.leaky_relu(self.up(h), 0.2)
        h = functional.conv_downsample2d(h, self.strided.weight, bias=self.strided.bias, mode="fir", fir=fir)
        return self.out(h.flatten(1))

    return Call(
        forward,
        down=ConvDownsample2d(3, 6, 3),
        point=conv(6, 6, 1),
        up=UpsampleConv2d(6, 6, 3),
        strided=conv(6, 6),
        out=nn.Linear(96, 1),
    )
