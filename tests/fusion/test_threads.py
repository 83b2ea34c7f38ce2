"""Eight threads through one network, all of them in its forward at once: each computes what it would alone."""

import sys
import threading

import pytest
import torch
from deferrals import Network, assert_no_mode, assert_same, build, images, outcome
from torch import nn
from torch.nn.utils import parametrizations

import fastgan
from fastgan.around import surroundings
from fastgan.penalty import R1, penalized_loss

THREADS = 8


@pytest.fixture(autouse=True)
def switching_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Meeting(nn.Module):
    """Where the threads wait for each other, in the middle of a forward."""

    def __init__(self):
        super().__init__()
        self.barrier = None

    def forward(self, x):
        if self.barrier is not None:
            self.barrier.wait(timeout=60)
        return x


class Met(Network):
    """They meet inside of nested modules and between them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 1), Meeting(), nn.Sequential(nn.LeakyReLU(0.2), Meeting()))
        self.head = nn.Sequential(Meeting(), parametrizations.spectral_norm(nn.Linear(3, 2)), Meeting())


def meetings(net):
    return [part for part in net.modules() if isinstance(part, Meeting)]


def in_threads(net, call):
    """What `call(net, i)` returns in thread i, and what it leaves there."""
    barrier = threading.Barrier(THREADS)
    for part in meetings(net):
        part.barrier = barrier
    results = [None] * THREADS

    def run(i):
        results[i] = outcome(call, net, i)
        if isinstance(results[i], tuple):
            barrier.abort()
        results[i] = results[i], outcome(assert_no_mode)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for part in meetings(net):
        part.barrier = None
    return results


def forward(net, i):
    return [net(images(seed=i)).detach()]


def forward_without_gradients(net, i):
    with torch.no_grad():
        return [net(images(seed=i))]


def gradients(net, i):
    x = images(seed=i).requires_grad_()
    return list(torch.autograd.grad(net(x).square().sum(), [x, *net.parameters()]))


def double_backward(net, i):
    x = images(seed=i).requires_grad_()
    (dx,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    return [dx.detach(), *_parameter_gradients(net, dx.square().sum())]


def penalty(net, i):
    loss = penalized_loss(net, images(seed=i), images(seed=i + 50), _hinge, [R1(1.0)])
    return [loss.loss.detach(), *_parameter_gradients(net, loss.loss)]


def _parameter_gradients(net, loss):
    """Zeros where a second derivative is zero, which ours leaves out."""
    return torch.autograd.grad(loss, list(net.parameters()), allow_unused=True, materialize_grads=True)


def _hinge(real, fake):
    return (fake - real).relu().mean()


@pytest.mark.parametrize("call", [forward, forward_without_gradients, gradients, double_backward, penalty])
def test_each_as_if_alone(call):
    plain, net = build(Met).eval(), build(Met).eval()
    expected = [call(plain, i) for i in range(THREADS)]
    report = fastgan.accelerate(net)
    for _ in range(4):  # the first forward of every thread, then others
        for (result, left), values in zip(in_threads(net, call), expected, strict=True):
            assert not isinstance(result, tuple), result
            assert left is None
            assert_same(result, values)
    assert report.forwards == [1]
    # What the threads saw at once is found once, and nothing that fused has been given up.
    alone = fastgan.accelerate(other := build(Met).eval())
    for _ in range(4):
        call(other, 0)
    assert report.to_dict() == alone.to_dict()
    fastgan.restore(net)
    assert not any(surroundings(part) for part in net.modules())


def test_training():
    """Without buffers, which threads would share in plain torch too."""

    class Unbuffered(Met):
        def __init__(self):
            super().__init__()
            self.norm, self.head = nn.Identity(), nn.Sequential(Meeting(), nn.Linear(3, 2))

    plain, net = build(Unbuffered), build(Unbuffered)
    fastgan.accelerate(net)
    for _ in range(3):
        results = in_threads(net, gradients)
        assert_same([result for result, _ in results], [gradients(plain, i) for i in range(THREADS)])


def test_threads_with_networks_of_their_own():
    """Networks share no state, whatever their classes do."""
    nets = [build(Network, seed=i) for i in range(THREADS)]
    expected = [gradients(build(Network, seed=i), i) for i in range(THREADS)]

    def call(_, i):
        fastgan.accelerate(nets[i])
        state = {name: value.clone() for name, value in nets[i].state_dict().items()}
        for _ in range(3):
            nets[i].load_state_dict(state)
            out = gradients(nets[i], i)
        return out

    results = in_threads(nets[0], call)
    assert_same([result for result, _ in results], expected)
