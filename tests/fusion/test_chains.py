"""Chains with unusual values and spellings: fused or not, the same results."""

import pytest
import torch
import torch.nn.functional as F
from deferrals import assert_same, build, images, step
from torch import nn

import fastgan


class Call(nn.Module):
    """One line, a weight and running statistics."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.b, self.g = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))
        self.w = nn.Parameter(torch.zeros(4, 4, 3, 3))
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))

    def forward(self, x):
        return self.function(self, x)


def column(t):
    return t.view(1, -1, 1, 1)


def point(w):
    return w[:, :, :1, :1]


CALLS = {
    "gain of zero": lambda m, x: F.leaky_relu(x + column(m.b), 0.2) * 0.0,
    "negative gain": lambda m, x: F.leaky_relu(x + column(m.b), 0.2) * -1.5,
    "gain from the left": lambda m, x: 3 * torch.relu(x + column(m.b)),
    "gain of a bool": lambda m, x: torch.relu(x + column(m.b)) * True,
    "two gains": lambda m, x: torch.relu(x + column(m.b)) * 2 * 3,
    "two biases": lambda m, x: torch.relu(x + column(m.b) + column(m.g)),
    "slope above one": lambda m, x: F.leaky_relu(x + column(m.b), 1.5) * 2,
    "slope of zero": lambda m, x: F.leaky_relu(x + column(m.b), 0.0) * 2,
    "negative slope": lambda m, x: F.leaky_relu(x + column(m.b), -0.5) * 2,
    "default slope": lambda m, x: F.leaky_relu(x + column(m.b)) * 2,
    "clamp": lambda m, x: (F.silu(x + column(m.b)) * 2).clamp(-0.5, 0.5),
    "one-sided clamp": lambda m, x: (F.silu(x + column(m.b)) * 2).clamp(max=0.5),
    "clamp before the gain": lambda m, x: F.silu(x + column(m.b)).clamp(-0.5, 0.5) * 2,
    "uneven clamp": lambda m, x: (F.silu(x + column(m.b)) * 2).clamp(-0.5, 0.25),
    "elu": lambda m, x: F.elu(x + column(m.b), 0.7) * 2,
    "softplus": lambda m, x: F.softplus(x + column(m.b), 2) * 2,
    "gelu": lambda m, x: F.gelu(x + column(m.b), approximate="tanh") * 2,
    "bias from the left": lambda m, x: torch.tanh(column(m.b) + x),
    "torch.add": lambda m, x: torch.sigmoid(torch.add(x, column(m.b), alpha=3)),
    "bias by keyword": lambda m, x: torch.sigmoid(torch.add(input=x, other=column(m.b))),
    "bias of one": lambda m, x: torch.relu(x + m.b[:1].view(1, 1, 1, 1)) * 2,
    "bias along the width": lambda m, x: torch.relu(x + m.b) * 2,
    "bias for each sample": lambda m, x: torch.relu(x + x.mean((2, 3), keepdim=True)) * 2,
    "torch.batch_norm": lambda m, x: torch.relu(torch.batch_norm(x, m.g, m.b, m.mean, m.var, False, 0.1, 1e-5, False)),
    "torch.instance_norm": lambda m, x: torch.tanh(torch.instance_norm(x, m.g, m.b, None, None, True, 0.1, 0.1, False)),
    "batch_norm, gain, bias": lambda m, x: torch.relu(
        F.batch_norm(x, m.mean, m.var, training=True) * (1 + column(m.g)) + column(m.b)
    ),
    "batch_norm, bias, gain": lambda m, x: torch.relu(
        (F.batch_norm(x, m.mean, m.var, training=True) + column(m.b)) * column(m.g)
    ),
    "batch_norm, bias, bias": lambda m, x: torch.relu(
        F.batch_norm(x, m.mean, m.var, None, m.b, True) + column(m.g)
    ),
    "weight without bias": lambda m, x: F.relu(F.batch_norm(x, m.mean, m.var, m.g, None, True, 0.2, 0.3) + column(m.b)),
    "eval": lambda m, x: F.relu(F.batch_norm(x, m.mean, m.var, m.g, m.b, False, 0.2, 0.3)),
    "instance_norm": lambda m, x: F.gelu(F.instance_norm(x, m.mean, m.var, m.g, m.b, True, 0.2, 0.3)),
    "instance_norm, eval": lambda m, x: F.gelu(F.instance_norm(x, m.mean, m.var, m.g, m.b, use_input_stats=False)),
    "size": lambda m, x: F.conv2d(F.interpolate(x, size=(8, 12)), m.w, m.b, padding=(1, 2)),
    "nearest-exact": lambda m, x: F.conv2d(F.interpolate(x, scale_factor=3, mode="nearest-exact"), m.w, m.b),
    "one axis": lambda m, x: F.conv2d(F.interpolate(x, scale_factor=(2, 1)), m.w, m.b, 1, 1),
    "size that is no multiple": lambda m, x: F.conv2d(F.interpolate(x, size=(7, 9)), m.w),
    "scale that is no whole number": lambda m, x: F.conv2d(F.interpolate(x, scale_factor=1.5), m.w),
    "strided": lambda m, x: F.conv2d(F.interpolate(x, scale_factor=2), m.w, stride=2),
    "dilated": lambda m, x: F.conv2d(F.interpolate(x, scale_factor=2), m.w, dilation=2, padding="same"),
    "grouped": lambda m, x: F.conv2d(F.interpolate(x, scale_factor=2), m.w[:, :1], m.b, groups=4, padding=1),
    "1x1": lambda m, x: F.conv2d(x, m.w[:, :, :1, :1], m.b).tanh(),
    "1x1, no bias, twice": lambda m, x: F.conv2d(F.conv2d(x, point(m.w)), point(m.w)),
    "1x1, its result twice": lambda m, x: (lambda h: h * h.sin())(F.conv2d(x, point(m.w), m.b)),
    "1x1 as the output": lambda m, x: F.conv2d(x, point(m.w), m.b),
    "1x1, then pooled": lambda m, x: F.avg_pool2d(F.conv2d(x, point(m.w), m.b), 2),
    "1x1 with padding": lambda m, x: F.conv2d(x, point(m.w), m.b, padding=1),
    "1x1 strided": lambda m, x: F.conv2d(x, point(m.w), m.b, 2),
    "1x1 of channels_last": lambda m, x: F.conv2d(x.contiguous(memory_format=torch.channels_last), point(m.w), m.b),
    "1x1 of a view": lambda m, x: F.conv2d(x.transpose(2, 3), point(m.w), m.b),
    "1x1, activation in place": lambda m, x: F.relu(F.conv2d(x, point(m.w), m.b), inplace=True),
    "bilinear, 1x1": lambda m, x: F.conv2d(F.interpolate(x, scale_factor=2, mode="bilinear"), point(m.w), m.b),
    "bilinear, aligned": lambda m, x: F.conv2d(
        F.interpolate(x, size=(9, 10), mode="bilinear", align_corners=True), point(m.w), m.b
    ),
    "bicubic, 1x1": lambda m, x: F.conv2d(F.interpolate(x, None, 1.5, "bicubic"), point(m.w), m.b),
    "bicubic, recomputed": lambda m, x: F.conv2d(
        F.interpolate(x, scale_factor=(1.3, 2.7), mode="bicubic", recompute_scale_factor=True), point(m.w), m.b
    ),
    "area, 1x1": lambda m, x: F.conv2d(F.interpolate(x, scale_factor=2, mode="area"), point(m.w), m.b),
    "bilinear, fewer channels": lambda m, x: F.conv2d(
        F.interpolate(x, scale_factor=2, mode="bilinear"), point(m.w)[:2]
    ),
    "bilinear, groups": lambda m, x: F.conv2d(
        F.interpolate(x, scale_factor=2, mode="bilinear"), point(m.w)[:, :2], m.b, groups=2
    ),
    "bilinear, 3x3": lambda m, x: F.conv2d(F.interpolate(x, scale_factor=2, mode="bilinear"), m.w, m.b, padding=1),
    "bilinear, downwards": lambda m, x: F.conv2d(F.interpolate(x, scale_factor=0.5, mode="bilinear"), point(m.w)),
    "bilinear, padded": lambda m, x: F.conv2d(F.interpolate(x, size=(8, 8), mode="bilinear"), point(m.w), padding=1),
    "transposed": lambda m, x: F.conv_transpose2d(F.interpolate(x, scale_factor=2), m.w),
    "wide padding": lambda m, x: F.conv2d(F.interpolate(x, scale_factor=2), m.w, padding=4),
    "itself": lambda m, x: F.conv2d(F.interpolate(m.w, scale_factor=2), m.w),
    "nearest alone": lambda m, x: F.interpolate(x, scale_factor=2) + 1,
    "nearest, thrice": lambda m, x: F.interpolate(x, size=(12, 18)).tanh(),
    "nearest, by one axis": lambda m, x: F.interpolate(x, scale_factor=(1, 2)).tanh(),
    "bilinear alone": lambda m, x: F.interpolate(x, scale_factor=3, mode="bilinear", align_corners=False).tanh(),
    "bilinear, aligned, alone": lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
    "bilinear, to a size": lambda m, x: F.interpolate(x, (8, 12), None, "bilinear").tanh(),
    "bilinear with antialias": lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear", antialias=True),
    "pooled alone": lambda m, x: F.avg_pool2d(x.sin(), 2).sin(),
    "pooled, pixels left over": lambda m, x: F.avg_pool2d(x, 3, None, 0, False, True).sin(),
    "pooled, padded": lambda m, x: F.avg_pool2d(x, 2, padding=1),
    "pooled, channels_last": lambda m, x: F.avg_pool2d(x.contiguous(memory_format=torch.channels_last), 2).sin(),
    "overlapping windows": lambda m, x: F.avg_pool2d(F.conv2d(x, m.w, m.b, padding=1), 3, 2, 1),
    "divisor": lambda m, x: F.avg_pool2d(F.conv2d(x, m.w, m.b, padding=1), 2, divisor_override=3),
    "pixels left over": lambda m, x: F.avg_pool2d(F.conv2d(x, m.w, m.b, padding=1), 3),
    "ceil_mode": lambda m, x: F.avg_pool2d(F.conv2d(x, m.w, m.b, padding=1), 3, ceil_mode=True),
    "adaptive": lambda m, x: F.adaptive_avg_pool2d(F.conv2d(x, m.w, m.b, padding=1), (2, None)),
    "adaptive, uneven": lambda m, x: F.adaptive_avg_pool2d(F.conv2d(x, m.w, m.b, padding=1), 3),
}  # fmt: skip


@pytest.mark.parametrize("function", CALLS.values(), ids=CALLS)
def test_call(function):
    net, plain = (build(lambda: Call(function)) for _ in range(2))
    fastgan.accelerate(net)
    for i in range(2):
        x = images(n=3, seed=i)
        assert_same(step(net, x), step(plain, x))
        with torch.no_grad():
            assert_same(step(net, x), step(plain, x))
