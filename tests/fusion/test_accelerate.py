"""accelerate and restore themselves: what they leave, what they refuse, and when a forward does not end."""

import copy
import gc
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from deferrals import (
    CHAINS,
    Bias,
    Down,
    Network,
    Norm,
    Up,
    accelerated,
    assert_no_mode,
    assert_same,
    build,
    images,
    outcome,
    step,
    trace,
)
from torch import nn

import fastgan
from fastgan.around import surroundings
from fastgan.fusion.deferred import is_waiting
from fastgan.fusion.report import PLAIN


def test_restore_leaves_no_trace():
    net = build(Network)
    before, keys = trace(net), list(net.state_dict())
    fastgan.accelerate(net)
    assert trace(net) != before
    assert list(net.state_dict()) == keys
    for training in (False, True):
        net.train(training)
        net(images())
        with torch.no_grad():
            net(images())
    assert all(surroundings(module) for module in (net.up, net.norm, net.down, net.bias))
    fastgan.restore(net)
    assert trace(net) == before
    fastgan.restore(net)
    assert trace(net) == before


def test_restore_keeps_hooks_of_others():
    net = build(Network)
    net.norm.register_forward_pre_hook(lambda module, args: None)
    before = trace(net)
    fastgan.accelerate(net)
    net(images())
    net.up.register_forward_hook(lambda module, args, out: None)
    fastgan.restore(net)
    after = trace(net)
    del before["up"], after["up"]
    assert after == before
    assert len(net.up._forward_hooks) == 1


def test_restored_runs_as_it_is(monkeypatch):
    net, plain = (build(Norm) for _ in range(2))
    fastgan.accelerate(net)
    net(images())
    fastgan.restore(net)
    plain(images())
    net.between = lambda h, net: net.waited.append(is_waiting(h))
    net.waited = []
    assert torch.equal(net(images()), plain(images()))
    assert net.waited == [False]


def test_restored_by_the_root_of_others():
    """A part that was accelerated by itself."""
    net = build(Network)
    before = trace(net)
    fastgan.accelerate(net.up)
    net(images())
    fastgan.restore(net)
    assert trace(net) == before


def test_accelerated_twice():
    net, plain = build(Network), build(Network)
    for _ in range(2):
        report = fastgan.accelerate(net)
    assert_same([step(net, images(seed=i)) for i in range(3)], [step(plain, images(seed=i)) for i in range(3)])
    again = fastgan.accelerate(net)
    assert report.forwards == [1]
    assert_same(step(net, images()), step(plain, images()))
    assert report.forwards == [1]
    assert again.forwards == [1]
    assert again.to_dict()["networks"] == report.to_dict()["networks"]
    fastgan.restore(net)
    assert_no_mode()


def test_the_same_module_twice_in_a_call():
    net, plain = build(Network), build(Network)
    fastgan.accelerate(net, net)
    assert_same([step(net, images(seed=i)) for i in range(3)], [step(plain, images(seed=i)) for i in range(3)])


def test_a_part_of_what_is_accelerated():
    net = build(Network)
    report = fastgan.accelerate(net)
    net(images())
    assert [row for row in report.rows[0] if row.path.startswith("norm") and row.runs != PLAIN]
    with pytest.raises(ValueError, match=r"modules\[0\] must not be a part of a network that is accelerated already"):
        fastgan.accelerate(net.norm)
    fastgan.restore(net)
    fastgan.accelerate(net.norm)


def test_roots_within_each_other():
    """The part is used by the other root and by itself."""

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = [build(Norm)]  # not registered
            self.bias = nn.Parameter(torch.ones(4))

        def forward(self, x):
            return F.leaky_relu(self.part[0](x) + self.bias.view(1, -1, 1, 1), 0.2) * 2

    nets = [build(Outer), build(Outer)]
    fastgan.accelerate(nets[0], nets[0].part[0])
    for i in range(3):
        results = []
        for net in nets:
            results.append(
                [step(net, images(seed=i)), net.part[0](images(seed=i + 5)), dict(net.part[0].named_buffers())]
            )
            assert_no_mode()
        assert_same(*results)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (lambda: ((), {}), ValueError, "modules must be one network or more"),
        (lambda: ((F.relu,), {}), TypeError, r"modules\[0\] must be an nn.Module, got"),
        (lambda: ((nn.ReLU(), None), {}), TypeError, r"modules\[1\] must be an nn.Module, got NoneType"),
        (lambda: (([nn.ReLU()],), {}), TypeError, r"modules\[0\] must be an nn.Module, got list"),
        (lambda: ((nn.ReLU,), {}), TypeError, r"modules\[0\] must be an nn.Module, got type"),
        (lambda: ((nn.ReLU(),), {"ops": "norm_act"}), ValueError, "ops must be"),
        (lambda: ((nn.ReLU(),), {"ops": ["norm"]}), ValueError, "ops must be"),
        (lambda: ((nn.ReLU(),), {"ops": [None]}), ValueError, "ops must be"),
        (lambda: ((nn.ReLU(),), {"ops": None}), ValueError, "ops must be"),
    ],
)  # fmt: skip
def test_bad_arguments(arguments, kind, message):
    args, kwargs = arguments()
    with pytest.raises(kind, match=message):
        fastgan.accelerate(*args, **kwargs)
    if not kwargs:
        with pytest.raises(kind, match=message):
            fastgan.restore(*args)


