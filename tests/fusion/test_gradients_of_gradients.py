"""Networks whose gradients are differentiated: from the first time on their convolutions are ready for it."""

import pytest
import torch
import torch.nn.functional as F
from deferrals import assert_no_mode, build, images, step
from torch import nn
from torch.overrides import _get_current_function_mode_stack

import fastgan
from fastgan.fusion import double_backward
from fastgan.penalty import R1, penalized_loss

RUNS = "convolutions with an efficient double backward, where they are large"
SMALL = "as it is"


class Critic(nn.Module):
    """A convolution of every kind, and chains."""

    def __init__(self):
        super().__init__()
        self.first, self.grouped = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding="same", groups=4)
        self.down, self.up = nn.Conv2d(8, 8, 3, padding=1), nn.ConvTranspose2d(8, 4, 4, 2, 1)
        self.last = nn.Conv1d(4, 1, 3)

    def forward(self, x):
        h = F.leaky_relu(self.grouped(F.leaky_relu(self.first(x), 0.2)) + self.grouped.bias.view(-1, 1, 1), 0.2) * 2
        h = self.up(F.avg_pool2d(self.down(h), 2).sin())
        return self.last(h.flatten(2)).mean((1, 2))


def penalized_step(net, x):
    """Gradients of the loss, and of an R1 penalty."""
    net.zero_grad()
    x = x.clone().requires_grad_()
    logits = net(x)
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    (F.softplus(-logits).mean() + 5 * gradient.square().sum((1, 2, 3)).mean()).backward()
    return [logits.detach(), gradient.detach(), *(p.grad.clone() for p in net.parameters())]


def assert_close(ours, theirs):
    for got, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-11 * want.abs().max().item())


