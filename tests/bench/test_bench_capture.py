"""What is captured in a CUDA graph was built on the stream that is captured: tried with streams that are made up."""

import bisect
from contextlib import contextmanager

import pytest
import torch

from fastgan.bench import runner, timing
from fastgan.bench.cases import Case, Layer
from fastgan.bench.layers import blocks
from fastgan.bench.ops import spectral_norm
from fastgan.bench.registry import OPS
from fastgan.bench.steps import gradient_penalty, training_step, weight_gradient
from fastgan.bench.workload import is_ours

CPU = torch.device("cpu")
DEFAULT = "the default stream"


def next_node() -> int:
    """The number that autograd gives the next node of a graph on this thread."""
    return torch.zeros((), requires_grad=True).exp().grad_fn._sequence_nr() + 1


class Streams:
    """Streams of CUDA that only remember which of them was the current one, and what was built meanwhile."""

    def __init__(self):
        self.changes = [(0, DEFAULT)]  # from which node on a stream is the current one
        self.made = 0
        self.capturing = None
        self.backwards = 0

    def new(self, *_, **__):
        self.made += 1
        return FakeStream(f"stream {self.made}")

    @property
    def current(self):
        return self.changes[-1][1]

    @contextmanager
    def use(self, stream):
        before = self.current
        self.changes.append((next_node(), stream.name))
        try:
            yield
        finally:
            self.changes.append((next_node(), before))

    @contextmanager
    def capture(self, _, stream=None):
        stream = stream or FakeStream("a stream of the capture's own")
        with self.use(stream):
            self.capturing = stream.name
            yield
            self.capturing = None

    def check(self, outputs):
        """Every node that a backward from here would run was built on the stream that is captured."""
        if self.capturing is None:
            return
        self.backwards += 1
        seen, todo = set(), [y.grad_fn for y in outputs]
        while todo:
            node = todo.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            todo += [after for after, _ in node.next_functions]
            if not hasattr(node, "variable"):
                at = bisect.bisect_right(self.changes, node._sequence_nr(), key=lambda change: change[0]) - 1
                assert self.changes[at][1] == self.capturing, f"{node.name()} was built on {self.changes[at][1]}"


class FakeStream:
    def __init__(self, name):
        self.name = name

    def wait_stream(self, other):
        pass


class FakeGraph:
    def replay(self):
        pass


@pytest.fixture
def streams(monkeypatch):
    made = Streams()
    fakes = {"Stream": made.new, "stream": made.use, "current_stream": lambda *_: FakeStream(made.current)}
    fakes |= {"CUDAGraph": FakeGraph, "graph": made.capture}
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    for module, name in ((torch.autograd, "grad"), (torch.autograd, "backward"), (torch.Tensor, "backward")):
        right = getattr(module, name)

        def checked(outputs, *args, right=right, **kwargs):
            made.check([outputs] if isinstance(outputs, torch.Tensor) else list(outputs))
            return right(outputs, *args, **kwargs)

        monkeypatch.setattr(module, name, checked)
    return made


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The same networks and layers, with few channels and images."""
    critic = Case("small", (Layer("conv2d", (6, 3, 3, 3)), Layer("linear", (1, 6))), "made up")
    monkeypatch.setattr(spectral_norm, "CRITICS", (critic,))
    step = training_step.Case(width=4, width_g=4, channels=1, batch=2)
    monkeypatch.setattr(training_step, "CASES", dict.fromkeys(training_step.CASES, step))
    monkeypatch.setattr(weight_gradient, "CHANNELS", {size: {"cpu": 3} for size in weight_gradient.CHANNELS})
    block = {name: case._replace(c_in=8, c_out=8, batch=2, size=8) for name, case in blocks.CASES.items()}
    monkeypatch.setattr(blocks, "CASES", block)
    penalized = {name: case._replace(batch={"cpu": 2}) for name, case in gradient_penalty.CASES.items()}
    monkeypatch.setattr(gradient_penalty, "CASES", penalized)


def case_of(op):
    return "small" if op.name == "spectral_norm" else op.quick[0]


@pytest.mark.parametrize("name", [name for name in OPS if name != "codebases"])  # on a CPU alone
def test_what_is_captured_was_built_there(name, streams, monkeypatch):
    monkeypatch.setattr(runner, "WARMUP_BEFORE_CAPTURE", 1)
    op = OPS[name]
    workload = op.workload(case_of(op), CPU, ["reference"], False)
    captures = 0
    for label, build in workload.contenders.items():
        contender = build()
        for mode in workload.modes:
            with contender.context():
                contender.before()
                contender.runs[mode]()  # eager comes first
                runner.captured(contender.runs[mode], contender.before)()
            captures += is_ours(label)
    assert captures
    assert streams.backwards


def test_a_graph_built_before_the_capture_is_seen(streams):
    x = torch.ones(2, requires_grad=True)
    y = x.exp()
    run = lambda: torch.autograd.grad(y.sum(), x, retain_graph=True)  # noqa: E731
    with pytest.raises(AssertionError, match="ExpBackward0 was built on the default stream"):
        runner.captured(run, lambda: None)


def test_warm_up_and_capture_share_a_stream(streams):
    used = []
    runner.captured(lambda: used.append(("run", streams.current)), lambda: used.append(("before", streams.current)))
    assert used == [("before", "stream 1"), ("run", "stream 1")] * 4
    assert len(used) == 2 * (runner.WARMUP_BEFORE_CAPTURE + 1)


def test_weight_gradients_graph_is_not_timed():
    """The forward belongs to `before`."""
    contender = OPS["weight_gradient"].workload("conv3x3-16-fp32", CPU, [], False).contenders["torch, ordinary"]()
    timed = timing.Timed(contender.runs[weight_gradient.MODE], contender.before, contender.context)
    ran = []

    def timer(run):
        with torch.autograd.profiler.profile() as profiled:
            run()
        ran.extend(event.name for event in profiled.function_events)
        return 1.0

    timing.interleave({"torch": timed}, timer, timing.Budget(warmup=0, rounds=1, most=1, seconds=0))
    assert "aten::convolution_backward" in ran
    assert "aten::conv2d" not in ran
