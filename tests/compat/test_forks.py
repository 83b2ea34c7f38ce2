"""Forks that have other rules, arguments and plugins: ours computes what theirs does, or theirs stays and is named."""

import importlib
import sys
import weakref

import pytest
import torch
import torch.nn.functional as F
from codebases.forks import LAST, PLUGIN_ACT, ROSINALITY, SECOND, STYLEGAN
from torch.overrides import TorchFunctionMode
from torch.utils import cpp_extension

import fastgan
from fastgan import filters, functional
from fastgan.compat import comparison
from fastgan.compat.families.fused_leaky_relu import upfirdn2d, upfirdn2d_ext
from host_sync import HostWaitedError, NoHostWait

X = torch.linspace(-2, 2, 2 * 3 * 8 * 8).view(2, 3, 8, 8)


def row(name, family="rosinality"):
    return next(row for row in fastgan.patch(family).rows if row.name == name)


def is_ours(function):
    return "/fastgan/" in function.__code__.co_filename


@pytest.fixture
def compiled(monkeypatch):
    """What is compiled."""
    names = []

    def load(name, *_, **__):
        names.append(name)
        raise RuntimeError("there is no compiler")

    monkeypatch.setattr(cpp_extension, "load", load)
    return names


# --- rules ---


@pytest.mark.parametrize("imported", [False, True])
@pytest.mark.parametrize("on_gpu", ["", ".cuda()", ".to('cuda')"])
@pytest.mark.parametrize(("source", "dim"), [(SECOND, 1), (LAST, -1)])
def test_where_the_bias_goes(checkout, source, dim, on_gpu, imported):
    checkout(ROSINALITY | {"op/fused_act.py": source.replace("F.leaky_relu(input", f"F.leaky_relu(input{on_gpu}")})
    if imported:
        importlib.import_module("op")
    fastgan.patch("psp")
    op = importlib.import_module("op")
    for shape in ((2, 4, 6), (2, 6, 6), (2, 6), (2, 6, 3, 4)):
        along = dim if len(shape) == 3 else 1
        x, bias = torch.randn(shape), torch.randn(shape[along])
        where = [-1 if i == along % len(shape) else 1 for i in range(len(shape))]
        expected = F.leaky_relu(x + bias.view(where), 0.3) * 1.5
        torch.testing.assert_close(op.fused_leaky_relu(x, bias, 0.3, scale=1.5), expected)
        layer = op.FusedLeakyReLU(len(bias), 0.3, 1.5)
        with torch.no_grad():
            layer.bias.copy_(bias)
        torch.testing.assert_close(layer(x), expected)
    for name in ("op.fused_leaky_relu", "op.fused_act.fused_leaky_relu", "op.fused_act.FusedLeakyReLU.forward"):
        assert row(name).status == "replaced"
        said = "compared by a call" + ": the bias is of the last of three dimensions" * (dim == -1)
        assert row(name).reason == said
    assert is_ours(op.fused_leaky_relu)


@pytest.mark.parametrize(
    ("change", "by"),
    [
        ("* scale", "* scale * 1.001"),
        ("F.leaky_relu(", "F.rrelu("),
        ("+ bias.view", "- bias.view"),
        ("input + bias.view(where)", "input.detach() + bias.view(where)"),
        ("F.leaky_relu(", "torch.no_grad()(F.leaky_relu)("),
        ("F.leaky_relu(", "(lambda *a: F.leaky_relu(*a).clamp(-256, 256))("),
        ("F.leaky_relu(", "(lambda *_: exit())("),
        ("(1, -1, 1)", "(-1, 1, 1)"),
        ("import torch\n", "import torch, cupy\n"),
    ],
)
def test_what_computes_something_else_stays(checkout, change, by):
    assert change in SECOND
    source = SECOND.replace(change, by)
    checkout(ROSINALITY | {"op/fused_act.py": source})
    fastgan.patch("rosinality")
    if "cupy" in by:
        with pytest.raises(ModuleNotFoundError, match="cupy"):
            importlib.import_module("op")
        return
    op = importlib.import_module("op")
    assert not is_ours(op.fused_leaky_relu)
    assert not is_ours(op.FusedLeakyReLU.forward)
    assert row("op.fused_leaky_relu").status == "left"
    assert row("op.fused_leaky_relu").reason.startswith(("it computes something else", "unknown: it cannot be called"))


