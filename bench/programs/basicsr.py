"""BasicSR."""

from importlib import import_module

import torch
import torch.nn.functional as F
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


def build(dtype: torch.dtype, size: int, batch: int, width: int, blocks: int) -> tuple[dict[str, nn.Module], Steps]:
    """ESRGAN's generator (SR, four times the size, L1 loss), and StyleGAN2 (G and D, R1).

    On a CPU StyleGAN2's activation runs patched alone: where it is not, the same in plain torch takes its place.
    """
    act = import_module("basicsr.ops.fused_act.fused_act")
    if not hasattr(act, "fused_act_ext"):
        act.fused_leaky_relu = import_module("basicsr.ops.fused_act").fused_leaky_relu = _fused_leaky_relu
    networks = import_module("basicsr.archs.stylegan2_arch")
    G = networks.StyleGAN2Generator(size, 64, 2, narrow=width / 512)
    D = networks.StyleGAN2Discriminator(size, narrow=width / 512)
    SR = import_module("basicsr.archs.rrdbnet_arch").RRDBNet(
        3, 3, num_feat=width, num_block=blocks, num_grow_ch=width // 2
    )
    prepared(dtype, G, D, SR)
    z, real = random_latents(dtype, batch, 64), random_images(dtype, batch, 3, size, size)
    large = random_images(dtype, batch, 3, 4 * size, 4 * size)

    def d_step() -> Tensor:
        with torch.no_grad():
            fake, _ = G([z])
        x = real.clone().requires_grad_()
        on_real = D(x)
        (g,) = torch.autograd.grad(on_real.sum(), x, create_graph=True)
        return differentiated(F.softplus(-on_real).mean() + F.softplus(D(fake)).mean() + 5 * g.square().sum() / batch)

    def g_step() -> Tensor:
        return differentiated(F.softplus(-D(G([z])[0])).mean())

    def sr_step() -> Tensor:
        return differentiated(F.l1_loss(SR(real), large))

    steps = {"SR step": (SR, sr_step), "D step": (D, d_step), "G step": (G, g_step)}
    return {"G": G, "D": D, "SR": SR}, steps


def _fused_leaky_relu(x: Tensor, bias: Tensor, negative_slope: float = 0.2, scale: float = 2**0.5) -> Tensor:
    return F.leaky_relu(x + bias.view(1, -1, *[1] * (x.ndim - 2)), negative_slope) * scale


CODEBASE = Codebase(
    build,
    "basicsr",
    packages={"basicsr": {}, "basicsr.archs": {}, "basicsr.utils": {"get_root_logger": None}},
    absent=NO_TORCHVISION,
)
