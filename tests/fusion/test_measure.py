"""accelerate(..., measure=True): what it says, by a clock of our own; and that nothing else is other than before."""

import copy
import gc
import pickle

import pytest
import torch
import torch.nn.functional as F
from deferrals import assert_no_mode
from torch import nn
from torch.nn.utils import spectral_norm
from torch.optim import optimizer as torch_optimizer

import fastgan
from fastgan import around
from fastgan.fusion import measure
from fastgan.fusion.report import PLAIN


class Clock:
    """It goes on by what the layers in a forward take."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(measure.time, "perf_counter", clock)
    return clock


class Timed(nn.Module):
    """Takes so long in a forward as it is, so long in one that is accelerated."""

    def __init__(self, clock, plain, ours):
        super().__init__()
        self.clock, self.plain, self.ours, self.seen = clock, plain, ours, []

    def forward(self, x):
        self.seen.append(around._passing.by)
        self.clock.now += self.plain if self.seen[-1] else self.ours
        return x


def network(clock=None, plain=1.0, ours=1.0):
    """Spectral norm, a chain, buffers and random values."""
    torch.manual_seed(0)
    return nn.Sequential(
        spectral_norm(nn.Conv2d(3, 4, 3, padding=1)), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3),
        Timed(clock or Clock(), plain, ours), nn.Flatten(), nn.Linear(4 * 16, 1),
    )  # fmt: skip


def train(net, steps, penalty=0):
    """Two forwards before an update; every `penalty` steps a third one, differentiated twice."""
    optimizer = torch.optim.SGD(net.parameters(), 1e-2)
    for i in range(steps):
        x = torch.randn(2, 3, 4, 4)
        optimizer.zero_grad()
        loss = F.softplus(net(x)).mean() + F.softplus(-net(x + 1)).mean()
        if penalty and i % penalty == 0:
            x = x.requires_grad_()
            (gradient,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
            loss = loss + gradient.square().sum()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("plain", "ours", "line"),
    [
        (1.5, 1.0, r"measured: 1.50x over 1\d steps accelerated and 1\d not"),
        (1.01, 1.0, r"measured: no gain (1.01x over"),
        (1.0, 1.01, r"measured: no gain (0.99x over"),
        (1.0, 1.25, r"measured: no gain (0.80x over"),
    ],
)
@pytest.mark.parametrize("penalty", [0, 4])
def test_what_it_says(plain, ours, line, penalty, clock):
    net = network(clock, plain, ours)
    report = fastgan.accelerate(net, measure=True)
    assert str(report).endswith("\nmeasured: not yet, no torch optimizer has made a step")
    train(net, 6, penalty)
    assert report.measured.startswith("measured: not yet, after ")
    train(net, 80, penalty)
    net(torch.randn(2, 3, 4, 4))  # the first call after enough of them
    last = str(report).splitlines()[-1]
    assert last == report.to_dict()["measured"]
    assert last.startswith(line.partition(r"1\d")[0])
    lost = plain < ours / 1.02
    assert last.endswith("so all runs as it is again") is lost
    assert lost is not any(row["runs"] != PLAIN for row in report.to_dict()["networks"][0]["rows"])
    assert lost is (type(net) is nn.Sequential and not vars(net).get("_fastgan_around"))
    # From then on nothing is chosen to run as it is.
    net[4].seen.clear()
    train(net, 20)
    assert not any(net[4].seen)
    assert not any(isinstance(each, measure.Measurement) for each in around.surroundings(net))
    assert not torch_optimizer._global_optimizer_post_hooks


def test_noise_is_no_gain(clock):
    net = network(clock)
    report = fastgan.accelerate(net, measure=True)
    lots = torch.Generator().manual_seed(1)
    forward = net[4].forward

    def noisy(x):
        clock.now += 5 * float(torch.rand((), generator=lots))
        return forward(x)

    net[4].forward = noisy
    train(net, 50)
    net(torch.randn(2, 3, 4, 4))
    assert report.measured.startswith("measured: no gain (")
    assert "again" not in report.measured


def test_nothing_changes():
    """The same losses, weights, buffers and random values as without it."""
    seen = []
    for options in (None, {}, {"measure": True}):
        net = network()
        if options is not None:
            fastgan.accelerate(net, **options)
        torch.manual_seed(1)
        train(net, 60, penalty=3)
        seen.append(({k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()))
    for state, lots in seen[1:]:
        torch.testing.assert_close(state, seen[0][0], rtol=1e-9, atol=1e-9)
        assert torch.equal(lots, seen[0][1])
    assert_no_mode()


def test_both_ways_are_run_and_a_step_is_of_one():
    net = network()
    fastgan.accelerate(net, measure=True)
    train(net, 24)
    steps = [tuple(net[4].seen[i : i + 2]) for i in range(0, 48, 2)]
    assert set(steps) == {(False, False), (True, True)}


def test_networks_of_one_call_go_together(clock):
    G, D = nn.Sequential(nn.Linear(3, 3 * 16), nn.Unflatten(1, (3, 4, 4))), network(clock, 2, 1)
    report = fastgan.accelerate(G, D, measure=True)
    opts = [torch.optim.Adam(net.parameters(), 1e-3) for net in (G, D)]
    for _ in range(60):
        for update, opt in zip("GD", opts, strict=True):
            fake = G(torch.randn(2, 3))
            loss = D(fake).mean() if update == "G" else D(fake.detach()).mean() - D(fake.detach() + 1).mean()
            opt.zero_grad()
            loss.backward()
            opt.step()
    assert report.measured.startswith("measured: 2.00x over")


def test_steps_that_are_never_alike(clock, monkeypatch):
    monkeypatch.setattr(measure, "GIVE_UP", 20)
    net = nn.Sequential(Timed(clock, 1, 1), nn.Linear(3, 3))
    report = fastgan.accelerate(net, measure=True)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    others = []
    handle = torch_optimizer.register_optimizer_step_post_hook(lambda *_: others.append(1))
    for n in range(1, 30):
        net(torch.randn(n, 3)).sum().backward()
        optimizer.step()
    handle.remove()
    assert len(others) == 29
    assert report.measured == "measured: nothing, since too few of 20 steps made the same calls"


@pytest.mark.parametrize("end", [fastgan.restore, fastgan.accelerate, None], ids=["restored", "again", "dropped"])
def test_ended_before(end):
    net = network()
    report = fastgan.accelerate(net, measure=True)
    train(net, 5)
    if end is None:
        del net
        gc.collect()
        measure._tidy()  # as the next measurement does
    else:
        end(net)
        assert report.measured.startswith("measured: nothing, it was stopped after ")
    assert not torch_optimizer._global_optimizer_post_hooks


def test_copies_are_not_measured():
    net = network()
    report = fastgan.accelerate(net, measure=True)
    train(net, 3)
    with torch.no_grad():
        net(torch.randn(2, 3, 4, 4))  # the hook leaves a weight that can be copied
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        twin[4].seen.clear()
        train(twin, 10)
        assert not any(twin[4].seen)
        fastgan.restore(twin)
    assert report.measured.startswith("measured: not yet, after ")
    assert len(torch_optimizer._global_optimizer_post_hooks) == 1


class Event:
    """A CUDA event: known later than it is recorded."""

    clock, passed = None, True

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = Event.clock()

    def query(self):
        return Event.passed

    def elapsed_time(self, end):
        assert Event.passed, "the host would have waited"
        return 1e3 * (end.at - self.at)


def test_on_a_gpu(monkeypatch):
    """Events in the stream; none while a graph is captured; and they are read when they have passed."""
    clock, capturing = Clock(), [False]
    monkeypatch.setattr(Event, "clock", clock)
    monkeypatch.setattr(Event, "passed", False)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    monkeypatch.setattr(measure, "_device", lambda optimizer: "cuda")
    net = network(clock, 3, 2)
    report = fastgan.accelerate(net, measure=True)
    train(net, 100)
    assert report.measured.startswith("measured: not yet, after ")
    capturing[0] = True
    train(net, 3)
    assert report.measured.startswith("measured: not yet, after ")
    capturing[0], Event.passed = False, True
    train(net, 3)
    assert report.measured.startswith("measured: 1.50x over ")