def test_defaults_of_a_fork_are_kept(checkout):
    source = SECOND.replace("negative_slope=0.2, scale=2**0.5", "negative_slope=0.1, scale=1.0")
    checkout(ROSINALITY | {"op/fused_act.py": source})
    fastgan.patch("rosinality")
    op = importlib.import_module("op")
    assert is_ours(op.fused_leaky_relu)
    torch.testing.assert_close(op.fused_leaky_relu(X, torch.ones(3)), F.leaky_relu(X + 1, 0.1))
    torch.testing.assert_close(op.FusedLeakyReLU(3)(X), F.leaky_relu(X, 0.1))


def test_rules_by_device(checkout, monkeypatch):
    """On a CPU the slope is fixed, and on a GPU it is not."""
    cpu = "    if input.device.type == 'cpu':\n        negative_slope = 0.2\n    if bias is None"
    checkout(ROSINALITY | {"op/fused_act.py": SECOND.replace("    if bias is None", cpu)})
    fastgan.patch("rosinality")
    op = importlib.import_module("op")
    assert row("op.fused_leaky_relu").reason == "compared by a call: on a CPU negative_slope is 0.2, whatever is passed"
    assert is_ours(op.fused_leaky_relu)
    for on_gpu, slope in ((False, 0.2), (True, 0.5)):
        monkeypatch.setattr(comparison, "_is_on_gpu", lambda *_: on_gpu)  # noqa: B023
        torch.testing.assert_close(op.fused_leaky_relu(X, None, 0.5, scale=1.0), F.leaky_relu(X, slope))


# --- arguments ---

MORE = STYLEGAN["training/networks.py"].replace(
    "fused_modconv=True):\n",
    'fused_modconv=True, mode="2d", **unused):\n    if mode == "1d":\n'
    "        return torch.nn.functional.linear(x * styles, weight)\n",
)


def test_an_argument_more_is_theirs(checkout):
    assert STYLEGAN["training/networks.py"] != MORE
    checkout(STYLEGAN | {"training/networks.py": MORE})
    fastgan.patch("stylegan")
    networks = importlib.import_module("training.networks")
    name = "training.networks.modulated_conv2d"
    assert row(name, "stylegan")[1:] == ("replaced", "compared by a call")
    theirs = networks.modulated_conv2d.__wrapped__
    x, weight, styles = torch.randn(4, 3), torch.randn(5, 3), torch.randn(4, 3)
    y = networks.modulated_conv2d(x=x, weight=weight, styles=styles, demodulate=False, mode="1d")
    torch.testing.assert_close(y, (x * styles) @ weight.t())
    x, weight, styles = torch.randn(2, 3, 6, 6), torch.randn(5, 3, 3, 3), torch.randn(2, 3)
    for options in ({}, {"mode": "2d"}, {"more": 1}, {"mode": "2d", "padding": 1}):
        y = networks.modulated_conv2d(x, weight, styles, **options)
        torch.testing.assert_close(y, theirs(x, weight, styles, **options))
    with pytest.raises(TypeError, match="styles"):
        networks.modulated_conv2d(x, weight)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("*everything", "unknown: its arguments cannot be read"),
        ("a, b", "its arguments are (a, b): it has no 'c'"),
        ("c, b, a", "it computes something else than ours"),
    ],
)
def test_arguments_that_do_not_fit(checkout, arguments, reason):
    body = "c * b + a" if arguments == "c, b, a" else "1"
    checkout(STYLEGAN | {"torch_utils/ops/fma.py": f"def fma({arguments}):\n    return {body}\n"})
    fastgan.patch("stylegan")
    module = importlib.import_module("torch_utils.ops.fma")
    assert not is_ours(module.fma)
    assert row("torch_utils.ops.fma.fma", "stylegan")[1:] == ("left", reason)


