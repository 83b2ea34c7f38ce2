"""What the report says about how much is to be gained."""

import pytest
import torch
import torch.nn.functional as F
from codebases import CODEBASES
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import fastgan
from fastgan.fusion.chains import elementwise
from fastgan.fusion.work import Share, share, verdict, work
from fastgan.intercept import canonical

X, IMAGES = torch.randn(2, 6), torch.randn(2, 4, 5, 6)
CALLS = {
    "conv1d": (F.conv1d, (torch.randn(2, 4, 9), torch.randn(6, 4, 3)), {"stride": 2}),
    "conv2d": (F.conv2d, (IMAGES, torch.randn(6, 2, 3, 3), torch.randn(6), 1, 1), {"groups": 2}),
    "conv3d": (F.conv3d, (torch.randn(1, 2, 4, 4, 4), torch.randn(3, 2, 2, 2, 2)), {}),
    "conv_transpose2d": (F.conv_transpose2d, (IMAGES, torch.randn(4, 3, 4, 4)), {"stride": 2}),
    "linear": (F.linear, (X, torch.randn(3, 6), torch.randn(3)), {}),
    "matmul": (torch.matmul, (X, torch.randn(6, 3)), {}),
    "bmm": (torch.bmm, (torch.randn(2, 3, 4), torch.randn(2, 4, 5)), {}),
    "addmm": (torch.addmm, (torch.randn(3), X, torch.randn(6, 3)), {}),
    "relu": (F.relu, (X,), {}),
    "size": (torch.Tensor.size, (X,), {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_multiply_adds(name):
    """torch's own counter counts two operations for each."""
    function, args, kwargs = CALLS[name]
    with FlopCounterMode(display=False) as counter:
        out = function(*args, **kwargs)
    counted = work(canonical(function, args, kwargs), out)
    assert 2 * counted.products == counter.get_total_flops()
    written = out.numel() if isinstance(out, torch.Tensor) else 0
    assert counted.all == counted.products + written * counted.balance


@pytest.mark.parametrize(
    ("shares", "says"),
    [
        ([], ""),
        ([Share(0, 0, 0, 0)], ""),
        ([Share(10, 100, 90, 90)], ""),
        ([Share(9, 100, 88, 91)], "little to gain: about 9% of a forward's work is in calls that are replaced; 97% of"),
        ([Share(9, 100, 88, 91), Share(50, 100, 1, 1)], ""),
        ([Share(0, 7, 0, 0)], "little to gain: about 0% of a forward's work is in calls that are replaced"),
    ],
)
def test_verdict(shares, says):
    assert verdict(shares).startswith(says)
    assert bool(verdict(shares)) is bool(says)


def test_norms_count():
    calls = [work(canonical(F.linear, CALLS["linear"][1], {}), torch.randn(2, 3))]
    none, some = share(calls, set(), 0), share(calls, set(), 18)
    assert none.replaced == 0
    assert some.replaced == some.all - none.all == 18 * 5 * calls[0].balance


@pytest.mark.parametrize(("name", "little"), [("dcgan critic", True), ("biggan critic", False)])
def test_last_line(name, little, monkeypatch):
    """At its size nothing of a small DCGAN is replaced."""
    monkeypatch.undo()
    monkeypatch.setattr(elementwise, "_too_small", lambda x, least: "it is small" if x.numel() < least else "")
    net = CODEBASES[name].network()
    report = fastgan.accelerate(net)
    assert "little" not in str(report)
    net(*CODEBASES[name].inputs())
    last = str(report).splitlines()[-1]
    assert last.startswith("  little to gain: about 0%") is little
    assert (report.to_dict()["networks"][0]["verdict"] == last.strip()) is little


def test_a_network_without_tensors():
    class Nothing(nn.Module):
        def forward(self, x):
            return x

    net = Nothing()
    report = fastgan.accelerate(net)
    net(X)
    assert str(report).endswith("nothing found")
