"""mimicry: PyTorch GANs, of which SNGAN."""

from importlib import import_module

import torch
from torch import Tensor, nn

from fastgan.bench.program import Codebase, Steps, differentiated, prepared, random_images, random_latents


def build(dtype: torch.dtype, width: int, batch: int) -> tuple[dict[str, nn.Module], Steps]:
    """SNGAN for 32x32 images, with torch's spectral norm, which is its default."""
    networks = import_module("torch_mimicry.nets.sngan.sngan_32")
    G, D = networks.SNGANGenerator32(ngf=2 * width), networks.SNGANDiscriminator32(ndf=width)
    prepared(dtype, G, D)
    z, real = random_latents(dtype, batch, G.nz), random_images(dtype, batch, 3, 32, 32)

    def d_step() -> Tensor:
        on_real = D(real)
        return differentiated(D.compute_gan_loss(on_real, D(G(z).detach())))

    def g_step() -> Tensor:
        return differentiated(G.compute_gan_loss(D(G(z))))

    return {"G": G, "D": D}, {"D step": (D, d_step), "G step": (G, g_step)}


CODEBASE = Codebase(build, packages={"torch_mimicry": {}, "torch_mimicry.nets": {}})
