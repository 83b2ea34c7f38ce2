"""StyleGAN2-ADA."""

from importlib import import_module

import torch
from torch import nn

from fastgan.bench.program import Codebase, Steps
from fastgan.bench.programs._stylegan import NVIDIA, program_of


def build(
    dtype: torch.dtype, size: int, batch: int, base: int, most: int = 512, w: int = 64
) -> tuple[dict[str, nn.Module], Steps]:
    """Its generator and discriminator in float32, its loss, with R1 and path length in every step."""
    networks = import_module("training.networks")
    widths = {"channel_base": base, "channel_max": most, "num_fp16_res": 0}
    mapping = {"num_layers": 2}
    G = networks.Generator(w, 0, w, size, 3, mapping_kwargs=mapping, synthesis_kwargs=widths)
    D = networks.Discriminator(0, size, 3, **widths, epilogue_kwargs={"mbstd_group_size": batch})
    loss = import_module("training.loss").StyleGAN2Loss(torch.device("cpu"), G.mapping, G.synthesis, D)
    return program_of(dtype, G, D, loss, {"sync": True}, batch)


CODEBASE = Codebase(build, doubles=False, **NVIDIA)
