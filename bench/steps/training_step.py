"""Whole updates of an SNGAN: of its discriminator on given fake images, and of its generator.

Modes: "D step", two forwards of D, hinge loss, backward, Adam; "G step", G, D, hinge loss, backward, Adam. The networks
are the same; what computes their layers differs.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastgan.bench.workload import Contender, Op, Workload, relative_error, within
from fastgan.train.models import IMAGE_SIZE, SPECTRAL_NORMS, Discriminator, Generator
from fastgan.train.step import hinge_d, hinge_g

Loss = Callable[..., Tensor]

BASELINE = "torch"


class Case(NamedTuple):
    """The widths of the networks, and the shape of a batch."""

    width: int
    width_g: int
    channels: int
    batch: int


CASES = {
    "sngan-digits": Case(width=32, width_g=32, channels=1, batch=32),
    "sngan-cifar": Case(width=128, width_g=256, channels=3, batch=64),
}


class Networks(NamedTuple):
    """G and D, and by mode the one that is updated, and the loss and its inputs."""

    G: nn.Module
    D: nn.Module

    def updated(self, mode: str) -> nn.Module:
        """The network that a mode updates; the other one needs no gradients."""
        net = self.D if mode == "D step" else self.G
        for network in self:
            network.requires_grad_(network is net)
        return net

    def loss(self, mode: str) -> Loss:
        """All forwards in one function: torch.compile of D alone cannot do two before a backward, as u changes."""
        if mode == "D step":
            return lambda real, fake: hinge_d(self.D(real), self.D(fake))
        return lambda z: hinge_g(self.D(self.G(z)))


class Setup(NamedTuple):
    """What all contenders start from; by mode the inputs, and the first gradient in float64, all in one vector."""

    case: Case
    states: tuple[dict[str, Tensor], ...]
    inputs: dict[str, tuple[Tensor, ...]]
    expected: dict[str, Tensor]


def workload(name: str, device: torch.device, backend_names: Sequence[str], compiled: bool) -> Workload:
    """Torch's layers, the grouped spectral norm, and with it the fused blocks, in the same steps."""
    setup = _setup(CASES[name], device)
    contenders = {BASELINE: lambda: _contender(setup, "torch", "torch")}
    skipped = {}
    if compiled:
        contenders["torch.compile"] = lambda: _contender(setup, "torch", "torch", torch.compile)
    else:
        skipped["torch.compile"] = "not asked for (--compile)"
    for chosen in backend_names:
        for label, blocks in (("spectral norm", "torch"), ("spectral norm and blocks", "fused")):
            contenders[f"fastgan {label} ({chosen})"] = lambda blocks=blocks, chosen=chosen: _contender(
                setup, blocks, "grouped", chosen=chosen
            )
    return Workload(
        baseline=BASELINE,
        contenders=contenders,
        skipped=skipped,
        modes=tuple(setup.inputs),
        moved_bytes={},
        # Float32 through twenty layers of convolutions, which CUDA may compute in TF32.
        baseline_bound=1e-2,
        # One in millions of units is so near its kink that rounding puts it on the other side.
        rounding=1e-3,
    )


def _networks(case: Case, device: torch.device, blocks: str, spectral_norm: str) -> Networks:
    G = Generator(width=case.width_g, channels=case.channels, blocks=blocks)
    D = Discriminator(case.width, case.channels, blocks)
    SPECTRAL_NORMS[spectral_norm](D)
    return Networks(G.to(device), D.to(device))


def _setup(case: Case, device: torch.device) -> Setup:
    torch.manual_seed(0)
    networks = _networks(case, device, "torch", "torch")
    states = tuple({key: value.clone() for key, value in net.state_dict().items()} for net in networks)
    shape = (case.batch, case.channels, IMAGE_SIZE, IMAGE_SIZE)
    real, fake = (torch.rand(shape, device=device) * 2 - 1 for _ in range(2))
    inputs = {"D step": (real, fake), "G step": (torch.randn(case.batch, networks.G.z_dim, device=device),)}
    expected = {}
    for mode, tensors in inputs.items():
        _restore(networks, states)
        for network in networks:
            network.double()
        net = networks.updated(mode)
        networks.loss(mode)(*(tensor.double() for tensor in tensors)).backward()
        expected[mode] = _gradient(net)
        net.zero_grad()
    return Setup(case, states, inputs, expected)


def _contender(
    setup: Setup,
    blocks: str,
    spectral_norm: str,
    transform: Callable[[Loss], Loss] = lambda loss: loss,
    chosen: str | None = None,
) -> Contender:
    device = setup.inputs["D step"][0].device
    networks = _networks(setup.case, device, blocks, spectral_norm)

    def step(mode: str) -> Callable[[], tuple[str, nn.Module]]:
        loss = transform(networks.loss(mode))
        # A rate so small that the network, and with it the work, stays as it is however often it is timed.
        parameters = networks.updated(mode).parameters()
        optimizer = torch.optim.Adam(parameters, lr=1e-9, betas=(0.0, 0.9), capturable=device.type == "cuda")

        def run() -> tuple[str, nn.Module]:
            net = networks.updated(mode)
            value = loss(*setup.inputs[mode])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            return mode, net

        return run

    def error(run: Callable[[], tuple[str, nn.Module]]) -> float:
        _restore(networks, setup.states)
        mode, net = run()
        return relative_error(_gradient(net), setup.expected[mode])

    return Contender({mode: step(mode) for mode in setup.inputs}, error, context=within(chosen), backend=chosen)


def _restore(networks: Networks, states: Sequence[dict[str, Tensor]]) -> None:
    for network, state in zip(networks, states, strict=True):
        network.load_state_dict(state)


def _gradient(network: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])


OPS = (
    Op(
        name="training_step",
        cases={
            name: f"{IMAGE_SIZE}x{IMAGE_SIZE}x{case.channels}, widths {case.width} and {case.width_g}, "
            f"batch {case.batch}; Miyato et al. 2018"
            for name, case in CASES.items()
        },
        quick=("sngan-digits",),
        workload=workload,
        gpu=tuple(CASES),
    ),
)