def nodes(tensor):
    """Names of the nodes of its graph."""
    seen, stack = {}, [tensor.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen[node] = node.name()
            stack += [below for below, _ in node.next_functions]
    return set(seen.values())


def pair():
    plain, net = build(Critic).double(), build(Critic).double()
    return plain, net, images().double()[:, :1].repeat(1, 3, 1, 1)


def rows(report):
    return [
        row["runs"] for row in report.to_dict()["networks"][0]["rows"] if row["found"] == "a gradient of a gradient"
    ]


def test_efficient_from_the_second_time_on():
    plain, net, x = pair()
    report = fastgan.accelerate(net)
    assert rows(report) == []
    for i in range(3):
        assert ("_ConvolutionBackward" in nodes(net(x.clone().requires_grad_()))) == (i > 0)
        # Those of the loss, and a generator's, are of another kind.
        for other in (x, x.clone().requires_grad_() * 1):
            assert "ConvolutionBackward0" in nodes(net(other))
        assert_close(penalized_step(net, x), penalized_step(plain, x))
        assert rows(report) == [RUNS]
    assert_no_mode()
    fastgan.restore(net)
    assert "_ConvolutionBackward" not in nodes(net(x))
    assert not net._forward_hooks
    assert not net._forward_pre_hooks


def test_small_convolutions_stay(monkeypatch):
    """And the forward is left alone, until its inputs have other shapes."""
    plain, net, x = pair()
    work = 2 * 4 * 4 * net.first.weight.numel()  # for two images of 4x4
    monkeypatch.setattr(double_backward, "LEAST_WORK", 4 * work)
    report = fastgan.accelerate(net, ops=["double_backward"])
    modes = []
    net.first.register_forward_hook(lambda *_: modes.append(len(_get_current_function_mode_stack())))
    for i in range(4):
        assert_close(penalized_step(net, x), penalized_step(plain, x))
        assert rows(report) == [SMALL if i else RUNS]
    assert modes == [0, 1, 0, 0]  # the second one looked at the sizes
    large = x.repeat(1, 1, 2, 2)
    for _ in range(2):
        assert_close(penalized_step(net, large), penalized_step(plain, large))
    assert modes[4:] == [1, 1]
    assert rows(report) == [RUNS]
    assert "_ConvolutionBackward" in nodes(net(large.clone().requires_grad_()))


@pytest.mark.parametrize(
    ("x", "weight", "stride", "result"),
    [
        ((16, 64, 16, 16), (128, 64, 4, 4), 2, True),
        ((16, 64, 16, 16), (128, 64, 4, 4), [2, 2], True),
        ((16, 3, 32, 32), (64, 3, 4, 4), 2, False),
        ((16, 3, 32, 32), (64, 3, 4, 4), 1, True),
        ((16, 256, 16, 16), (256, 256, 1, 1), 1, False),
        ((16, 256, 32, 32), (256, 256, 1, 1), 1, True),
        ((16, 8, 1024), (8, 8, 3), (1,), False),
        ((2, 8, 8, 8, 8), (8, 8, 3, 3, 3), 1, False),
    ],
)
def test_which_pay(x, weight, stride, result, monkeypatch):
    monkeypatch.undo()
    assert double_backward.pays(torch.empty(x), torch.empty(weight), stride) is result
    assert double_backward.pays(torch.empty(x, device="meta"), torch.empty(weight, device="meta"), stride)


def test_never_where_nobody_asks():
    net, x = pair()[1:]
    report = fastgan.accelerate(net)
    for i in range(3):
        step(net, x + i)
        assert "ConvolutionBackward0" in nodes(net(x))
    assert rows(report) == []


def test_op_not_wanted():
    net, x = pair()[1:]
    report = fastgan.accelerate(net, ops=["bias_act"])
    for _ in range(2):
        penalized_step(net, x)
    assert "_ConvolutionBackward" not in nodes(net(x))
    assert rows(report) == []


def test_without_gradients_and_in_a_checkpoint():
    """What recomputes must make the calls of the forward: that saves as many tensors."""
    plain, net, x = pair()
    fastgan.accelerate(net)
    for _ in range(2):
        penalized_step(net, x)
    with torch.no_grad():
        assert_close([net(x)], [plain(x)])
    for reentrant in (False, True):
        results = []
        for each in (net, plain):
            each.zero_grad()
            y = x.clone().requires_grad_()
            torch.utils.checkpoint.checkpoint(each, y, use_reentrant=reentrant).sum().backward()
            results.append([y.grad, *(p.grad for p in each.parameters())])
        assert_close(*results)
    assert_no_mode()


@pytest.mark.parametrize("nested", [lambda y: (y, {"logits": [y]}), lambda y: {"logits": y}, lambda y: [y]])
def test_outputs_of_any_structure(nested):
    net, x = pair()[1:]

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.critic = net

        def forward(self, x):
            return nested(self.critic(x))

    wrapped = Wrapped()
    report = fastgan.accelerate(wrapped)
    y = x.clone().requires_grad_()
    out = wrapped(y)
    logits = out["logits"] if isinstance(out, dict) else out[0]
    torch.autograd.grad(logits.sum(), y, create_graph=True)
    assert rows(report) == [RUNS]


def test_third_order():
    plain, net, x = pair()
    fastgan.accelerate(net)
    results = []
    for each in (net, net, plain):
        y = x.clone().requires_grad_()
        first = torch.autograd.grad(each(y).tanh().sum(), y, create_graph=True)[0]
        second = torch.autograd.grad(first.square().sum(), y, create_graph=True)[0]
        results.append(torch.autograd.grad(second.square().sum(), [y, *each.parameters()], allow_unused=True))
    for result in results[:2]:
        for got, want in zip(result, results[2], strict=True):
            assert (got is None) == (want is None)
            if got is not None:
                torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-9)


def test_penalized_loss_still_sees_the_network():
    """After a penalty in the codebase's own way, the engine without double backward still serves."""

    class Piecewise(Critic):
        def forward(self, x):
            h = F.leaky_relu(self.grouped(F.leaky_relu(self.first(x), 0.2)), 0.2) * 2
            return self.last(self.up(F.avg_pool2d(self.down(h), 2)).flatten(2)).mean((1, 2))

    plain, net = build(Piecewise).double(), build(Piecewise).double()
    x = pair()[2]
    fastgan.accelerate(net)
    for _ in range(2):
        penalized_step(net, x)
    results = []
    for each in (net, plain):
        each.zero_grad()
        out = penalized_loss(each, x, None, None, [R1(3.0)], engine="linearized")
        out.loss.backward()
        assert out.path == "linearized", out.reason
        results.append([p.grad for p in each.parameters() if p.grad is not None])
    assert_close(*results)


def test_behind_a_part_with_chains():
    """The scope of a part opens and closes inside; that of the network goes on."""
    part = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=4))
    net = nn.Sequential(part, nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1), nn.Flatten()).double()
    x = pair()[2]
    fastgan.accelerate(net)
    for _ in range(2):
        y = x.clone().requires_grad_()
        torch.autograd.grad(net(y).sum(), y, create_graph=True)
    assert "ConvolutionBackward0" not in nodes(net(x.clone().requires_grad_()))
