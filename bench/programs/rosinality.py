"""rosinality's StyleGAN2."""

from importlib import import_module

import torch
from torch import Tensor, nn

from fastgan.bench.program import (
    NO_TORCHVISION,
    Codebase,
    Steps,
    differentiated,
    prepared,
    random_images,
    random_latents,
)


def build(dtype: torch.dtype, size: int, batch: int) -> tuple[dict[str, nn.Module], Steps]:
    """Its StyleGAN2, the losses of its train.py, R1 and path length in every step; widths are its own, mostly 512."""
    networks, train = import_module("model"), import_module("train")
    G, D = networks.Generator(size, 64, 2), networks.Discriminator(size)
    prepared(dtype, G, D)
    z, real = random_latents(dtype, batch, 64), random_images(dtype, batch, 3, size, size)

    def d_step() -> Tensor:
        with torch.no_grad():
            fake, _ = G([z])
        x = real.clone().requires_grad_()
        on_real = D(x)
        penalty = train.d_r1_loss(on_real, x)
        return differentiated(train.d_logistic_loss(on_real, D(fake)) + 5 * penalty)

    def g_step() -> Tensor:
        fake, latents = G([z], return_latents=True)
        penalty, _, _ = train.g_path_regularize(fake, latents, 0)
        return differentiated(train.g_nonsaturating_loss(D(fake)) + 2 * penalty)

    return {"G": G, "D": D}, {"D step": (D, d_step), "G step": (G, g_step)}


CODEBASE = Codebase(build, "rosinality", absent={**NO_TORCHVISION, "lmdb": {}, "tqdm": {}})
