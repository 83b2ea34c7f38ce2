"""The result of a chain, or what went into it, is changed in place after it: as in plain torch, to second order."""

import copy

import pytest
import torch
import torch.nn.functional as F
from deferrals import assert_no_mode, assert_same, build, images, outcome
from torch import nn

import fastgan
from fastgan.fusion.report import PLAIN
from fastgan.penalty import R1, penalized_loss

ACTIVATIONS = {
    "relu": F.relu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": F.elu,
    "selu": F.selu,
    "softplus": F.softplus,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "silu": F.silu,
    "relu in place": lambda x: F.relu(x, inplace=True),
    "leaky_relu in place": lambda x: F.leaky_relu_(x, 0.2),
}
ENDS = {
    "gain": lambda y: y * 2**0.5,
    "small gain": lambda y: y * 0.25,
    "clamp": lambda y: y.clamp(-0.5, 0.5),
    "gain, clamp": lambda y: (y * 1.5).clamp(-0.9, 0.9),
    "gain in place": lambda y: y.mul_(2**0.5),
    "clamp in place": lambda y: y.clamp_(-0.5, 0.5),
    "nothing": lambda y: y,
}


def _assign(y, z):
    y[..., 1:] = z[..., 1:]


def _out(y, z):
    with torch.no_grad():
        torch.add(y.detach(), z.detach(), out=y.detach())


# What may follow; y is changed, z is of its shape.
CHANGES = {
    "+=": lambda y, z: y.__iadd__(z),
    "*=": lambda y, z: y.__imul__(z),
    "add_": lambda y, z: y.add_(z, alpha=2),
    "mul_": lambda y, z: y.mul_(0.5),
    "clamp_": lambda y, z: y.clamp_(-0.3, 0.3),
    "[...] =": _assign,
    "a view": lambda y, z: y[..., ::2].mul_(3),
    "out=": _out,
    "nn.ReLU(True)": lambda y, z: nn.ReLU(True)(y),
    "zero_": lambda y, z: y.zero_(),
    "none": lambda y, z: None,
}


class Changing(nn.Module):
    """A chain, and what follows it in the same module, in the one around it or after the whole network."""

    def __init__(self, chain, change, place, parts):
        super().__init__()
        self.inner = _Inner(chain, change if place == "inside" else None, parts)
        self.place, self.change = place, change

    def forward(self, x):
        y, z, sources = self.inner(x)
        if self.place == "outside":
            y = _changed(self.change, y, z, sources)
        return y


class _Inner(nn.Module):
    def __init__(self, chain, change, parts):
        super().__init__()
        for name, part in parts().items():
            setattr(self, name, part)
        self.conv, self.skip = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.chain, self.change = chain, change

    def forward(self, x):
        h = self.conv(x) * 1
        y = self.chain(self, h)
        z = F.interpolate(self.skip(x), y.shape[2:], mode="bicubic")
        sources = {"input": h, "bias": getattr(self, "shift", None)}
        if self.change is not None:
            y = _changed(self.change, y, z, sources)
        return y, z, sources


def _changed(change, y, z, sources):
    target, change = change
    tensor = y if target == "result" else sources[target]
    with torch.set_grad_enabled(torch.is_grad_enabled() and not tensor.is_leaf):
        out = CHANGES[change](tensor, z if tensor.shape == z.shape else torch.ones_like(tensor))
    return out if target == "result" and isinstance(out, torch.Tensor) else y


def _bias():
    return {"bias": nn.Parameter(torch.linspace(-1, 1, 4))}


def _shifted(net, h):
    net.shift = net.bias * 1  # so that it may be changed in place
    return h + net.shift.view(1, -1, 1, 1)


CHAINS = {
    f"{'bias, ' * biased}{act}, {end}": (
        lambda net, h, biased=biased, act=act, end=end: ENDS[end](ACTIVATIONS[act](_shifted(net, h) if biased else h)),
        _bias if biased else dict,
    )
    for act in ACTIVATIONS
    for end in ENDS
    for biased in (False, True)
    if biased or (end != "nothing" and "in place" not in act)
    if act in ("relu", "leaky_relu", "elu") or end in ("gain", "clamp", "nothing")
} | {
    "norm, relu": (lambda net, h: F.relu(net.norm(h)), lambda: {"norm": nn.BatchNorm2d(4)}),
    "norm, leaky_relu": (lambda net, h: F.leaky_relu(net.norm(h), 0.2), lambda: {"norm": nn.InstanceNorm2d(4)}),
    "norm, bias, relu": (
        lambda net, h: F.relu(_shifted(net, net.norm(h))),
        lambda: {"norm": nn.InstanceNorm2d(4), **_bias()},
    ),
    "norm, tanh in place": (lambda net, h: torch.tanh_(net.norm(h)), lambda: {"norm": nn.BatchNorm2d(4)}),
    "up, conv": (
        lambda net, h: net.wide(F.interpolate(h, scale_factor=2)),
        lambda: {"wide": nn.Conv2d(4, 4, 3, padding=1)},
    ),
    "bilinear, conv": (
        lambda net, h: net.wide(F.interpolate(h, scale_factor=2, mode="bilinear")),
        lambda: {"wide": nn.Conv2d(4, 4, 1)},
    ),
    "conv, down": (lambda net, h: F.avg_pool2d(net.wide(h), 2), lambda: {"wide": nn.Conv2d(4, 4, 3, padding=1)}),
    "conv 1x1": (lambda net, h: net.wide(h), lambda: {"wide": nn.Conv2d(4, 4, 1)}),
    "up": (lambda net, h: F.interpolate(h, scale_factor=2), dict),
    "bilinear": (lambda net, h: F.interpolate(h, scale_factor=2, mode="bilinear"), dict),
    "down": (lambda net, h: F.avg_pool2d(h, 2), dict),
}


