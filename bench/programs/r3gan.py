"""R3GAN."""

from importlib import import_module

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.bench.program import Codebase, Steps, prepared, random_images, random_latents
from fastgan.bench.programs._stylegan import NVIDIA
from fastgan.penalty import R1, R2, penalized_loss


def build(
    dtype: torch.dtype, widths: list[int], cardinality: int, batch: int, blocks: int = 1, penalized: bool = False
) -> tuple[dict[str, nn.Module], Steps]:
    """Its trainer: relativistic loss, R1 and R2. `penalized`: D's loss by `penalized_loss` instead."""
    networks = import_module("training.networks")
    size, latents = 4 * 2 ** (len(widths) - 1), 64
    options = {"ExpansionFactor": 2, "FP16Stages": [], "c_dim": 0, "img_resolution": size}
    stages = {"CardinalityPerStage": [cardinality] * len(widths), "BlocksPerStage": [blocks] * len(widths)}
    G = networks.Generator(NoiseDimension=latents, WidthPerStage=widths, **stages, **options)
    D = networks.Discriminator(WidthPerStage=widths[::-1], **stages, **options)
    prepared(dtype, G, D)
    for stage in (*G.Model.MainLayers, *D.Model.MainLayers):
        stage.DataType = dtype
        for kernel in stage.buffers():
            kernel.data = kernel.float()  # its ops take no other
    trainer = import_module("R3GAN.Trainer").AdversarialTraining(G, D)
    z, real, gamma = random_latents(dtype, batch, latents), random_images(dtype, batch, 3, size, size), 0.5

    def d_step() -> list[Tensor]:
        loss, *_ = trainer.AccumulateDiscriminatorGradients(z, real, None, gamma)
        return [loss.mean()]

    def penalized_d_step() -> list[Tensor]:
        fake = G(z, None)
        penalties = [R1(gamma), R2(gamma)]
        out = penalized_loss(
            D, real, fake, lambda on_real, on_fake: F.softplus(on_fake - on_real).mean(), penalties,
            real_args=[None], fake_args=[None], together=True, engine="linearized",
        )  # fmt: skip
        out.loss.backward()
        return [out.adversarial]

    def g_step() -> list[Tensor]:
        return [t.mean() for t in trainer.AccumulateGeneratorGradients(z, real, None)]

    steps = {"D step": (D, penalized_d_step if penalized else d_step), "G step": (G, g_step)}
    return {"G": G, "D": D}, steps


CODEBASE = Codebase(build, **NVIDIA)
