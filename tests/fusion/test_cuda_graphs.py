"""Accelerated networks in torch.cuda.make_graphed_callables: torch's own function, on a CPU, with graphs of our own."""

import pytest
import torch
from codebases import CODEBASES
from deferrals import assert_same
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as torch_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import fastgan
from fastgan.fusion.deferred import Deferred
from fastgan.nn.utils import group_spectral_norm, spectral_norm
from host_sync import NoHostWait


class Graph(TorchDispatchMode):
    """A CUDA graph: operations that are called while it captures, and again, on the same memory, in every replay."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if Deferred in types:  # a graph has what runs in place of the deferred call
            return NotImplemented
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, *tree_map_only(torch.Tensor, torch.Tensor.detach, (args, kwargs or {}, out))))
        return out

    def replay(self):
        with torch.no_grad():
            for func, args, kwargs, out in self.calls:
                for old, new in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class Capture:
    """`torch.cuda.graph`. Whatever makes the host wait cannot be captured."""

    def __init__(self, graph, pool):
        self.contexts = graph, NoHostWait()

    def __enter__(self):
        for context in self.contexts:
            context.__enter__()

    def __exit__(self, *raised):
        for context in reversed(self.contexts):
            context.__exit__(*raised)


class Nothing:
    """A stream, and being on it."""

    def __init__(self, *_):
        pass

    def __enter__(self):
        pass

    def __exit__(self, *_):
        pass


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    monkeypatch.setattr(torch.cuda, "Stream", Nothing)
    monkeypatch.setattr(torch.cuda, "stream", Nothing)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda.graphs, "graph_pool_handle", lambda: None)


def steps(net, inputs):
    """Forwards and backwards of a graphed network: outputs, gradients, buffers."""
    seen = []
    for given in inputs:
        net.zero_grad()
        out = net(*given)
        (out * torch.linspace(1, 2, out.numel()).view(out.shape)).sum().backward()
        # A layer that is not used has no gradient, or that of the op in a graph: zero.
        grads = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in net.parameters()]
        seen += [out.detach().clone(), *grads]
        seen += [buffer.clone() for buffer in net.buffers()]
    return seen


def graphed(net, inputs):
    torch.cuda.make_graphed_callables(net, inputs, allow_unused_input=True)
    return net


@pytest.mark.parametrize("name", CODEBASES)
def test_codebase(name):
    plain, ours = (CODEBASES[name].network() for _ in range(2))
    report = fastgan.accelerate(ours)
    inputs = [CODEBASES[name].inputs(seed=i) for i in range(4)]
    sample = tuple(x.clone() for x in inputs[0])
    expected = steps(graphed(plain, sample), inputs[1:])
    assert_same(steps(graphed(ours, tuple(x.clone() for x in inputs[0])), inputs[1:]), expected)
    assert report.to_dict()["networks"][0]["rows"][-1]["found"] == "the replay of a CUDA graph"


class Normed(nn.Module):
    """A layer that is used twice, and one that is not."""

    def __init__(self, norm):
        super().__init__()
        self.body = nn.Sequential(norm(nn.Conv2d(3, 4, 3, padding=1)), nn.LeakyReLU(0.2), norm(nn.Conv2d(4, 3, 1)))
        self.extra, self.head = norm(nn.Linear(3, 3)), norm(nn.Linear(3, 1))

    def forward(self, x):
        return self.head(self.body(self.body(x)).mean((2, 3)))


NORMS = {
    "hook": (torch_hook, torch_hook),
    "parametrization": (parametrizations.spectral_norm, parametrizations.spectral_norm),
    "fastgan": (parametrizations.spectral_norm, spectral_norm),
}


@pytest.mark.parametrize("prepare", [group_spectral_norm, fastgan.accelerate], ids=["grouped", "accelerated"])
@pytest.mark.parametrize("norm", NORMS)
def test_spectral_norm(norm, prepare):
    """u and v go on in every replay, the op is in the graph, and after it everything can be undone."""
    plain, ours = map(Normed, NORMS[norm])
    ours.load_state_dict(plain.state_dict())
    prepare(ours)
    inputs = [(torch.randn(2, 3, 4, 4),) for _ in range(4)]
    for net in (plain, ours):
        graphed(net, (inputs[0][0].clone(),))
    assert_same(steps(ours, inputs[1:]), steps(plain, inputs[1:]))
    for net in (plain, ours):
        net.eval()
    assert_same(steps(ours, inputs), steps(plain, inputs))
    fastgan.restore(ours)
    for net in (plain, ours):
        net.train()
    assert_same(steps(ours, inputs), steps(plain, inputs))


def test_the_operations_are_captured():
    net = Normed(torch_hook)
    fastgan.accelerate(net)
    x = torch.randn(2, 3, 4, 4)
    net(x).sum().backward()
    with torch.cuda.graph(graph := torch.cuda.CUDAGraph(), pool=None):
        net(x)
    names = [str(func) for func, *_ in graph.calls]
    assert names.count("fastgan.spectral_norm.default") == 1
