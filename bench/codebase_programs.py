"""Published codebases' own networks and steps, on random images: what is measured and tested, patched and untouched.

Every function here builds from a checkout. Networks, losses and penalties are the codebase's; the loop around them,
optimizers and data are not used. Parameters that a codebase starts at zero, such as the last layer of a residual
branch, get random numbers: a gradient that is zero shows nothing.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.torch_version import TorchVersion

import fastgan
from fastgan.bench.checkouts import importable
from fastgan.penalty import R1, R2, penalized_loss

Steps = dict[str, tuple[nn.Module | None, Callable[[], Any]]]


class Program(NamedTuple):
    """A codebase at work.

    Args:
        networks: by name.
        steps: by name, the network that it updates, None for a forward alone; and what accumulates its gradients and
            returns tensors.
        modules: the codebase's, which are not in `sys.modules`.
        family: what it is to be patched as; None if it is to run as it is.
    """

    networks: dict[str, nn.Module]
    steps: Steps
    modules: dict[str, ModuleType]
    family: str | None

    @contextmanager
    def patched(self) -> Iterator[None]:
        """A context in which these modules, and no other build of them, are patched; it is needed to run."""
        if self.family is None:
            yield
            return
        sys.modules.update(self.modules)
        fastgan.patch(self.family)
        try:
            yield
        finally:
            fastgan.unpatch(self.family)
            for name in self.modules:
                sys.modules.pop(name, None)

    def state(self) -> list[dict[str, Tensor]]:
        """A copy of all parameters and buffers, to be put back by `restore`."""
        return [{key: t.clone() for key, t in net.state_dict().items()} for net in self.networks.values()]

    def restore(self, state: list[dict[str, Tensor]]) -> None:
        """Put them back."""
        for network, tensors in zip(self.networks.values(), state, strict=True):
            network.load_state_dict(tensors)

    def run(self, step: str) -> list[Tensor]:
        """What a step returns, and the gradients that it leaves; the same random numbers every time."""
        updated, accumulate = self.steps[step]
        for network in self.networks.values():
            network.requires_grad_(network is updated)
            network.zero_grad(set_to_none=True)
        torch.manual_seed(1)
        out = accumulate()
        outputs = [t.detach() for t in (out if isinstance(out, (tuple, list)) else [out])]
        # A gradient that nothing reached is zero.
        parameters = () if updated is None else updated.parameters()
        return outputs + [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]


class SameDraws(TorchFunctionMode):
    """A mode in which random numbers in float64 are those that float32 would have got."""

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        """Every call of torch."""
        if function is torch.randn_like:
            return torch.randn(args[0].shape).to(args[0])
        if function is Tensor.normal_:
            return args[0].copy_(torch.randn(args[0].shape))
        return function(*args, **(kwargs or {}))


class Codebase(NamedTuple):
    """How a codebase is built.

    Args:
        build: (dtype, **sizes) -> networks and steps, with its modules to be found.
        family: of `fastgan.patch`; None where there is nothing to patch.
        doubles: whether it computes in float64 if its parameters do.
        packages: see `importable`.
        absent: the same.
    """

    build: Callable[..., tuple[dict[str, nn.Module], Steps]]
    family: str | None = None
    doubles: bool = True
    packages: Mapping[str, Mapping[str, Any]] = {}
    absent: Mapping[str, Mapping[str, Any]] = {}


def program(
    name: str, folder: Path, dtype: torch.dtype = torch.float32, patched: bool = False, **sizes: Any
) -> Program:
    """Build from a checkout.

    Args:
        name: of `CODEBASES`.
        folder: the checkout.
        dtype: of parameters and images.
        patched: import the codebase under `fastgan.patch`.
        sizes: what its function below takes.
    """
    codebase = CODEBASES[name]
    family = codebase.family if patched else None
    if family:
        fastgan.patch(family)
    try:
        torch.manual_seed(0)
        with importable(folder, codebase.packages, codebase.absent) as modules:
            networks, steps = codebase.build(dtype, **sizes)
    finally:
        if family:
            fastgan.unpatch(family)
    return Program(networks, steps, modules, family)


def _prepared(dtype: torch.dtype, *networks: nn.Module) -> None:
    for network in networks:
        for parameter in network.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.1)
        network.to(dtype)


def _images(dtype: torch.dtype, *shape: int) -> Tensor:
    return (torch.rand(shape) * 2 - 1).to(dtype)


def _noise(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(shape).to(dtype)


def _differentiated(loss: Tensor) -> Tensor:
    loss.backward()
    return loss


# --- by codebase ---


def biggan(dtype: torch.dtype, width: int, batch: int, classes: int = 10) -> tuple[dict[str, nn.Module], Steps]:
    """The CIFAR model of its script, hinge loss, one pass of D over fake and real images."""
    networks, losses = import_module("BigGAN"), import_module("losses")
    shape = {"resolution": 32, "n_classes": classes}
    G = networks.Generator(G_ch=width, dim_z=128, G_attn="0", G_shared=False, no_optim=True, **shape)
    D = networks.Discriminator(D_ch=width, D_attn="0", **shape)
    _prepared(dtype, G, D)
    both = networks.G_D(G, D)
    z, x = _noise(dtype, batch, 128), _images(dtype, batch, 3, 32, 32)
    fake_labels, labels = torch.randint(classes, (2, batch))

    def d_step() -> Tensor:
        fake, real = both(z, fake_labels, x, labels, train_G=False)
        return _differentiated(sum(losses.discriminator_loss(fake, real)))

    def g_step() -> Tensor:
        return _differentiated(losses.generator_loss(both(z, fake_labels, train_G=True)))

    return {"G": G, "D": D}, {"D step": (D, d_step), "G step": (G, g_step)}


def mimicry(dtype: torch.dtype, width: int, batch: int) -> tuple[dict[str, nn.Module], Steps]:
    """SNGAN for 32x32 images, with torch's spectral norm, which is its default."""
    networks = import_module("torch_mimicry.nets.sngan.sngan_32")
    G, D = networks.SNGANGenerator32(ngf=2 * width), networks.SNGANDiscriminator32(ndf=width)
    _prepared(dtype, G, D)
    z, real = _noise(dtype, batch, G.nz), _images(dtype, batch, 3, 32, 32)

    def d_step() -> Tensor:
        on_real = D(real)
        return _differentiated(D.compute_gan_loss(on_real, D(G(z).detach())))

    def g_step() -> Tensor:
        return _differentiated(G.compute_gan_loss(D(G(z))))

    return {"G": G, "D": D}, {"D step": (D, d_step), "G step": (G, g_step)}


