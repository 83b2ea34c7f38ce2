"""Sound and volumes."""

import torch
import torch.nn.functional as F
from torch import nn

from codebases.zoo import codebase


@codebase("audio generator", (4, 6))
class AudioGenerator(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(4, 4, 5, padding=2), nn.Conv1d(4, 1, 3, padding="same")
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        h = self.conv1(F.interpolate(x, scale_factor=4))
        h = F.leaky_relu_(self.norm(h), 0.2)
        return torch.tanh(self.conv2(nn.Upsample(size=48)(h)))


@codebase("audio critic", (1, 16), critic=True)
def audio_critic():
    return nn.Sequential(
        nn.Conv1d(1, 4, 5, padding=2), nn.AvgPool1d(2), nn.LeakyReLU(0.1), nn.Conv1d(4, 4, 3, padding=1, groups=2),
        nn.AvgPool1d(2), nn.GELU(), nn.Conv1d(4, 1, 4),
    )  # fmt: skip


@codebase("volume generator", (4, 2, 2, 2))
def volume_generator():
    return nn.Sequential(
        nn.Upsample(scale_factor=2), nn.Conv3d(4, 3, 3, padding=1), nn.BatchNorm3d(3), nn.ELU(inplace=True),
        nn.Conv3d(3, 2, 1), nn.InstanceNorm3d(2, affine=True), nn.SiLU(), nn.Conv3d(2, 1, 3, padding=1), nn.Softplus(),
    )  # fmt: skip


@codebase("volume critic", (1, 4, 4, 4), critic=True)
def volume_critic():
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.AvgPool3d(2), nn.LeakyReLU(0.2), nn.Conv3d(4, 1, 1), nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
    )  # fmt: skip
