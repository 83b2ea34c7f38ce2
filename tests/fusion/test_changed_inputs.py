"""In-place changes of what a deferred tensor is made of, between the two calls: its values are those of its call."""

import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from deferrals import (
    CHAINS,
    accelerated,
    assert_no_mode,
    assert_same,
    build,
    compare,
    images,
    outcome,
    plain_values,
    step,
)  # fmt: skip
from torch import nn

chains = pytest.mark.parametrize("make", CHAINS.values(), ids=CHAINS)


def _sgd(t):
    optimizer = torch.optim.SGD([t], 0.5)
    t.grad = torch.ones(t.shape)
    optimizer.step()


def _adam(**options):
    def adam(t):
        t.grad = torch.ones(t.shape)
        torch.optim.Adam([t], 0.5, **options).step()

    return adam


def _numpy(t):
    array = t.detach().numpy()
    array += 1


def _out_of_memory_view(t):
    np.from_dlpack(t.detach())  # as a reader
    torch.from_dlpack(t.detach()).add_(1)


def _another_thread(t):
    thread = threading.Thread(target=torch.no_grad()(lambda: t.mul_(2)))
    thread.start()
    thread.join()


CHANGES = {
    "another thread": _another_thread,
    "mul_": lambda t: t.mul_(2),
    "operator": lambda t: t.__iadd__(1),
    "view": lambda t: t.view(-1)[1:].mul_(2),
    "slice": lambda t: t.__setitem__(0, 3.0),
    "out": lambda t: torch.mul(t, 2, out=t),
    "copy_": lambda t: t.copy_(torch.ones(t.shape)),
    "data": lambda t: t.data.mul_(2),
    "set data": lambda t: setattr(t, "data", t.detach() * 2),
    "detach": lambda t: t.detach().mul_(2),
    "foreach": lambda t: torch._foreach_mul_([t], 2.0),
    "init": lambda t: nn.init.constant_(t, 2.0),
    "relu": lambda t: F.relu(t.sub_(0.5), inplace=True),
    "nn": lambda t: nn.LeakyReLU(0.3, inplace=True)(t),
    "dropout": lambda t: F.dropout(t, 1.0, inplace=True),
    "copied into": lambda t: t.view(-1).index_fill_(0, torch.tensor([0]), 7.0),
    "addcmul": lambda t: torch.addcmul(t, t, t, out=t),
    "SGD": _sgd,
    "Adam": _adam(),
    "fused Adam": _adam(fused=True),
    "foreach Adam": _adam(foreach=True),
    "aten": lambda t: torch.ops.aten.mul_(t, 2.0),
    "aten overload": lambda t: torch.ops.aten.mul_.Scalar(t, 2.0),
    "aten overload of data": lambda t: torch.ops.aten.mul_.Scalar(t.data, 2.0),
    "op of data": lambda t: torch.ops.fastgan_test_changed.twice(t.data),
    "numpy": _numpy,
    "dlpack": _out_of_memory_view,
    "load_state_dict": lambda t: nn.ParameterList([t]).load_state_dict({"0": torch.ones(t.shape)}),
    "clip": lambda t: nn.utils.vector_to_parameters(torch.ones(t.numel()), [t]),
    "grad mode": lambda t: torch.enable_grad()(lambda: t.data.add_(1))(),
}  # fmt: skip

library = torch.library.Library("fastgan_test_changed", "DEF")
library.define("twice(Tensor(a!) x) -> ()")
library.impl("twice", lambda x: x.mul_(2) and None, "CompositeExplicitAutograd")


def learned(net):
    return list(net.parameters())


@chains
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_weights(make, change, grad):
    """The value is the one from before; under autograd both are right or both are refused."""

    def between(h, net, seen):
        with torch.no_grad():
            for p in learned(net):
                change(p)

    compare(make, between, refusal="out of sight")


@chains
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_source(make, change, grad):
    compare_source(make, change, grad)


@chains
def test_source_as_argument_of_the_tensor(make, grad):
    """x.add_(h) and the like: h is of x as it was."""
    compare_source(make, None, grad, lambda x, h: x.data.add_(h.detach().mean()))
    compare_source(make, None, grad, lambda x, h: x.detach().add_(1 if h.shape != x.shape else h.detach()))