def r3gan(
    dtype: torch.dtype, widths: list[int], cardinality: int, batch: int, blocks: int = 1, penalized: bool = False
) -> tuple[dict[str, nn.Module], Steps]:
    """Its trainer: relativistic loss, R1 and R2. `penalized`: D's loss by `penalized_loss` instead."""
    networks = import_module("training.networks")
    size, noise = 4 * 2 ** (len(widths) - 1), 64
    options = {"ExpansionFactor": 2, "FP16Stages": [], "c_dim": 0, "img_resolution": size}
    stages = {"CardinalityPerStage": [cardinality] * len(widths), "BlocksPerStage": [blocks] * len(widths)}
    G = networks.Generator(NoiseDimension=noise, WidthPerStage=widths, **stages, **options)
    D = networks.Discriminator(WidthPerStage=widths[::-1], **stages, **options)
    _prepared(dtype, G, D)
    for stage in (*G.Model.MainLayers, *D.Model.MainLayers):
        stage.DataType = dtype
        for kernel in stage.buffers():
            kernel.data = kernel.float()  # its ops take no other
    trainer = import_module("R3GAN.Trainer").AdversarialTraining(G, D)
    z, real, gamma = _noise(dtype, batch, noise), _images(dtype, batch, 3, size, size), 0.5

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


def _stylegan(
    dtype: torch.dtype, G: nn.Module, D: nn.Module, loss: Any, phase: Mapping[str, Any], batch: int
) -> tuple[dict[str, nn.Module], Steps]:
    _prepared(dtype, G, D)
    size = G.img_resolution
    z, real, c = torch.randn(batch, G.z_dim), _images(dtype, batch, 3, size, size), torch.zeros(batch, 0)

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


def stylegan2_ada(
    dtype: torch.dtype, size: int, batch: int, base: int, most: int = 512, w: int = 64
) -> tuple[dict[str, nn.Module], Steps]:
    """Its generator and discriminator in float32, its loss, with R1 and path length in every step."""
    networks = import_module("training.networks")
    widths = {"channel_base": base, "channel_max": most, "num_fp16_res": 0}
    mapping = {"num_layers": 2}
    G = networks.Generator(w, 0, w, size, 3, mapping_kwargs=mapping, synthesis_kwargs=widths)
    D = networks.Discriminator(0, size, 3, **widths, epilogue_kwargs={"mbstd_group_size": batch})
    loss = import_module("training.loss").StyleGAN2Loss(torch.device("cpu"), G.mapping, G.synthesis, D)
    return _stylegan(dtype, G, D, loss, {"sync": True}, batch)


