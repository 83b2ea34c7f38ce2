"""Exporters that know nothing of fastgan: every op as torch's own, and ONNX files that give the same numbers."""

import copy
import io
import subprocess
import sys

import pytest
import torch
from torch import nn

import fastgan
from fastgan import functional
from fastgan.nn import (
    BatchNormAct2d,
    BiasAct,
    ConvDownsample2d,
    DBlock,
    GBlock,
    PixelShuffleUpsample,
    Upsample2d,
    UpsampleConv2d,
)
from first_calls import first_call
from public_ops import FUNCTIONS


class Resampled(nn.Module):
    """The functions that have no module of their own."""

    def __init__(self):
        super().__init__()
        self.register_buffer("f", functional.setup_filter([1.0, 3.0, 3.0, 1.0]))
        self.scale, self.shift = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))

    def forward(self, x):
        x = functional.upfirdn2d(x, self.f, up=2, padding=[2, 1, 2, 1], gain=4)
        return functional.scale_shift_act(x, self.scale, self.shift, act="lrelu")


NETWORKS = {
    "bias_act": lambda: nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), BiasAct(4, act="lrelu", clamp=0.5)),
    "up": lambda: UpsampleConv2d(4, 5, 3),
    "down": lambda: ConvDownsample2d(4, 5, 3),
    "resampled": Resampled,
    "upsampled": Upsample2d,
    "norm": lambda: BatchNormAct2d(4),
    "pixel shuffle": lambda: PixelShuffleUpsample(4, 2, act="lrelu"),
    "generator's block": lambda: GBlock(4, 6),
    "discriminator's block": lambda: DBlock(4, 6, downsample=True),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    torch.manual_seed(0)
    return NETWORKS[request.param]().eval().requires_grad_(False)


def names(program):
    return {node.target.namespace for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)}


def test_decomposes_into_torchs_ops(network):
    x = torch.randn(2, 4, 8, 8)
    program = torch.export.export(network, (x,))
    plain = program.run_decompositions(fastgan.decompositions())
    assert "fastgan" not in names(plain)
    torch.testing.assert_close(plain.module()(x), network(x))


