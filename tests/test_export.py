"""Exporters that know nothing of fastgan: every op as torch's own, and ONNX files that give the same numbers."""

import io

import pytest
import torch
from torch import nn

import fastgan
from fastgan import functional
from fastgan.nn import BatchNormAct2d, BiasAct, ConvDownsample2d, DBlock, GBlock, PixelShuffleUpsample, UpsampleConv2d


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


def test_functions_compile_one_after_the_other():
    """Torch gives up where it compiles the same code for more than a few functions."""
    x, weight = torch.randn(2, 4, 8, 8), torch.randn(4, 4, 3, 3)
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