def stylegan3(
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
    return _stylegan(dtype, G, D, loss, {"cur_nimg": 0}, batch)


def rosinality(dtype: torch.dtype, size: int, batch: int) -> tuple[dict[str, nn.Module], Steps]:
    """Its StyleGAN2, the losses of its train.py, R1 and path length in every step; widths are its own, mostly 512."""
    networks, train = import_module("model"), import_module("train")
    G, D = networks.Generator(size, 64, 2), networks.Discriminator(size)
    _prepared(dtype, G, D)
    z, real = _noise(dtype, batch, 64), _images(dtype, batch, 3, size, size)

    def d_step() -> Tensor:
        with torch.no_grad():
            fake, _ = G([z])
        x = real.clone().requires_grad_()
        on_real = D(x)
        penalty = train.d_r1_loss(on_real, x)
        return _differentiated(train.d_logistic_loss(on_real, D(fake)) + 5 * penalty)

    def g_step() -> Tensor:
        fake, latents = G([z], return_latents=True)
        penalty, _, _ = train.g_path_regularize(fake, latents, 0)
        return _differentiated(train.g_nonsaturating_loss(D(fake)) + 2 * penalty)

    return {"G": G, "D": D}, {"D step": (D, d_step), "G step": (G, g_step)}


def basicsr(dtype: torch.dtype, size: int, batch: int, width: int, blocks: int) -> tuple[dict[str, nn.Module], Steps]:
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
    _prepared(dtype, G, D, SR)
    z, real = _noise(dtype, batch, 64), _images(dtype, batch, 3, size, size)
    large = _images(dtype, batch, 3, 4 * size, 4 * size)

    def d_step() -> Tensor:
        with torch.no_grad():
            fake, _ = G([z])
        x = real.clone().requires_grad_()
        on_real = D(x)
        (g,) = torch.autograd.grad(on_real.sum(), x, create_graph=True)
        return _differentiated(F.softplus(-on_real).mean() + F.softplus(D(fake)).mean() + 5 * g.square().sum() / batch)

    def g_step() -> Tensor:
        return _differentiated(F.softplus(-D(G([z])[0])).mean())

    def sr_step() -> Tensor:
        return _differentiated(F.l1_loss(SR(real), large))

    steps = {"SR step": (SR, sr_step), "D step": (D, d_step), "G step": (G, g_step)}
    return {"G": G, "D": D, "SR": SR}, steps


def _fused_leaky_relu(x: Tensor, bias: Tensor, negative_slope: float = 0.2, scale: float = 2**0.5) -> Tensor:
    return F.leaky_relu(x + bias.view(1, -1, *[1] * (x.ndim - 2)), negative_slope) * scale


def lightweight_gan(
    dtype: torch.dtype, size: int, batch: int, most: int, penalty: bool = True
) -> tuple[dict[str, nn.Module], Steps]:
    """G and D with attention, its hinge and auto-encoding losses, and its kind of gradient penalty."""
    # It imports on a machine with a GPU alone; its filters do not.
    import_module("kornia.filters")
    with mock.patch.object(torch.cuda, "is_available", return_value=True):
        codebase = import_module("lightweight_gan.lightweight_gan")
    options = {"image_size": size, "fmap_max": most, "attn_res_layers": [16]}
    G, D = codebase.Generator(latent_dim=64, **options), codebase.Discriminator(**options)
    _prepared(dtype, G, D)
    z, real = _noise(dtype, batch, 64), _images(dtype, batch, 3, size, size)

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
        return _differentiated(loss)

    def g_step() -> Tensor:
        on_fake, small, _ = D(G(z))
        return _differentiated(codebase.gen_hinge_loss(on_fake, None) + codebase.gen_hinge_loss(small, None))

    return {"G": G, "D": D}, {"D step": (D, d_step), "G step": (G, g_step)}


_NO_TORCHVISION = {"torchvision": {}, "torchvision.transforms": {}}
_NVIDIA = {"family": "stylegan", "absent": {"requests": {}, "pkg_resources": {"parse_version": TorchVersion}}}
CODEBASES = {
    "biggan": Codebase(biggan),
    "mimicry": Codebase(mimicry, packages={"torch_mimicry": {}, "torch_mimicry.nets": {}}),
    "r3gan": Codebase(r3gan, **_NVIDIA),
    "stylegan2-ada": Codebase(stylegan2_ada, doubles=False, **_NVIDIA),
    "stylegan3": Codebase(stylegan3, doubles=False, **_NVIDIA),
    "rosinality": Codebase(rosinality, "rosinality", absent={**_NO_TORCHVISION, "lmdb": {}, "tqdm": {}}),
    "basicsr": Codebase(
        basicsr,
        "basicsr",
        packages={"basicsr": {}, "basicsr.archs": {}, "basicsr.utils": {"get_root_logger": None}},
        absent=_NO_TORCHVISION,
    ),
    "lightweight-gan": Codebase(lightweight_gan, absent={**_NO_TORCHVISION, "adabelief_pytorch": {}, "tqdm": {}}),
}