def test_compiles_whole(network):
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(torch.compile(network, fullgraph=True, backend="aot_eager")(x), network(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_traced_by_torch_jit(network):
    """What torch.jit sees are torch's ops, in training too, with gradients and without; it passes its own check."""
    x = torch.randn(2, 4, 8, 8)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            traced = torch.jit.trace(network, torch.randn(2, 4, 8, 8))
            torch.testing.assert_close(traced(x), network(x))
        assert not ours_in(traced)
    assert not ours_in(torch.jit.trace(copy.deepcopy(network).train().requires_grad_(), x, check_trace=False))


def ours_in(traced):
    """The kinds of our ops in a trace, which cannot be loaded without fastgan."""
    return {node.kind() for node in traced.inlined_graph.nodes() if "fastgan" in node.kind()}


LOAD = """
import sys, torch
saved = torch.jit.load(sys.argv[1])
x, expected = torch.load(sys.argv[2])
torch.testing.assert_close(saved(x), expected)
assert not any(name.startswith("fastgan") for name in sys.modules)
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_loaded_where_there_is_no_fastgan(tmp_path):
    """Everything in one trace; and an accelerated network that has been trained."""
    torch.manual_seed(0)
    critic = nn.Sequential(
        nn.Upsample(scale_factor=2), nn.utils.spectral_norm(nn.Conv2d(4, 4, 3, padding=1)),
        nn.BatchNorm2d(4), nn.ReLU(),
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 1)), nn.LeakyReLU(0.2), nn.AvgPool2d(2),
    )  # fmt: skip
    fastgan.accelerate(critic)
    x = torch.randn(2, 4, 8, 8)
    for _ in range(2):
        critic(x).sum().backward()
    ours = [nn.Sequential(make(), nn.AdaptiveAvgPool2d(4), nn.Flatten()) for make in NETWORKS.values()]
    ours.append(nn.Sequential(critic, nn.AdaptiveAvgPool2d(4), nn.Flatten()))

    class All(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList(ours)

        def forward(self, x):
            return torch.cat([part(x) for part in self.parts], 1)

    network = All().eval()
    expected = network(x).detach()
    torch.jit.save(torch.jit.trace(network, x), tmp_path / "network.pt")
    torch.save((x, expected), tmp_path / "values.pt")
    command = [sys.executable, "-c", LOAD, str(tmp_path / "network.pt"), str(tmp_path / "values.pt")]
    subprocess.run(command, check=True, cwd=tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("seen", [True, False], ids=["seen", "not seen"])
def test_accelerated_networks_are_scripted_and_symbolically_traced(seen):
    """As they are."""
    torch.manual_seed(0)
    make = lambda: nn.Sequential(  # noqa: E731
        nn.Upsample(scale_factor=2.0), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2)
    )
    plain = make()
    network = copy.deepcopy(plain)
    fastgan.accelerate(network)
    x = torch.randn(2, 4, 8, 8)
    if seen:
        for each in (plain, network):
            each(x), each(x)
    torch.testing.assert_close(torch.jit.script(network)(x), plain(x))
    graph = torch.fx.symbolic_trace(network)
    assert [node.target for node in graph.graph.nodes] == [n.target for n in torch.fx.symbolic_trace(plain).graph.nodes]
    torch.testing.assert_close(graph.eval()(x), plain.eval()(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("function", [functional.upsample_conv2d, functional.conv_downsample2d])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("fir", [False, True])
def test_convolutions_traced_by_torch_jit(function, kernel, fir):
    options = {"mode": "fir", "fir": functional.setup_filter([1, 3, 3, 1])} if fir else {}

    def run(x, weight):
        return function(x, weight, **options)

    weight = torch.randn(5, 4, kernel, kernel, dtype=torch.float64)
    traced = torch.jit.trace(run, (torch.randn(2, 4, 8, 8, dtype=torch.float64), weight), check_trace=False)
    x = torch.randn(3, 4, 6, 10, dtype=torch.float64)
    torch.testing.assert_close(traced(x, weight), run(x, weight))


class Subclass(torch.Tensor):
    """A tensor that behaves as any other, as those of torchvision do."""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_subclasses_of_tensors(name):
    function, good = first_call(name)
    first = next(iter(good))
    results = []
    for kind in (Subclass, torch.Tensor):
        torch.manual_seed(0)
        if isinstance(good[first], list):
            xs = [x.detach().as_subclass(kind).requires_grad_() for x in good[first]]
            ys = function(**{**good, first: xs}).weights
        else:
            xs = [good[first].detach().as_subclass(kind).requires_grad_()]
            ys = [function(**{**good, first: xs[0]})]
        gradients = torch.autograd.grad([y.sum() for y in ys], xs)
        results.append([t.as_subclass(torch.Tensor) for t in (*ys, *gradients)])
    torch.testing.assert_close(*results)


def test_functions_compile_one_after_the_other():
    """Torch gives up where it compiles the same code for more than a few functions."""
    x, weight = torch.randn(2, 4, 8, 8, dtype=torch.float64), torch.randn(4, 4, 3, 3, dtype=torch.float64)
    calls = [(functional.upsample_conv2d, (x, weight)), (functional.conv_downsample2d, (x, weight))]
    calls += [
        (functional.upsample_conv1d, (x[..., 0], weight[..., 0])),
        (functional.conv_downsample1d, (x[..., 0], weight[..., 0])),
    ]
    calls += [(functional.bias_act, (x,)), (functional.norm_act, (x,)), (functional.pixel_shuffle_act, (x,))]
    calls += [(functional.scale_shift_act, (x, None, None)), (functional.upfirdn2d, (x, None))]
    for function, arguments in calls:
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(*arguments), function(*arguments))


def test_every_registered_op_has_a_plain_form():
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("fastgan::")}
    assert registered
    assert {op.name() for op in fastgan.decompositions()} == registered


@pytest.mark.slow
def test_onnx(network):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    from onnx.reference import ReferenceEvaluator

    x = torch.randn(2, 4, 8, 8)
    program = torch.export.export(network, (x,)).run_decompositions(fastgan.decompositions())
    file = io.BytesIO()
    torch.onnx.export(program, (), verbose=False).save(file)
    model = onnx.load_from_string(file.getvalue())
    onnx.checker.check_model(model)
    (y,) = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), network(x), rtol=1e-4, atol=1e-5)