def test_other_names_of_arguments(checkout):
    checkout(STYLEGAN | {"torch_utils/ops/fma.py": "def fma(x, scale, shift):\n    return x * scale + shift\n"})
    fastgan.patch("stylegan")
    module = importlib.import_module("torch_utils.ops.fma")
    assert is_ours(module.fma)
    torch.testing.assert_close(module.fma(X, shift=1 + X, scale=2 * X), 2 * X * X + 1 + X)


def test_an_activation_that_is_not_ours_stays(checkout):
    source = STYLEGAN["torch_utils/ops/bias_act.py"].replace(
        '"tanh": ', '"sine": Facts(lambda x, alpha: x.sin()), "tanh": '
    )
    checkout(STYLEGAN | {"torch_utils/ops/bias_act.py": source})
    fastgan.patch("stylegan")
    module = importlib.import_module("torch_utils.ops.bias_act")
    torch.testing.assert_close(module.bias_act(X, act="sine"), X.sin())
    assert row("torch_utils.ops.bias_act.bias_act", "stylegan").status == "left"


def test_gradients_that_fail_with_this_torch_are_not_compared(checkout):
    source = """
import torch
class Sample(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, grid):
        return torch.nn.functional.grid_sample(input, grid, align_corners=False)
    @staticmethod
    def backward(ctx, dy):
        return torch.gone(dy)
def grid_sample(input, grid):
    return Sample.apply(input, grid)
"""
    checkout(STYLEGAN | {"torch_utils/ops/grid_sample_gradfix.py": source})
    fastgan.patch("stylegan")
    importlib.import_module("torch_utils.ops.grid_sample_gradfix")
    found = row("torch_utils.ops.grid_sample_gradfix.grid_sample", "stylegan")
    assert found[1:] == ("replaced", "compared by a call: its gradients fail")


# --- plugins ---


def test_nothing_is_compiled_where_a_plugin_is_known(checkout, compiled):
    checkout(ROSINALITY | {"op/fused_act.py": PLUGIN_ACT})
    fastgan.patch("rosinality")
    op = importlib.import_module("op")
    assert not compiled
    assert row("op.fused_act.fused_leaky_relu")[1:] == ("replaced", "compared by a call")
    torch.testing.assert_close(op.fused_leaky_relu(X, torch.ones(3)), F.leaky_relu(X + 1, 0.2) * 2**0.5)
    torch.testing.assert_close(op.FusedLeakyReLU(3)(X), F.leaky_relu(X, 0.2) * 2**0.5)
    assert sys.modules["op.fused_act"].load is cpp_extension.load
    fastgan.unpatch("rosinality")
    with pytest.raises(RuntimeError, match="there is no compiler"):
        op.fused_leaky_relu(X, torch.ones(3))
    assert compiled == ["fused"]


@pytest.mark.parametrize(
    "source",
    [
        PLUGIN_ACT.replace("fused.fused_bias_act", "fused.of_another_kind"),
        PLUGIN_ACT.replace("fused = load", "other = load").replace("fused.fused", "other.fused"),
        # A plugin that is known, loaded by every call.
        PLUGIN_ACT.replace("    return Forward", "    load('again', [])\n    return Forward"),
        # Its plugin is for a GPU, and its branch for a CPU is right.
        SECOND.replace("    if bias", "    if input.is_cuda:\n        return fused.unknown(input, bias)\n    if bias"),
        SECOND.replace("    if bias", "    if input.device.type == 'cuda':\n        raise OSError\n    if bias"),
        SECOND.replace(
            "import torch\n", "import torch\nfrom torch.utils.cpp_extension import load\nmine = load('m', [])\n", 1
        ).replace("    if bias", "    if input.ndim == 2:\n        return mine.rows(input, bias)\n    if bias"),
    ],
    ids=["unknown entry", "unknown plugin", "at every call", "on a GPU", "raises on a GPU", "for some inputs"],
)
def test_what_a_plugin_does_is_not_guessed(checkout, compiled, source):
    checkout(ROSINALITY | {"op/fused_act.py": source})
    fastgan.patch("rosinality")
    op = importlib.import_module("op")
    assert not is_ours(op.fused_leaky_relu)
    found = row("op.fused_leaky_relu")
    assert found.status == "left"
    assert found.reason.startswith("unknown: ")
    assert not compiled


