"""Arguments that ours would refuse, or that torch does: in a chain plain torch runs, and says what it says."""

from math import inf, nan

import pytest
import torch
import torch.nn.functional as F
from deferrals import build, images, outcome, step
from torch import nn

import fastgan


class Call(nn.Module):
    """Some lines with an argument that may change, a weight and running statistics."""

    def __init__(self, function, value):
        super().__init__()
        self.function, self.value = function, value
        self.b = nn.Parameter(torch.zeros(4))
        self.w = nn.Parameter(torch.zeros(4, 4, 3, 3))
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))

    def forward(self, x):
        return self.function(self, x, self.value)


def biased(m, x):
    return x + m.b.view(1, -1, 1, 1)


def up(x):
    return F.interpolate(x, scale_factor=2)


# The call with its argument, and a usual one.
CALLS = {
    "gain": (lambda m, x, v: F.leaky_relu(biased(m, x), 0.2) * v, 2.0),
    "slope": (lambda m, x, v: F.leaky_relu(biased(m, x), v) * 2, 0.1),
    "clamp": (lambda m, x, v: F.silu(biased(m, x)).clamp(-v, v), 0.5),
    "elu": (lambda m, x, v: F.elu(biased(m, x), v) * 2, 1.0),
    "softplus": (lambda m, x, v: F.softplus(biased(m, x), v) * 2, 1.0),
    "eps of batch_norm": (lambda m, x, v: F.batch_norm(x, m.mean, m.var, training=True, eps=v).relu(), 1e-5),
    "eps in evaluation": (lambda m, x, v: F.batch_norm(x, m.mean, m.var, eps=v).relu(), 1e-5),
    "eps of instance_norm": (lambda m, x, v: F.instance_norm(x, eps=v).relu(), 1e-5),
    "momentum": (lambda m, x, v: F.batch_norm(x, m.mean, m.var, training=True, momentum=v).relu(), 0.1),
    "padding after upsampling": (lambda m, x, v: F.conv2d(up(x), m.w, m.b, padding=v), 1),
    "padding before pooling": (lambda m, x, v: F.avg_pool2d(F.conv2d(x, m.w, m.b, padding=v), 2), 1),
    "padding of 1x1": (lambda m, x, v: F.conv2d(x, m.w[:, :, :1, :1], padding=v).tanh(), 0),
    "even kernel": (lambda m, x, v: F.conv2d(up(x), m.w[:, :, :2, :2], padding=v), 0),
    "stride": (lambda m, x, v: F.conv2d(up(x), m.w, m.b, stride=v), 1),
    "dilation": (lambda m, x, v: F.conv2d(up(x), m.w, m.b, dilation=v), 1),
    "groups": (lambda m, x, v: F.conv2d(up(x), m.w, m.b, groups=v), 1),
    "weight": (lambda m, x, v: F.conv2d(up(x), m.w.flatten(0, v), m.b), 0),
    "scale_factor": (lambda m, x, v: F.conv2d(F.interpolate(x, scale_factor=v), m.w), 2),
    "size": (lambda m, x, v: F.conv2d(F.interpolate(x, size=v), m.w), 8),
    "kernel_size": (lambda m, x, v: F.avg_pool2d(F.conv2d(x, m.w, padding=1), v), 2),
    "output_size": (lambda m, x, v: F.adaptive_avg_pool2d(F.conv2d(x, m.w, padding=1), v), 2),
}
VALUES = [inf, -inf, nan, 0, -1, -0.5, 1e300, 10**30, 2, (1, 1), (2, 1), (1,), (1, 1, 1), (), (-1, 0), "same", "valid"]
VALUES += ["full", None]


@pytest.mark.parametrize("name", CALLS)
def test_plain_torch_decides(name):
    function, usual = CALLS[name]
    for value in VALUES:
        results = []
        for accelerated in (True, False):
            net = build(lambda: Call(function, usual))
            if accelerated:
                fastgan.accelerate(net)
            results.append(outcome(steps, net, value))
        assert_alike(*results, value)


def steps(net, value):
    """The usual argument, the unusual one, and the usual one again."""
    results = []
    for number in (net.value, value, net.value):
        net.value = number
        results.append(step(net, images()))
    return results


def assert_alike(ours, theirs, value):
    if isinstance(theirs, tuple):
        assert isinstance(ours, tuple), (value, theirs)
        assert ours[0] is theirs[0], (value, ours, theirs)
        return
    assert not isinstance(ours, tuple), (value, ours)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9, equal_nan=True, msg=lambda text: f"{value}: {text}")