def test_bad_arguments_change_nothing():
    net = build(Network)
    before = trace(net)
    with pytest.raises(TypeError):
        fastgan.accelerate(net, 3)
    assert trace(net) == before


@pytest.mark.parametrize("op", ["upsample_conv", "conv_downsample", "norm_act", "bias_act", "spectral_norm"])
def test_only_one_op(op):
    net, plain = build(Network), build(Network)
    report = fastgan.accelerate(net, ops=[op])
    assert_same([step(net, images(seed=i)) for i in range(2)], [step(plain, images(seed=i)) for i in range(2)])
    rows = [row for row in report.to_dict()["networks"][0]["rows"] if row["runs"] != PLAIN]
    assert len(rows) == 1
    assert report.ops == [op]


def test_nothing_to_do_costs_no_mode():
    """Nothing runs around modules in which nothing was found."""
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Sequential(nn.Linear(16, 2)))
    report = fastgan.accelerate(net)
    net(images())
    assert not any(surroundings(part) for part in list(net.modules())[1:])
    assert "nothing found" in str(report)


# --- forwards that do not end ---


@pytest.mark.parametrize("make", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_error_in_a_forward(make, error, grad):
    def stop(h, net):
        net.kept = h
        raise error

    plain = build(make)
    net = accelerated(plain)
    for each in (net, plain):
        each.between = stop
        with pytest.raises(error):
            each(images())
        each.between = None
    assert_same(net.kept.detach(), plain.kept.detach())
    assert_same([step(net, images(seed=i)) for i in range(2)], [step(plain, images(seed=i)) for i in range(2)])
    assert_no_mode()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_error_in_the_first_forward(error):
    net = build(Network)
    before = trace(net)
    report = fastgan.accelerate(net)
    handle = net.norm.register_forward_hook(_raise(error))
    with pytest.raises(error):
        net(images())
    handle.remove()
    assert report.forwards == [0]
    fastgan.restore(net)
    assert trace(net) == before
    assert_no_mode()
    fastgan.accelerate(net)
    net(images()), net(images())
    assert_no_mode()
    assert surroundings(net.norm)


def _raise(error):
    def hook(*_):
        raise error

    return hook


def test_no_output_while_an_error_is_handled():
    """A forward that returns nothing has not failed because its caller is in an except block."""

    class Storing(Norm):
        def forward(self, x):
            self.h = self.first(x)
            if self.between is None:
                self.out = self.second(self.h)

    net, plain = accelerated(build(Storing)), build(Storing)
    for each in (net, plain):
        each.between = True
        try:
            raise ValueError
        except ValueError:
            each(images())
    assert_same(dict(net.named_buffers()), dict(plain.named_buffers()))
    assert_same(net.h.detach(), plain.h.detach())


def test_error_in_the_call_itself():
    """Wrong arguments are refused as torch refuses them, in the forward."""
    net, plain = accelerated(build(Up)), build(Up)
    for each in (net, plain):
        with pytest.raises(RuntimeError, match="Given groups=1, weight of size"):
            each(images()[:, :3])
    assert_no_mode()


def test_error_in_the_first_call():
    """It is raised by that call, not after it."""
    for make in (Down, Norm):
        net = accelerated(build(make))
        reached = []
        net.between = lambda h, net, reached=reached: reached.append(h)
        with pytest.raises(RuntimeError):
            net(images()[:, :3])
        assert not reached


# --- several at once ---


def test_threads():
    """Two threads use one network in evaluation, from the first forward on."""
    plain = build(Network).eval()
    net = copy.deepcopy(plain)
    fastgan.accelerate(net)
    x = images()
    expected = plain(x)
    barrier = threading.Barrier(4)
    results = []

    def run():
        barrier.wait()
        for _ in range(10):
            results.append(outcome(net, x))  # noqa: PERF401

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 40
    for result in results:
        assert not isinstance(result, tuple), result
        torch.testing.assert_close(result, expected)
    fastgan.restore(net)
    assert not any(surroundings(part) for part in net.modules())


def test_shared_modules_and_weights():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = build(Norm)
            self.two = self.one
            self.three, self.four = build(Bias), build(Bias)
            self.four.bias = self.three.bias
            self.up = build(Up)
            self.conv = self.up.conv

        def forward(self, x):
            h = self.four(self.three(self.two(self.one(x))))
            return self.up(h).sum() + self.conv(F.interpolate(h, scale_factor=2)).square().sum()

    net, plain = build(Shared), build(Shared)
    fastgan.accelerate(net)
    assert_same([step(net, images(seed=i)) for i in range(3)], [step(plain, images(seed=i)) for i in range(3)])


def test_changing_control_flow():
    """Each forward takes other branches, with other shapes; the report says what was given up."""

    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList([Norm(), Bias(), Norm()])
            self.up = Up()
            self.turn = 0

        def forward(self, x):
            self.turn += 1
            h = x
            for i, part in enumerate(self.parts):
                h = part(h) if self.turn >> i & 1 else part.second(part.first(h) * 1)
            big = F.interpolate(h, scale_factor=1 + self.turn % 3)
            return self.up.conv(big) if self.turn % 2 else big

    net, plain = build(Branching), build(Branching)
    fastgan.accelerate(net)
    for i in range(12):
        x = images(n=2 + i % 3, seed=i, size=4 + i % 2)
        assert_same(step(net, x), step(plain, x))
        assert_no_mode()


def test_calls_itself():
    class Recursive(Norm):
        depth = 0

        def forward(self, x):
            x = super().forward(x)
            if self.depth:
                self.depth -= 1
                return self(x + 1)
            return x

    nets = [build(Recursive), build(Recursive)]
    fastgan.accelerate(nets[0])
    results = []
    for net in nets:
        results.append([])
        for depth in (0, 2, 1):
            net.depth = depth
            results[-1].append(step(net, images()))
        assert_no_mode()
    assert_same(*results)


def test_root_with_only_one_call():
    """A layer of torch as the root."""
    for make in (lambda: nn.BatchNorm2d(4), lambda: nn.Conv2d(4, 4, 3), lambda: nn.Upsample(scale_factor=2), nn.ReLU):
        net, plain = build(make), build(make)
        fastgan.accelerate(net)
        assert_same([step(net, images(seed=i)) for i in range(2)], [step(plain, images(seed=i)) for i in range(2)])


def test_report_of_a_missed_chain():
    net = build(Norm)
    report = fastgan.accelerate(net)
    net(images())
    (row,) = report.rows[0]
    assert report.to_dict()["networks"][0]["rows"] == [
        {
            "path": "norm", "found": "batch_norm -> relu", "reason": "",
            "runs": "norm_act: normalization and activation in one pass",
        }
    ]  # fmt: skip
    net.between = lambda h, net: h.mean() * 0 + h
    net(images())
    assert (row.runs, row.reason) == (PLAIN, "in a later forward its result went to mean")
    waited = []
    net.between = lambda h, net: waited.append(is_waiting(h))
    net(images())
    assert waited == [False]


def test_report_of_a_chain_missed_in_evaluation_only():
    net = build(Bias)
    report = fastgan.accelerate(net)
    net(images())
    net.eval()(images())
    net.between = lambda h, net: h + 0
    net(images())
    net.between = None
    net.train()
    waited = []
    net.between = lambda h, net: waited.append(is_waiting(h))
    net(images())
    assert waited == [True]
    assert any(row.runs != PLAIN for row in report.rows[0])


@pytest.mark.parametrize("make", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "not fused"])
def test_nothing_of_a_forward_stays(make, fused):
    """Its tensors go with the last reference: no cycle keeps them, and the graph, for the garbage collector."""
    net = accelerated(build(make))
    net.between = None if fused else (lambda h, net: h.sin())
    step(net, images())
    gc.collect()
    gc.disable()
    try:
        x = images().requires_grad_()
        out = net(x)
        out.sum().backward()
        kept = [weakref.ref(t) for t in (x, out, x.grad)]
        del x, out
        assert [ref() for ref in kept] == [None] * 3
    finally:
        gc.enable()
