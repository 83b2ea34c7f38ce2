"""BigGAN-PyTorch's and mimicry's own networks: grouped, and patched, they compute what they did untouched."""

import importlib
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastgan
from fastgan.compat import patching
from fastgan.nn.utils import group_spectral_norm

LABELS = torch.tensor([0, 1, 2, 0])


def biggan(peer):
    """G and D of its CIFAR model, narrow, with attention and two iterations in D."""
    peer("biggan")
    codebase = importlib.import_module("BigGAN")
    shared = {"resolution": 32, "n_classes": 3, "hier": True}
    G = codebase.Generator(
        G_ch=4, dim_z=16, shared_dim=6, G_attn="16", G_activation=nn.ReLU(inplace=True), no_optim=True, **shared
    )
    D = codebase.Discriminator(D_ch=4, D_attn="16", num_D_SV_itrs=2, D_activation=nn.ReLU(inplace=True), **shared)
    # Without its own optimizer, which is not a module, nothing of it is in the way of a copy.
    return G, D, lambda z: G(z, G.shared(LABELS)), lambda x: D(x, LABELS)


def mimicry(peer):
    """G and D of its projection GAN, narrow, with its own spectral norm rather than torch's, its default."""
    peer("mimicry", without=("torch_mimicry", "torch_mimicry.nets"))
    modules = importlib.import_module("torch_mimicry.modules")
    blocks = importlib.import_module("torch_mimicry.modules.resblocks")
    nets = importlib.import_module("torch_mimicry.nets.cgan_pd.cgan_pd_32")
    for name in ("SNConv2d", "SNLinear", "SNEmbedding"):
        for holder in (blocks, nets):
            if hasattr(holder, name):
                setattr(holder, name, partial(getattr(modules.layers, name), default=False))
    G = nets.CGANPDGenerator32(num_classes=3, ngf=8, nz=16)
    D = nets.CGANPDDiscriminator32(num_classes=3, ndf=8)
    return G, D, lambda z: G(z, LABELS), lambda x: D(x, LABELS)


METHODS = {"layers.SN.W_", "layers.GBlock.forward", "layers.DBlock.forward"}
CODEBASES = {"biggan": biggan, "mimicry": mimicry}


def steps(codebase, peer, prepare, dtype=torch.float64):
    """Three steps of G and D, and an eval forward: outputs, gradients, and all state after every step.

    By plain gradient descent: Adam's first steps are the gradients' signs, which make values of rounding.
    """
    torch.manual_seed(0)
    G, D, generate, judge = codebase(peer)
    G.to(dtype), D.to(dtype)
    prepare(G, D)
    optimizers = {net: torch.optim.SGD(net.parameters(), 0.02) for net in (D, G)}
    seen = []
    for _ in range(3):
        z, real = torch.randn(4, 16).to(dtype), torch.rand(4, 3, 32, 32).to(dtype) * 2 - 1
        for net, loss in (
            (D, lambda: F.relu(1 - judge(real)).mean() + F.relu(1 + judge(generate(z).detach())).mean()),  # noqa: B023
            (G, lambda: -judge(generate(z)).mean()),  # noqa: B023
        ):
            value = loss()
            optimizers[net].zero_grad()
            value.backward()
            gradients = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
            optimizers[net].step()
            seen.append({"loss": value.detach(), **gradients})
        seen += [{name: b.clone() for name, b in net.named_buffers()} for net in (G, D)]
    G.eval(), D.eval()
    with torch.no_grad():
        images = generate(torch.randn(4, 16).to(dtype))
        seen.append({"images": images, "scores": judge(images)})
    return [*seen, dict(G.state_dict()), dict(D.state_dict())]


def nothing(*nets):
    """The untouched run."""


def compare(codebase, peer, prepare, nothing=nothing):
    """Every number in float64, to rounding. In float32, the error of each part by its norm, to a thousandth.

    That is what one ReLU or hinge does to a part's gradients whose argument rounds to the other side of zero, and over
    three steps some do, in either run.
    """
    exact, ours = steps(codebase, peer, nothing), steps(codebase, peer, prepare)
    torch.testing.assert_close(ours, exact, rtol=1e-9, atol=1e-9)
    rounded, ours = (steps(codebase, peer, action, torch.float32) for action in (nothing, prepare))
    for part, (a, b, c) in enumerate(zip(ours, rounded, exact, strict=True)):
        assert a.keys() == b.keys() == c.keys()
        a, b, c = (torch.cat([value.double().flatten() for value in values.values()]) for values in (a, b, c))
        error, allowed = (a - c).norm(), 2 * (b - c).norm() + 1e-3 * c.norm()
        assert error <= allowed, part


@pytest.mark.parametrize("name", CODEBASES)
def test_grouped_spectral_norm(name, peer):
    reports = []
    compare(CODEBASES[name], peer, lambda *nets: reports.extend(map(group_spectral_norm, nets)))
    assert not any(report.skipped for report in reports)
    styles = {layer.style for report in reports for layer in report.grouped}
    assert styles == {"biggan": {"BigGAN"}, "mimicry": {"mimicry"}}[name]
    # mimicry's generator has no spectral norm.
    assert [len(report.grouped) > 5 for report in reports[:2]] == [name == "biggan", True]


@pytest.mark.parametrize("grouped", [False, True])
def test_patched_biggan(peer, grouped):
    def prepare(*nets):
        """The classes are imported already, and the networks built."""
        report = fastgan.patch("biggan")
        assert {row.name for row in report.rows if row.status == "replaced"} == METHODS
        if grouped:
            for net in nets:
                assert not group_spectral_norm(net).skipped

    def untouched(*nets):
        if patching._patched:
            fastgan.unpatch("biggan")

    try:
        compare(biggan, peer, prepare, untouched)
    finally:
        untouched()


def test_biggan_patched_before_it_is_imported(peer):
    try:
        fastgan.patch("biggan")
        biggan(peer)
        assert {row.name for row in fastgan.patch("biggan").rows if row.status == "replaced"} == METHODS
    finally:
        fastgan.unpatch("biggan")