def compare_source(make, change, grad, with_result=None):
    class Source(make):
        def forward(self, x):
            x = x * 1
            h = self.first(x)
            if self.between is not None:
                with torch.no_grad():
                    change(x) if with_result is None else with_result(x, h)
            out = self.second(h)
            return out if self.between is None else (out, x.detach() * 1)

    plain = build(Source)
    results = []
    for net in (accelerated(plain), plain):
        net.between = True
        x = images().requires_grad_(grad)

        def run(net=net, x=x):
            out, changed = net(x)
            if out.requires_grad:
                out.square().sum().backward()
            return [out, changed, x.grad, *(p.grad for p in net.parameters()), *net.buffers()]

        results.append(outcome(run))
        assert_no_mode()
    ours, theirs = results
    if isinstance(theirs, tuple):
        assert isinstance(ours, tuple) or "modified by an inplace operation" in theirs[1]
    elif isinstance(ours, tuple):
        assert "out of sight" in ours[1]
    else:
        assert_same(plain_values(ours), plain_values(theirs))


CHANGED_BY = {
    "mean": lambda x, h: x.add_(h.detach().mean()),
    "view": lambda x, h: x.view(-1)[:4].copy_(h.view(-1)[:4]),
    "itself": lambda x, h: x.copy_(h) if h.shape == x.shape else x.set_(h),
    "out": lambda x, h: torch.sum(h, dim=(1, 2, 3), out=x.view(-1)[: len(h)]),
}


@chains
def test_two_that_wait(make, grad):
    """A change by a call that takes one of them is seen by the other."""

    class Two(make):
        def forward(self, x):
            x = x * 1
            one, two = self.first(x), self.first(x)
            if self.between is not None:
                CHANGED_BY[self.between](x.data, one)
            return self.second(one).sum() + self.second(two).sum()

    plain = build(Two)
    for between in CHANGED_BY:
        results = []
        for net in (accelerated(plain), build(Two)):
            net.between = between
            with torch.no_grad():
                results.append(step(net, images()))
            assert_no_mode()
        assert_same(*results)


@chains
def test_requires_grad_between(make):
    """What came before is not part of it."""

    class Late(make):
        def forward(self, x):
            x = x.detach()
            h = self.first(x)
            if self.between is not None:
                x.requires_grad_()
                self.x = x
            return self.second(h)

    plain = build(Late)
    results = []
    for net in (accelerated(plain), plain):
        net.between = True
        out = net(images())
        if out.requires_grad:
            out.square().sum().backward()
        results.append([out.requires_grad, net.x.grad, *(p.grad for p in net.parameters())])
    assert_same(*results)


@chains
def test_freezing_between(make):
    """requires_grad_(False) on the weights after the call that used them."""
    compare(make, lambda h, net, seen: net.requires_grad_(False) and None)


@chains
def test_output_changed_in_place(make):
    """Right, or refused."""
    plain = build(make)
    net = accelerated(plain)
    x = images()
    ours, theirs = net(x), plain(x)
    ours.mul_(2)
    theirs = theirs * 2
    theirs.square().sum().backward()
    if isinstance(result := outcome(ours.square().sum().backward), tuple):
        assert "inplace operation" in result[1]
        return
    assert_same({n: p.grad for n, p in net.named_parameters()}, {n: p.grad for n, p in plain.named_parameters()})


@chains
def test_weights_changed_before_the_backward(make):
    """By an optimizer: as torch does, or refused as torch refuses; never with the new weights."""

    def run(net, change):
        x = images().requires_grad_()
        out = net(x).square().sum()
        if change:
            with torch.no_grad():
                for p in net.parameters():
                    p.mul_(2)
        out.backward()
        return [x.grad, *(p.grad for p in net.parameters())]

    plain = build(make)
    expected = run(build(make), change=False)
    ours, theirs = (outcome(run, net, True) for net in (accelerated(plain), plain))
    if not isinstance(ours, tuple):
        assert_same(ours, expected)
    if isinstance(theirs, tuple) and isinstance(ours, tuple):
        assert "modified by an inplace operation" in ours[1]


def test_shared_storage_of_a_buffer():
    """A view of the running mean that was made before, read between the calls."""

    class Reading(CHAINS["Norm"]):
        def __init__(self):
            super().__init__()
            self.norm.running_mean.zero_()

        def forward(self, x):
            h = self.first(x)
            if self.between is not None:
                self.seen.append(self.view.clone())
            return self.second(h)

    results = []
    for accelerate in (False, True):
        net = build(Reading)
        net = accelerated(net) if accelerate else net
        net.view, net.seen, net.between = net.norm.running_mean.view(2, 2), [], True
        net(images())
        results.append(net.seen)
    assert_same(*results)
