"""BigGAN-PyTorch."""

from importlib import import_module

import torch
from torch import Tensor, nn

from fastgan.bench.program import Codebase, Steps, differentiated, prepared, random_images, random_latents


def build(dtype: torch.dtype, width: int, batch: int, classes: int = 10) -> tuple[dict[str, nn.Module], Steps]:
    """The CIFAR model of its script, hinge loss, one pass of D over fake and real images."""
    networks, losses = import_module("BigGAN"), import_module("losses")
    shape = {"resolution": 32, "n_classes": classes}
    G = networks.Generator(G_ch=width, dim_z=128, G_attn="0", G_shared=False, no_optim=True, **shape)
    D = networks.Discriminator(D_ch=width, D_attn="0", **shape)
    prepared(dtype, G, D)
    both = networks.G_D(G, D)
    z, x = random_latents(dtype, batch, 128), random_images(dtype, batch, 3, 32, 32)
    fake_labels, labels = torch.randint(classes, (2, batch))

    def d_step() -> Tensor:
        fake, real = both(z, fake_labels, x, labels, train_G=False)
        return differentiated(sum(losses.discriminator_loss(fake, real)))

    def g_step() -> Tensor:
        return differentiated(losses.generator_loss(both(z, fake_labels, train_G=True)))

    return {"G": G, "D": D}, {"D step": (D, d_step), "G step": (G, g_step)}


CODEBASE = Codebase(build)
