"""A critic with every kind of layer that spectral norm is used on, and every style of that: torch's way and ours."""

import torch
from nn_mixins import biggan, mimicry
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as torch_hook

from fastgan.nn.utils import spectral_norm

STYLES = {
    "torch hook": (torch_hook, torch_hook),
    "torch parametrization": (parametrizations.spectral_norm, parametrizations.spectral_norm),
    "fastgan": (parametrizations.spectral_norm, spectral_norm),
    "BigGAN": (biggan, biggan),
    "mimicry": (mimicry, mimicry),
}


class Critic(nn.Module):
    """Every kind of layer; `extra` is used on demand."""

    def __init__(self, norm):
        super().__init__()
        self.body = nn.Sequential(norm(nn.Conv2d(3, 6, 3)), nn.LeakyReLU(0.2), norm(nn.ConvTranspose2d(6, 4, 3, 2)))
        self.embed = norm(nn.Embedding(5, 4))
        self.head = norm(nn.Linear(4, 1), n_power_iterations=2)
        self.extra = norm(nn.Linear(4, 4))

    def forward(self, x, *, extra_uses=0):
        h = self.body(x).relu().mean((2, 3))
        for _ in range(extra_uses):
            h = h + self.extra(h).relu()
        return self.head(h).squeeze(1) + (self.embed(torch.arange(len(x)) % 5) * h).sum(1)
