"""Running statistics of batch norm are updated exactly once a forward, whatever happens to it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from deferrals import InPlace, Norm, accelerated, assert_no_mode, assert_same, build, compare, images
from torch import nn

pytestmark = pytest.mark.parametrize("make", [Norm, InPlace])


def buffers_after(net, run):
    run(net)
    assert_no_mode()
    return {name: buffer.clone() for name, buffer in net.named_buffers()}


def same_buffers(plain, run):
    ours, theirs = buffers_after(accelerated(plain), run), buffers_after(plain, run)
    assert theirs["norm.num_batches_tracked"] >= 1
    assert_same(ours, theirs)


@pytest.mark.parametrize("n", [1, 3])
def test_forwards(make, n, grad):
    same_buffers(build(make), lambda net: [net(images(seed=i)) for i in range(n)])


def test_result_not_used(make, grad):
    """The call has happened, whether or not its result is used."""

    def forward(self, x):
        h = self.first(x)
        return self.second(h if self.between is None else x.clone())

    def run(net):
        net.between = True
        net(images())

    same_buffers(build(type("Unused", (make,), {"forward": forward})), run)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_interrupted(make, error, grad):
    """After the normalization: its statistics have been updated."""

    def stop(h, net):
        raise error

    def run(net):
        net.between = stop
        with pytest.raises(error):
            net(images())
        net.between = None
        net(images(seed=2))

    same_buffers(build(make), run)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_interrupted_and_looked_at(make, error, grad):
    """No forward comes after it."""

    def stop(h, net):
        raise error

    results = []
    plain = build(make)
    for net in (accelerated(plain), plain):
        net.between = stop
        with pytest.raises(error):
            net(images())
        results.append(copy.deepcopy(net.state_dict()))
    assert_same(*map(dict, results))


READS = {
    "running_mean": lambda net: net.norm.running_mean.clone(),
    "in a list": lambda net: torch.stack([net.norm.running_mean, net.norm.running_var]),
    "state_dict": lambda net: {name: t.clone() for name, t in net.state_dict().items()},
    "deepcopy": lambda net: dict(copy.deepcopy(net.norm).named_buffers()),
    "tolist": lambda net: net.norm.running_var.tolist(),
    "item": lambda net: net.norm.running_mean[0].item(),
    "data": lambda net: net.norm.running_mean.data.clone(),
    "numpy": lambda net: net.norm.running_mean.numpy().tolist(),
    "the layer again": lambda net: net.norm(images(seed=5)),
    "eval": lambda net: F.batch_norm(images(seed=5), net.norm.running_mean, net.norm.running_var),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_read_between(make, read, grad):
    compare(make, lambda h, net, seen: seen.append(read(net)))


CHANGES = {
    "reset": lambda net: net.norm.reset_running_stats(),
    "zero_": lambda net: net.norm.running_mean.zero_(),
    "data": lambda net: net.norm.running_var.data.fill_(1),
    "load": lambda net: net.norm.load_state_dict(nn.BatchNorm2d(4).state_dict()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_between(make, change, grad):
    def between(h, net, seen):
        change(net)

    compare(make, between, steps=2)


def test_switched_to_evaluation_between(make, grad):
    compare(make, lambda h, net, seen: net.eval() and None)


def test_twice_in_a_forward(make, grad):
    class Twice(make):
        def forward(self, x):
            one = super().forward(x)
            return one + super().forward(2 * x)

    same_buffers(build(Twice), lambda net: net(images()))


def test_two_forwards_and_a_backward(make):
    """The first of them recorded, the second fused: a critic on real and on generated images."""
    results = []
    for accelerate in (False, True):
        net = build(make)
        if accelerate:
            import fastgan

            fastgan.accelerate(net)
        for i in range(2):
            (net(images(seed=i)).square().sum() + net(images(seed=i + 5)).sum()).backward()
        results.append([{n: p.grad for n, p in net.named_parameters()}, dict(net.named_buffers())])
    assert_same(*results)


def test_used_by_several(make, grad):
    """Each of which makes a chain of it."""

    class Several(make):
        def forward(self, x):
            h = self.first(x)
            return F.relu(h).sum() + torch.tanh(h).sum() + (h.mean() if self.between else 0)

    def run(net):
        net(images())
        net.between = True
        net(images(seed=4))

    same_buffers(build(Several), run)


def test_backward_twice_through_a_function(make):
    """What is computed once more for a backward updates nothing."""

    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, dy):
            return 2 * dy

    def run(net):
        net.between = lambda h, net: Twice.apply(h)
        out = net(images()).square().sum()
        out.backward(retain_graph=True)
        out.backward()

    same_buffers(build(make), run)


def test_momentum(make, grad):
    class Momentum(make):
        def __init__(self, momentum):
            super().__init__()
            self.norm = nn.BatchNorm2d(4, momentum=momentum)

    for momentum in (None, 0.0, 1.0, 0.3):
        same_buffers(
            build(lambda momentum=momentum: Momentum(momentum)), lambda net: [net(images(seed=i)) for i in range(3)]
        )
