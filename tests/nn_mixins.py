"""Layers in the style of BigGAN-PyTorch's SN and of mimicry's SpectralNorm, mixins whose method computes the weight."""

import torch
from torch import nn
from torch.nn import functional as F


class SN:
    """BigGAN's: u is kept after every iteration, so in eval mode each starts from the same."""

    def prepare(self, iterations):
        self.num_svs, self.num_itrs, self.transpose, self.eps = 1, iterations, False, 1e-12
        self.register_buffer("u0", torch.randn(1, self.weight.size(0)))
        self.register_buffer("sv0", torch.ones(1))

    def W_(self):
        matrix = self.weight.view(self.weight.size(0), -1)
        for _ in range(self.num_itrs):
            with torch.no_grad():
                v = F.normalize(self.u0 @ matrix, eps=self.eps)
                u = F.normalize(v @ matrix.t(), eps=self.eps)
                if self.training:
                    self.u0.copy_(u)
        sigma = (v @ matrix.t() @ u.t()).squeeze()
        if self.training:
            with torch.no_grad():
                self.sv0.copy_(sigma)
        return self.weight / sigma


class SpectralNorm:
    """mimicry's: all iterations in both modes, then u is kept in training mode."""

    def prepare(self, iterations):
        self.num_iters, self.eps = iterations, 1e-12
        self.register_buffer("sn_u", torch.randn(1, self.weight.size(0)))
        self.register_buffer("sn_sigma", torch.ones(1))

    def sn_weights(self):
        matrix = self.weight.view(self.weight.size(0), -1)
        u = self.sn_u
        for _ in range(self.num_iters):
            with torch.no_grad():
                v = F.normalize(u @ matrix, eps=self.eps)
                u = F.normalize(v @ matrix.t(), eps=self.eps)
        sigma = u @ (matrix @ v.t())
        if self.training:
            with torch.no_grad():
                self.sn_sigma.copy_(sigma[0])
                self.sn_u.copy_(u)
        return self.weight / sigma.squeeze()


class _Layer:
    """nn.Linear and others with the mixin's weight."""

    def __init__(self, layer, iterations):
        vars(self).update(vars(layer))
        self.prepare(iterations)

    def forward(self, x):
        weight = self.W_() if isinstance(self, SN) else self.sn_weights()
        if isinstance(self, nn.Linear):
            return F.linear(x, weight, self.bias)
        if isinstance(self, nn.Embedding):
            return F.embedding(x, weight)
        if isinstance(self, nn.ConvTranspose1d):
            return F.conv_transpose1d(x, weight, self.bias, self.stride, self.padding)
        if isinstance(self, nn.ConvTranspose2d):
            return F.conv_transpose2d(x, weight, self.bias, self.stride, self.padding)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


LAYERS = {}
for mixin in (SN, SpectralNorm):
    for layer in (nn.Linear, nn.Embedding, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d):
        name = f"{mixin.__name__}{layer.__name__}"
        # Among the module's names, so that they can be pickled.
        LAYERS[mixin, layer] = globals()[name] = type(name, (_Layer, layer, mixin), {"__module__": __name__})


def biggan(layer, n_power_iterations=1):
    return LAYERS[SN, type(layer)](layer, n_power_iterations)


def mimicry(layer, n_power_iterations=1):
    return LAYERS[SpectralNorm, type(layer)](layer, n_power_iterations)
