"""Sequences of modules: DCGAN, WGAN-GP, and what is built in loops."""

import torch
from torch import nn

from codebases.zoo import codebase


@codebase("dcgan generator", (6, 2, 2))
def dcgan_generator():
    return nn.Sequential(
        nn.ConvTranspose2d(6, 6, 4, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU(True),
        nn.Upsample(scale_factor=2), nn.Conv2d(6, 4, 3, stride=1, padding=1), nn.BatchNorm2d(4, 0.8),
        nn.LeakyReLU(0.2, inplace=True),
        nn.UpsamplingNearest2d(scale_factor=2), nn.ReflectionPad2d(1), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.SELU(),
        nn.Conv2d(4, 3, 3, stride=1, padding=1), nn.Tanh(),
    )  # fmt: skip


@codebase("dcgan critic", (3, 8, 8), critic=True)
class DCGANCritic(nn.Module):
    """Batch norm in a critic: two forwards come before a backward."""

    def __init__(self):
        super().__init__()

        def block(c_in, c_out, bn=True):
            layers = [nn.Conv2d(c_in, c_out, 3, 2, 1), nn.LeakyReLU(0.2, inplace=True), nn.Dropout2d(0.0)]
            if bn:
                layers.insert(1, nn.BatchNorm2d(c_out, 0.8))
            return layers

        self.model = nn.Sequential(*block(3, 4, bn=False), *block(4, 6), *block(6, 6))
        self.adv_layer = nn.Sequential(nn.Linear(6, 1), nn.Sigmoid())

    def forward(self, img):
        out = self.model(img)
        return self.adv_layer(out.view(out.shape[0], -1))


@codebase("wgan-gp generator", (5,))
class WGANGenerator(nn.Module):
    def __init__(self):
        super().__init__()
        self.preprocess = nn.Sequential(nn.Linear(5, 4 * 6), nn.BatchNorm1d(4 * 6), nn.ReLU(True))
        self.block1 = nn.Sequential(nn.Upsample(scale_factor=(2, 2), mode="nearest"), nn.Conv2d(6, 4, 5, padding=2))
        self.norm = nn.Sequential(nn.InstanceNorm2d(4, affine=True), nn.LeakyReLU(0.2, True))
        self.out = nn.ConvTranspose2d(4, 3, 2, stride=2)

    def forward(self, x):
        out = self.preprocess(x).view(-1, 6, 2, 2)
        return torch.sigmoid(self.out(self.norm(self.block1(out))))


@codebase("wgan-gp critic", (3, 8, 8), critic=True)
def wgan_critic():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.AvgPool2d(2), nn.LeakyReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.AvgPool2d(2),
        nn.LeakyReLU(), nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.LayerNorm([6, 2, 2]), nn.LeakyReLU(),
        nn.Flatten(), nn.Linear(24, 1),
    )  # fmt: skip
