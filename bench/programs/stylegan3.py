"""StyleGAN3."""

from importlib import import_module

import torch
from torch import nn

from fastgan.bench.program import Codebase, Steps
from fastgan.bench.programs._stylegan import NVIDIA, program_of


def build(
    dtype: torch.dtype, size: int, batch: int, base: int, most: int = 512, w: int = 64, layers: int = 6
) -> tuple[dict[str, nn.Module], Steps]:
    """Its alias-free generator, StyleGAN2's discriminator, its loss with R1 (and path length, which it can do)."""
    widths = {"channel_base": base, "channel_max": most, "num_fp16_res": 0}
    G = import_module("training.networks_stylegan3").Generator(
        w, 0, w, size, 3, mapping_kwargs={"num_layers": 2}, num_layers=layers, **widths
    )
    epilogue = {"mbstd_group_size": batch}
    D = import_module("training.networks_stylegan2").Discriminator(0, size, 3, **widths, epilogue_kwargs=epilogue)
    loss = import_module("training.loss").StyleGAN2Loss(torch.device("cpu"), G, D, pl_weight=2)
    return program_of(dtype, G, D, loss, {"cur_nimg": 0}, batch)


CODEBASE = Codebase(build, doubles=False, **NVIDIA)
