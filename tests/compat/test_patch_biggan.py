"""fastgan.patch on BigGAN-PyTorch's layers, as they are written here."""

import importlib
import sys
from collections import Counter
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from codebases.forks import BIGGAN
from torch import nn

import fastgan
from fastgan import functional

X = torch.linspace(-2, 2, 2 * 3 * 8 * 8).view(2, 3, 8, 8)


def statuses(report):
    return {row.name: row.status for row in report.rows}


class Norm(nn.Module):
    """Conditional, and counts its calls."""

    def __init__(self, channels):
        super().__init__()
        self.gain = nn.Linear(4, channels)

    def forward(self, x, y):
        return (x - x.mean((0, 2, 3), keepdim=True)) * (1 + self.gain(y))[..., None, None]


def four_blocks(layers, conv="SNConv2d", up=F.interpolate, pool=nn.AvgPool2d, **options):
    """G and D of two blocks each, one of which resamples."""
    conv = partial(getattr(layers, conv, nn.Conv2d), kernel_size=3, padding=1, **options)
    torch.manual_seed(0)
    shared = {"which_conv": conv, "activation": nn.ReLU()}
    upsample = partial(up, scale_factor=2) if up is F.interpolate else up
    blocks = [
        layers.GBlock(3, 5, which_bn=Norm, upsample=upsample, **shared),
        layers.GBlock(5, 5, which_bn=Norm, **shared),
        layers.DBlock(5, 6, downsample=pool(2), preactivation=True, **shared),
        layers.DBlock(6, 6, downsample=pool(2), wide=False, **shared),
        layers.DBlock(6, 6, preactivation=True, **shared),
    ]
    return nn.ModuleList(blocks).double()


def run_blocks(blocks, steps=3):
    """Outputs, gradients and state of some steps of an optimizer, and of an eval forward."""
    optimizer = torch.optim.SGD(blocks.parameters(), 1e-3)  # Adam makes steps of the rounding of gradients that are 0
    seen = []
    y = torch.linspace(-1, 1, 8, dtype=torch.float64).view(2, 4)
    for training in [True] * steps + [False]:
        h = X.double()
        for block in blocks.train(training):
            h = block(h, y) if hasattr(block, "bn1") else block(h)
        optimizer.zero_grad()
        h.square().mean().backward()
        seen += [h.detach(), *(p.grad.clone() for p in blocks.parameters())]
        optimizer.step()
        seen += [b.clone() for b in blocks.buffers()]
    return [*seen, dict(blocks.state_dict())]


@pytest.fixture
def calls(monkeypatch):
    """How often each of our resampling convolutions runs."""
    counts = Counter()

    def counted(name, function):
        def call(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        return call

    for name in ("upsample_conv2d", "conv_downsample2d"):
        monkeypatch.setattr(functional, name, counted(name, getattr(functional, name)))
    return counts


@pytest.mark.parametrize("imported", [False, True])
@pytest.mark.parametrize("conv", ["SNConv2d", "Conv2d"])
def test_blocks_of_biggan(checkout, calls, imported, conv):
    checkout(BIGGAN)
    layers = importlib.import_module("layers")
    expected = run_blocks(four_blocks(layers, conv))
    theirs = [layers.SN.W_, layers.GBlock.forward, layers.DBlock.forward]
    if not imported:
        del sys.modules["layers"]
    torch.manual_seed(1)
    report = fastgan.patch("biggan-pytorch")
    layers = importlib.import_module("BigGAN").layers
    assert statuses(report)["layers.SN.W_"] == ("replaced" if imported else "waiting for import")
    assert {row.status for row in fastgan.patch("biggan").rows[:3]} == {"replaced"}
    state = torch.random.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state)
    calls.clear()
    torch.testing.assert_close(run_blocks(four_blocks(layers, conv)), expected, rtol=1e-9, atol=1e-11)
    assert calls == {"upsample_conv2d": 4, "conv_downsample2d": 8}
    fastgan.unpatch("biggan")
    if imported:
        assert [layers.SN.W_, layers.GBlock.forward, layers.DBlock.forward] == theirs
    run_blocks(four_blocks(layers, conv), 1)
    assert calls == {"upsample_conv2d": 4, "conv_downsample2d": 8}


OTHERS = {
    "bilinear": {"up": partial(F.interpolate, scale_factor=2, mode="bilinear")},
    "a lambda": {"up": lambda x: F.interpolate(x, scale_factor=2)},
    "max pooling": {"pool": nn.MaxPool2d},
    "no resampling by 2": {"up": nn.Upsample(scale_factor=4), "pool": lambda size: nn.AvgPool2d(4)},
    "a hook": {"conv": "hooked"},
    "two singular values": {"num_svs": 2},
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_biggans_blocks_do_not_fuse_is_theirs(checkout, calls, case):
    checkout(BIGGAN)
    layers = importlib.import_module("layers")
    layers.hooked = lambda *args, **kwargs: torch.nn.utils.spectral_norm(nn.Conv2d(*args, **kwargs))
    options = OTHERS[case]
    expected = run_blocks(four_blocks(layers, **options), 1)
    fastgan.patch("biggan")
    calls.clear()
    torch.testing.assert_close(run_blocks(four_blocks(layers, **options), 1), expected, rtol=1e-9, atol=1e-11)
    fused = {"upsample_conv2d": 2 * ("up" not in options), "conv_downsample2d": 4 * ("pool" not in options)}
    assert calls == ({} if case == "a hook" else {name: count for name, count in fused.items() if count})


def test_a_subclass_keeps_its_shortcut(checkout):
    checkout(BIGGAN)
    layers = importlib.import_module("layers")

    class Halved(layers.DBlock):
        def shortcut(self, x):
            return 0.5 * super().shortcut(x)

    block = Halved(3, 4, partial(nn.Conv2d, kernel_size=3, padding=1), True, True, nn.ReLU(), nn.AvgPool2d(2)).double()
    expected = block(X.double())
    fastgan.patch("biggan")
    torch.testing.assert_close(block(X.double()), expected, rtol=1e-12, atol=1e-12)


def test_another_codebases_layers_are_left_alone(checkout):
    other = BIGGAN["layers.py"].replace("return self.weight / sigma", "return 2 * self.weight / sigma")
    other = other.replace("wide=True,", "wide=True, groups=1,").replace("class GBlock", "class Block")
    checkout({"layers.py": other})
    layers = importlib.import_module("layers")
    theirs = layers.SN.W_, layers.DBlock.forward
    rows = {row.name: row for row in fastgan.patch("biggan").rows}
    assert (layers.SN.W_, layers.DBlock.forward) == theirs
    assert rows["layers.SN.W_"][1:] == ("left", "it computes something else than BigGAN-PyTorch's SN")
    assert rows["layers.GBlock.forward"].status == "not there"
    assert rows["layers.DBlock.forward"][1:] == ("left", "its constructor is not that of BigGAN-PyTorch's DBlock")


def test_a_class_that_fails_is_left_alone(checkout):
    checkout({"layers.py": BIGGAN["layers.py"].replace("self.bn2(h, y)", "self.bn2(h)")})
    rows = {row.name: row for row in fastgan.patch("biggan").rows}
    importlib.import_module("layers")
    rows = {row.name: row for row in fastgan.patch("biggan").rows}
    assert rows["layers.SN.W_"].status == rows["layers.DBlock.forward"].status == "replaced"
    assert rows["layers.GBlock.forward"].reason.startswith("it does not run as BigGAN-PyTorch's GBlock does: TypeError")
