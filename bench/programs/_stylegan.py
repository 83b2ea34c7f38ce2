"""What the codebases of StyleGAN2-ADA's origin share."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from fastgan.bench.program import Steps, prepared, random_images

NVIDIA = {"family": "stylegan", "absent": {"requests": {}, "pkg_resources": {"parse_version": TorchVersion}}}


def program_of(
    dtype: torch.dtype, G: nn.Module, D: nn.Module, loss: Any, phase: Mapping[str, Any], batch: int
) -> tuple[dict[str, nn.Module], Steps]:
    """Its generator's forward, and the phases of its loss."""
    prepared(dtype, G, D)
    size = G.img_resolution
    z, real, c = torch.randn(batch, G.z_dim), random_images(dtype, batch, 3, size, size), torch.zeros(batch, 0)

    def forward() -> Tensor:
        G.eval()
        with torch.no_grad():
            images = G(z, c)
        G.train()
        return images

    def accumulate(name: str) -> Tensor:
        loss.pl_mean.zero_()  # an average over steps
        loss.accumulate_gradients(name, real, c, z, c, gain=1, **phase)
        return loss.pl_mean

    # With R1, and with the path length.
    steps = {"D step": (D, partial(accumulate, "Dboth")), "G step": (G, partial(accumulate, "Gboth"))}
    return {"G": G, "D": D}, {"G forward": (None, forward), **steps}