# --- a comparison leaves no trace ---


def test_a_comparison_leaves_no_trace(checkout):
    noisy = SECOND.replace("    if bias is None", "    torch.rand(3)\n    if bias is None")
    checkout(STYLEGAN | ROSINALITY | {"op/fused_act.py": noisy})
    before = torch.random.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for family, module in (("stylegan", "training.networks"), ("rosinality", "op")):
            fastgan.patch(family)
            importlib.import_module(module)
        assert torch.is_autocast_enabled("cpu")
        assert not torch.is_grad_enabled()
    assert row("op.fused_leaky_relu").status == "replaced"
    assert row("training.networks.modulated_conv2d", "stylegan").status == "replaced"
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == before[1:]


@pytest.mark.parametrize("source", ["x.device.type == 'cpu'", "x.is_cuda", "x.cuda()", "torch.cuda.is_available()"])
def test_source_that_reads_a_device(source, tmp_path, monkeypatch):
    (tmp_path / "reading.py").write_text(f"def yes(x):\n    return {source}\n\ndef no(x):\n    return x + 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("reading")
    monkeypatch.delitem(sys.modules, "reading")
    assert comparison.reads_device(module.yes)
    assert not comparison.reads_device(module.no)
    assert comparison.reads_device(len)


# --- filters of another dtype ---


class OnDevice(TorchFunctionMode):
    """Tensors say that they are not on the CPU, and count changes as those of a GPU do."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__self__", None) is torch.Tensor.is_cpu:
            return False
        return function(*args, **(kwargs or {}))


def binomial(dtype):
    row = torch.tensor([1.0, 3, 3, 1])
    return torch.outer(row, row).div(64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_filter_is_converted_once(monkeypatch, dtype):
    """What an op learned of the tensor is known in the next call."""
    x, kernel, filters_seen, theirs = X.to(dtype), binomial(dtype), [], functional.upfirdn2d
    monkeypatch.setattr(functional, "upfirdn2d", lambda x, f, *rest: filters_seen.append(f) or theirs(x, f, *rest))
    for _ in range(2):
        y = upfirdn2d(x, kernel, up=2, pad=(2, 1))
        other = upfirdn2d_ext(x.reshape(6, 8, 8, 1), kernel, 2, 2, 1, 1, 2, 1, 2, 1)
        assert torch.equal(other.view(y.shape), y)
    assert len({id(f) for f in filters_seen}) == 1
    assert torch.equal(y, theirs(x, kernel.float(), 2, padding=[2, 1, 2, 1]))
    kernel.mul_(2)
    torch.testing.assert_close(upfirdn2d(x, kernel, up=2, pad=(2, 1)), 2 * y)
    kernel.data.mul_(2)  # which torch does not count
    torch.testing.assert_close(upfirdn2d(x, kernel, up=2, pad=(2, 1)), 4 * y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_filter_on_a_device_is_read_once(dtype):
    kernel = binomial(dtype)
    with OnDevice():
        first = filters.separate(filters.float32(kernel), dtype)
        with NoHostWait():
            again = filters.separate(filters.float32(kernel), dtype)
        assert first[0] is again[0]
        kernel.mul_(2)
        with pytest.raises(HostWaitedError), NoHostWait():
            filters.separate(filters.float32(kernel), dtype)


def test_converted_filters_are_forgotten_with_their_own():
    kernel = binomial(torch.float16)
    kept = weakref.ref(filters.float32(kernel))
    del kernel
    assert kept() is None
    constant = binomial(torch.float16).requires_grad_()
    assert filters.float32(constant).requires_grad
