"""An exception at any instruction of a forward, as a signal brings it: nothing of the forward stays."""

import gc
import inspect
import signal
import sys
import time

import pytest
import torch
from deferrals import Network, assert_same, build, images, step
from torch import nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import fastgan
from fastgan.penalty import R1, penalized_loss
from fastgan.penalty.uncompiled import FORCE_EAGER


class Interrupt:
    """A profiler that raises at the nth place where Python looks for signals: as a frame begins, after a call of C."""

    def __init__(self, at, error):
        self.at, self.error, self.places = at, error, 0

    def __call__(self, frame, event, argument):
        # What is raised in a generator that is collected is lost.
        if event in ("call", "c_return") and not frame.f_code.co_flags & inspect.CO_GENERATOR:
            self.places += 1
            if self.places == self.at:
                raise self.error


def interrupted(call, at=None, error=KeyboardInterrupt):
    """Run it until the nth place, or to its end; returns how many places there were."""
    interrupt = Interrupt(at, error)
    before = sys.getprofile()
    gc.disable()  # what it collects has places too
    try:
        sys.setprofile(interrupt)
        call()
    except error:
        assert interrupt.places == at
    finally:
        sys.setprofile(before)
        gc.enable()
    return interrupt.places


def assert_nothing_stays():
    assert not _get_current_function_mode_stack()
    assert not _get_current_dispatch_mode_stack()
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
    assert not FORCE_EAGER._inside
    assert not FORCE_EAGER._is_set


def forward(net):
    net(images())


def forward_without_gradients(net):
    net.eval()(images())


def double_backward(net):
    x = images().requires_grad_()
    (dx,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    dx.square().sum().backward()


def penalty(net):
    penalized_loss(net, images(), images(seed=2), lambda real, fake: (fake - real).mean(), [R1(1.0)]).loss.backward()


CALLS = {call.__name__: call for call in (forward, forward_without_gradients, double_backward, penalty)}


def first(call):
    """A network that has seen nothing yet: its forward is recorded."""
    net = build(Network)
    fastgan.accelerate(net)
    return net


def later(call):
    """One that knows such a call, so that its calls are deferred."""
    net = first(call)
    for _ in range(3):
        call(net)
    return net


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("make", [first, later])
@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeoutError])
def test_at_every_place(call, make, error):
    call(make(call))  # what is imported or kept at the first time
    net, plain = make(call), build(Network)
    places = interrupted(lambda: call(net))
    fewer = max(places // 40, 1)
    for at in range(1 + places % fewer, places, fewer):
        if make is first:
            net = first(call)
        interrupted(lambda net=net: call(net), at, error)
        assert_nothing_stays()
    plain.load_state_dict(net.state_dict())
    plain.train(net.training)
    assert_same([step(net, images(seed=i)) for i in range(2)], [step(plain, images(seed=i)) for i in range(2)])


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_by_signals(call):
    """Real ones, at random moments, in one network, which is right in the end."""
    known, plain = first(call), build(Network)
    classes = [type(module) for module in plain.modules()]
    generator = torch.Generator().manual_seed(0)
    call(known)
    begun = time.perf_counter()
    call(known)
    duration, arrived = time.perf_counter() - begun, 0

    def raise_(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, raise_)
    try:
        for i in range(300):
            net = known if i % 10 else first(call)
            try:
                signal.setitimer(signal.ITIMER_REAL, duration * torch.rand((), generator=generator).item() + 1e-6)
                call(net)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                arrived += 1
            assert_nothing_stays()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert arrived
    plain.load_state_dict(known.state_dict())
    plain.train(known.training)
    assert_same([step(known, images(seed=i)) for i in range(2)], [step(plain, images(seed=i)) for i in range(2)])
    fastgan.restore(known)
    assert [type(module) for module in known.modules()] == classes


def test_a_generator_that_nobody_ends():
    """Its body runs outside of the forward, and is as it is."""

    class Slow(Network):
        def forward(self, x):
            for _ in range(3):
                x = super().forward(images())
                yield x

    net = build(Slow)
    fastgan.accelerate(net)
    for _ in range(3):
        steps = net(images())
        next(steps)
        assert_nothing_stays()
    del steps
    assert_nothing_stays()


def test_modes_of_the_user_stay():
    """What a forward itself switches on, as torch.set_default_device does, is there afterwards."""

    class Switching(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = build(Network)

        def forward(self, x):
            torch.set_default_device("cpu")
            return self.net(x)

    net = Switching()
    fastgan.accelerate(net)
    try:
        for _ in range(3):
            net(images())
            assert len(_get_current_function_mode_stack()) == 1
    finally:
        torch.set_default_device(None)
    assert_nothing_stays()