def derivatives(net, change_behind=None):
    """Output, first and second gradients; None where there are none."""
    x = images(size=8).requires_grad_()
    out = net(x)
    if change_behind is not None:
        CHANGES[change_behind](out, torch.ones_like(out))
    weights = torch.linspace(1, 2, out.numel()).view(out.shape)
    parameters = list(net.parameters())
    (dx,) = torch.autograd.grad((out * weights).sum(), x, create_graph=True)
    second = [None] * len(parameters)
    if dx.requires_grad:
        second = torch.autograd.grad(
            dx.square().sum(), parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
    first = torch.autograd.grad((out * weights).sum(), parameters, allow_unused=True, materialize_grads=True)
    return [out.detach(), dx.detach(), *first, *second]


def assert_as_plain(plain, net, function):
    """The same values, or an error of the same type for a reason of the same kind."""
    theirs, ours = outcome(function, plain), outcome(function, net)
    assert_no_mode()
    if isinstance(theirs, tuple):
        # Fused, less may be kept for the backward that could have been changed.
        assert "modified by an inplace operation" in theirs[1], theirs
        if isinstance(ours, tuple):
            assert ours[0] is theirs[0]
        return
    assert not isinstance(ours, tuple), (ours, net.inner.change, net.change, net.place)
    assert_same(ours, theirs, 1e-9)


CASES = [
    *(("result", change, "inside") for change in CHANGES),
    *(("result", change, "outside") for change in ("+=", "mul_")),
    *((target, change, "inside") for target in ("input", "bias") for change in ("+=", "a view", "out=")),
]


@pytest.mark.parametrize("chain", CHAINS)
def test_as_in_plain_torch(chain):
    fused, (call, parts) = False, CHAINS[chain]
    for target, change, place in CASES:
        if target == "bias" and "bias" not in parts():
            continue
        plain = build(lambda: Changing(call, (target, change), place, parts))  # noqa: B023
        net = copy.deepcopy(plain)
        report = fastgan.accelerate(net)
        for _ in range(2):
            assert_as_plain(plain, net, derivatives)
        fused |= any(row.runs != PLAIN for row in report.rows[0])
    assert fused


@pytest.mark.parametrize("chain", CHAINS)
def test_of_what_the_network_returned(chain):
    plain = build(lambda: Changing(CHAINS[chain][0], ("result", "none"), "inside", CHAINS[chain][1]))
    net = copy.deepcopy(plain)
    fastgan.accelerate(net)
    for change in CHANGES:
        assert_as_plain(plain, net, lambda net, change=change: derivatives(net, change))


@pytest.mark.parametrize("act", ["relu", "leaky_relu", "elu", "softplus", "tanh", "sigmoid"])
@pytest.mark.parametrize("end", ["gain", "clamp"])
def test_now_and_then(act, end):
    """A network whose first forward, which is looked at, changes nothing."""

    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.skip, self.changes = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), False

        def forward(self, x):
            h = ENDS[end](ACTIVATIONS[act](self.conv(x)))
            if self.changes:
                h += self.skip(x)
            return h * self.skip(x)

    plain, net = build(Sometimes), build(Sometimes)
    report = fastgan.accelerate(net)
    for changes in (False, False, True, False, True):
        plain.changes = net.changes = changes
        assert_as_plain(plain, net, derivatives)
    assert all(row.runs != PLAIN for row in report.rows[0] if "add" not in row.found)


def test_penalized_loss_of_such_a_critic():
    """It stays piecewise linear."""

    class Critic(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.skip, self.head = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(144, 1)

        def forward(self, x):
            h = F.leaky_relu(self.conv(x), 0.2) * 2**0.5
            h += self.skip(x)
            return self.head(h.flatten(1))

    plain, net = build(Critic), build(Critic)
    fastgan.accelerate(net)
    net(images(size=8))
    results = []
    for each in (net, plain):
        for _ in range(2):
            loss = penalized_loss(each, images(size=8), penalties=[R1(1.0)], engine="linearized")
            gradients = torch.autograd.grad(loss.loss, list(each.parameters()), allow_unused=True)
        results.append([loss.loss.detach(), *gradients])
    assert_same(*results)
