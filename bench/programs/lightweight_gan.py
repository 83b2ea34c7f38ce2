"""lightweight-gan."""

from importlib import import_module
from unittest import mock

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


def build(
    dtype: torch.dtype, size: int, batch: int, most: int, penalty: bool = True
) -> tuple[dict[str, nn.Module], Steps]:
    """G and D with attention, its hinge and auto-encoding losses, and its kind of gradient penalty."""
    # It imports on a machine with a GPU alone; its filters do not.
    import_module("kornia.filters")
    with mock.patch.object(torch.cuda, "is_available", return_value=True):
        codebase = import_module("lightweight_gan.lightweight_gan")
    options = {"image_size": size, "fmap_max": most, "attn_res_layers": [16]}
    G, D = codebase.Generator(latent_dim=64, **options), codebase.Discriminator(**options)
    prepared(dtype, G, D)
    z, real = random_latents(dtype, batch, 64), random_images(dtype, batch, 3, size, size)

    def d_step() -> Tensor:
        with torch.no_grad():
            fake = G(z)
        x = real.clone()
        for images in (fake, x) if penalty else ():
            images.requires_grad_()
        (on_fake, small_fake, _), (on_real, small_real, aux) = D(fake), D(x, calc_aux_loss=True)
        loss = codebase.hinge_loss(on_real, on_fake) + codebase.hinge_loss(small_real, small_fake) + aux
        if penalty:
            outputs = [on_fake.sum() + small_fake.sum(), on_real.sum() + small_real.sum()]
            g = torch.cat(torch.autograd.grad(outputs, [fake, x], create_graph=True))
            loss = loss + 10 * g.flatten(1).norm(2, dim=1).square().mean()
        return differentiated(loss)

    def g_step() -> Tensor:
        on_fake, small, _ = D(G(z))
        return differentiated(codebase.gen_hinge_loss(on_fake, None) + codebase.gen_hinge_loss(small, None))

    return {"G": G, "D": D}, {"D step": (D, d_step), "G step": (G, g_step)}


CODEBASE = Codebase(build, absent={**NO_TORCHVISION, "adabelief_pytorch": {}, "tqdm": {}})
