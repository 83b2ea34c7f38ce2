"""fastgan.patch on codebases that are written here, in the manner of the families."""

import importlib
import sys
from collections import Counter
from functools import partial
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastgan
from fastgan import functional
from fastgan.cli import main
from fastgan.compat import patching
from fastgan.compat.families.stylegan import GRADFIX
from fastgan.compat.grid_sample import grid_sample

FUNCTION = """
def {name}(*args, **kwargs):
    raise RuntimeError("a plugin would be compiled")
"""
STYLEGAN = {
    "torch_utils/__init__.py": "",
    "torch_utils/ops/__init__.py": "",
    "torch_utils/ops/bias_act.py": "activation_funcs = {'theirs': 1}\n" + FUNCTION.format(name="bias_act"),
    "torch_utils/ops/upfirdn2d.py": FUNCTION.format(name="upfirdn2d") + FUNCTION.format(name="upsample2d"),
    "training/__init__.py": "",
    "training/networks.py": "from torch_utils.ops import bias_act\nfrom torch_utils.ops.upfirdn2d import upsample2d\n",
}
ROSINALITY = {
    "op/__init__.py": "raise RuntimeError('nvcc is started')\n",
    "model.py": "from op import FusedLeakyReLU, fused_leaky_relu, upfirdn2d, conv2d_gradfix\n"
    "from op.upfirdn2d import upfirdn2d as other\n",
}
BASICSR = {
    "basicsr/__init__.py": "",
    "basicsr/ops/__init__.py": "",
    "basicsr/ops/fused_act/__init__.py": "from .fused_act import fused_leaky_relu\n",
    "basicsr/ops/fused_act/fused_act.py": "from . import fused_act_ext\n" + FUNCTION.format(name="fused_leaky_relu"),
    "basicsr/ops/upfirdn2d/__init__.py": "from .upfirdn2d import upfirdn2d\n",
    "basicsr/ops/upfirdn2d/upfirdn2d.py": "from . import upfirdn2d_ext\n" + FUNCTION.format(name="upfirdn2d"),
    "basicsr/archs.py": "from basicsr.ops.fused_act import fused_leaky_relu as act\n",
}
BIGGAN = {
    "layers.py": """
import torch
import torch.nn.functional as F
from torch import nn


class SN:
    def __init__(self, num_svs, num_itrs, num_outputs, transpose=False, eps=1e-12):
        self.num_svs, self.num_itrs, self.transpose, self.eps = num_svs, num_itrs, transpose, eps
        for i in range(num_svs):
            self.register_buffer(f"u{i}", torch.randn(1, num_outputs))
            self.register_buffer(f"sv{i}", torch.ones(1))

    def W_(self):
        matrix = self.weight.flatten(1)
        for _ in range(self.num_itrs):
            with torch.no_grad():
                v = F.normalize(self.u0 @ matrix, eps=self.eps)
                u = F.normalize(v @ matrix.t(), eps=self.eps)
                if self.training:
                    self.u0.copy_(u)
        sigma = (u @ matrix @ v.t()).squeeze()
        if self.training:
            self.sv0.copy_(sigma.detach())
        return self.weight / sigma


class SNConv2d(nn.Conv2d, SN):
    def __init__(self, in_channels, out_channels, kernel_size, padding=0, num_svs=1, num_itrs=1, eps=1e-12):
        nn.Conv2d.__init__(self, in_channels, out_channels, kernel_size, padding=padding)
        SN.__init__(self, num_svs, num_itrs, out_channels, eps=eps)

    def forward(self, x):
        return F.conv2d(x, self.W_(), self.bias, self.stride, self.padding)


class GBlock(nn.Module):
    def __init__(self, in_channels, out_channels, which_conv=nn.Conv2d, which_bn=None, activation=None, upsample=None):
        super().__init__()
        self.activation, self.upsample = activation, upsample
        self.learnable_sc = in_channels != out_channels or upsample
        self.bn1, self.bn2 = which_bn(in_channels), which_bn(out_channels)
        self.conv1, self.conv2 = which_conv(in_channels, out_channels), which_conv(out_channels, out_channels)
        if self.learnable_sc:
            self.conv_sc = which_conv(in_channels, out_channels, kernel_size=1, padding=0)

    def forward(self, x, y):
        up = self.upsample or (lambda x: x)
        h = self.conv1(up(self.activation(self.bn1(x, y))))
        h = self.conv2(self.activation(self.bn2(h, y)))
        return h + (self.conv_sc(up(x)) if self.learnable_sc else x)


class DBlock(nn.Module):
    def __init__(
        self, in_channels, out_channels, which_conv=SNConv2d, wide=True, preactivation=False, activation=None,
        downsample=None,
    ):
        super().__init__()
        hidden = out_channels if wide else in_channels
        self.activation, self.downsample, self.preactivation = activation, downsample, preactivation
        self.learnable_sc = in_channels != out_channels or bool(downsample)
        self.conv1, self.conv2 = which_conv(in_channels, hidden), which_conv(hidden, out_channels)
        if self.learnable_sc:
            self.conv_sc = which_conv(in_channels, out_channels, kernel_size=1, padding=0)

    def shortcut(self, x):
        down = self.downsample or (lambda x: x)
        if not self.learnable_sc:
            return down(x)
        return down(self.conv_sc(x)) if self.preactivation else self.conv_sc(down(x))

    def forward(self, x):
        h = self.conv2(self.activation(self.conv1(F.relu(x) if self.preactivation else x)))
        return (self.downsample(h) if self.downsample else h) + self.shortcut(x)
""",
    "BigGAN.py": "import layers\n",
}
X = torch.linspace(-2, 2, 2 * 3 * 8 * 8).view(2, 3, 8, 8)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Writes a codebase, puts it on the path, and forgets it and every patch afterwards."""

    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))

    before = set(sys.modules)
    yield write
    for name in list(patching._patched):
        fastgan.unpatch(name)
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("torch_utils", "training", "op", "model", "basicsr", "layers", "BigGAN"):
            del sys.modules[name]


def statuses(report):
    return {row.name: row.status for row in report.rows}


@pytest.mark.parametrize("imported", [False, True])
def test_before_and_after_the_import(checkout, imported):
    checkout(STYLEGAN)
    if imported:
        importlib.import_module("training.networks")
    report = fastgan.patch("stylegan3")
    expected = "replaced" if imported else "replaced when imported"
    assert statuses(report)["torch_utils.ops.bias_act.bias_act"] == expected
    networks = importlib.import_module("training.networks")
    y = networks.bias_act.bias_act(X, torch.ones(3), act="lrelu", impl="cuda")
    assert torch.equal(y, functional.bias_act(X, torch.ones(3), act="lrelu"))
    f = functional.setup_filter([1, 3, 3, 1])
    assert torch.equal(networks.upsample2d(X, f), functional.upsample2d(X, f))
    assert networks.bias_act.activation_funcs == {"theirs": 1}
    assert statuses(fastgan.patch("stylegan"))["torch_utils.ops.bias_act.bias_act"] == "replaced"


@pytest.mark.parametrize("resampling", [{}, {"up": 2}, {"down": 2}])
@pytest.mark.parametrize(("demodulate", "with_noise"), [(True, True), (True, False), (False, True), (False, False)])
def test_modulated_convolution_is_one_with_a_weight_for_every_sample(resampling, demodulate, with_noise):
    from fastgan.compat.families.stylegan import conv2d_resample, modulated_conv2d

    torch.manual_seed(0)
    x, weight, styles = (torch.randn(shape, dtype=torch.float64) for shape in ((2, 3, 8, 8), (4, 3, 3, 3), (2, 3)))
    f = functional.setup_filter([1, 3, 3, 1])
    weights = weight * styles[:, None, :, None, None]
    if demodulate:
        weights = weights * (weights.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    expected = torch.cat([conv2d_resample(x[i : i + 1], weights[i], f, padding=1, **resampling) for i in range(2)])
    noise = torch.randn(2, 1, *expected.shape[2:], dtype=torch.float64) if with_noise else None
    y = modulated_conv2d(x, weight, styles, noise, padding=1, resample_filter=f, demodulate=demodulate, **resampling)
    torch.testing.assert_close(y, expected if noise is None else expected + noise, rtol=1e-12, atol=1e-12)


def test_modulated_convolution_does_not_overflow_in_float16():
    from fastgan.compat.families.stylegan import modulated_conv2d

    torch.manual_seed(0)
    x, weight, styles = torch.randn(2, 8, 6, 6), 1e3 * torch.randn(4, 8, 3, 3), 1e3 * torch.randn(2, 8)
    expected = modulated_conv2d(x.double(), weight.double(), styles.double(), padding=1)
    y = modulated_conv2d(x.half(), weight, styles, padding=1)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.double(), expected, rtol=1e-2, atol=1e-2)


def test_unpatch_restores(checkout):
    checkout(STYLEGAN)
    networks = importlib.import_module("training.networks")
    theirs = networks.bias_act.bias_act, networks.upsample2d, sys.modules["torch_utils.ops.upfirdn2d"].upfirdn2d
    finders = list(sys.meta_path)
    fastgan.patch("stylegan")
    assert networks.upsample2d is not theirs[1]
    fastgan.unpatch("stylegan")
    assert theirs == (
        networks.bias_act.bias_act,
        networks.upsample2d,
        sys.modules["torch_utils.ops.upfirdn2d"].upfirdn2d,
    )
    assert sys.meta_path == finders
    with pytest.raises(ValueError, match=r"name must be a family that is patched \(none is\), got 'stylegan'"):
        fastgan.unpatch("stylegan")


def test_what_a_codebase_took_from_torch_stays_torchs(checkout):
    name = "torch_utils/ops/grid_sample_gradfix.py"
    checkout(STYLEGAN | {name: "from torch.nn.functional import grid_sample\n"})
    theirs = F.grid_sample
    fastgan.patch("stylegan")
    module = importlib.import_module("torch_utils.ops.grid_sample_gradfix")
    assert module.grid_sample is grid_sample
    assert F.grid_sample is theirs


def test_an_implementation_may_be_named_in_its_place(checkout):
    fastgan.patch("stylegan")
    ops = importlib.import_module("torch_utils.ops.bias_act")
    y = ops.bias_act(X, None, 1, "lrelu", None, None, None, "cuda")
    assert torch.equal(y, functional.bias_act(X, act="lrelu"))


def test_what_a_version_lacks_is_reported(checkout):
    checkout(STYLEGAN)
    importlib.import_module("training.networks")
    found = statuses(fastgan.patch("stylegan"))
    assert found["torch_utils.ops.upfirdn2d.filter2d"] == "not there"
    assert found["torch_utils.ops.fma.fma"] == "replaced when imported"
    assert found["torch_utils.ops.filtered_lrelu.filtered_lrelu"] == "left"


def test_modules_stand_in_for_pickles(checkout):
    fastgan.patch("stylegan")
    ops = importlib.import_module("torch_utils.ops.bias_act")
    assert ops.activation_funcs["lrelu"].def_gain == pytest.approx(2**0.5)
    resample = importlib.import_module("torch_utils.ops.conv2d_resample")
    assert resample.conv2d_resample(X, torch.ones(4, 3, 3, 3), padding=1).shape == (2, 4, 8, 8)
    fastgan.unpatch("stylegan")
    assert "torch_utils.ops.bias_act" not in sys.modules


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("down", [1, 2])
@pytest.mark.parametrize("padding", [1, [2, 1, 0, 1]])
@pytest.mark.parametrize("flips", [(True, False), (False, True)])
def test_conv2d_resample(up, down, padding, flips):
    """Against upsampling, convolution and downsampling one after the other."""
    from fastgan.compat.families.stylegan import conv2d_resample

    flip_weight, flip_filter = flips
    x, w = X.double(), torch.linspace(-1, 1, 4 * 3 * 9, dtype=torch.float64).view(4, 3, 3, 3)
    f = functional.setup_filter([1, 2, 3, 1])
    left, right, top, bottom = [padding] * 4 if isinstance(padding, int) else padding
    # Padding is of what the convolution reads; of the filter's own border as much as of any other pixel.
    k = 3
    wide = [left + k, right + k, top + k, bottom + k]
    y = functional.upfirdn2d(
        x,
        f if up > 1 else None,
        up,
        padding=[p + (e if up > 1 else 0) for p, e in zip(wide, [2, 1, 2, 1] if up > 1 else [0] * 4, strict=True)],
        flip_filter=flip_filter,
        gain=up**2,
    )
    y = F.conv2d(y, w if flip_weight else w.flip(2, 3))
    if down > 1:
        y = functional.upfirdn2d(y, f, 1, down, [1 - k, 1 - k, 1 - k, 1 - k], flip_filter)
    else:
        y = y[..., k:-k, k:-k]
    got = conv2d_resample(x, w, f, up, down, padding, flip_weight=flip_weight, flip_filter=flip_filter)
    torch.testing.assert_close(got, y)


def test_the_op_package_is_never_imported(checkout):
    checkout(ROSINALITY)
    fastgan.patch("rosinality")
    model = importlib.import_module("model")
    y = F.leaky_relu(X + torch.ones(3, 1, 1), 0.2) * 2**0.5
    torch.testing.assert_close(model.fused_leaky_relu(X, torch.ones(3)), y)
    layer = model.FusedLeakyReLU(3)
    assert list(layer.state_dict()) == ["bias"]
    torch.testing.assert_close(layer(X), F.leaky_relu(X, 0.2) * 2**0.5)
    kernel = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1]))
    expected = functional.upfirdn2d(X, kernel, up=2, padding=[2, 1, 2, 1])
    assert torch.equal(model.upfirdn2d(X, kernel, up=2, pad=(2, 1)), expected)
    assert model.other is model.upfirdn2d
    assert not isinstance(model.upfirdn2d, ModuleType)


def test_extensions_are_never_compiled(checkout):
    checkout(BASICSR)
    fastgan.patch("real-esrgan")
    fused_act = importlib.import_module("basicsr.ops.fused_act")
    torch.testing.assert_close(fused_act.fused_leaky_relu(X, torch.ones(3)), F.leaky_relu(X + 1, 0.2) * 2**0.5)
    upfirdn2d = importlib.import_module("basicsr.ops.upfirdn2d")
    kernel = torch.ones(4, 4) / 16
    assert torch.equal(upfirdn2d.upfirdn2d(X, kernel, down=2, pad=(1, 1)), functional.downsample2d(X, kernel))


def test_unpatched_where_it_was_imported_since(checkout):
    checkout(BASICSR)
    fastgan.patch("basicsr")
    archs = importlib.import_module("basicsr.archs")
    assert archs.act(X, torch.ones(3)).shape == X.shape
    fastgan.unpatch("basicsr")
    with pytest.raises(RuntimeError, match="a plugin would be compiled"):
        archs.act(X, torch.ones(3))


def test_basicsrs_extensions():
    from fastgan.compat.families import basicsr

    empty = X.new_empty(0)
    y = basicsr.fused_bias_act(X, torch.ones(3), empty, 3, 0, 0.2, 2**0.5)
    torch.testing.assert_close(y, F.leaky_relu(X + 1, 0.2) * 2**0.5)
    x = X.clone().requires_grad_()
    dy = torch.linspace(1, 2, X.numel()).view_as(X)
    (dx,) = torch.autograd.grad(F.leaky_relu(x + 1, 0.2) * 2**0.5, x, dy)
    torch.testing.assert_close(basicsr.fused_bias_act(dy, empty, y, 3, 1, 0.2, 2**0.5), dx)
    with pytest.raises(NotImplementedError, match="act must be 3 and grad 0 or 1, got act 1 and grad 0"):
        basicsr.fused_bias_act(X, empty, empty, 1, 0, 0.2, 1.0)
    kernel = torch.arange(12.0).view(3, 4)
    y = basicsr.upfirdn2d_ext(X.view(6, 8, 8, 1), kernel, 2, 1, 1, 2, 1, 0, 2, 1)
    expected = functional.upfirdn2d(X.view(6, 1, 8, 8), kernel, [2, 1], [1, 2], [1, 0, 2, 1])
    torch.testing.assert_close(y.view_as(expected), expected)


# --- BigGAN ---


class Norm(nn.Module):
    """Conditional, and counts its calls."""

    def __init__(self, channels):
        super().__init__()
        self.gain = nn.Linear(4, channels)

    def forward(self, x, y):
        return (x - x.mean((0, 2, 3), keepdim=True)) * (1 + self.gain(y))[..., None, None]


def four_blocks(layers, conv="SNConv2d", up=F.interpolate, pool=nn.AvgPool2d, **options):
    """G and D of two blocks each, one of which resamples."""
    conv = partial(getattr(layers, conv, nn.Conv2d), kernel_size=3, padding=1, **options)
    torch.manual_seed(0)
    shared = {"which_conv": conv, "activation": nn.ReLU()}
    upsample = partial(up, scale_factor=2) if up is F.interpolate else up
    blocks = [
        layers.GBlock(3, 5, which_bn=Norm, upsample=upsample, **shared),
        layers.GBlock(5, 5, which_bn=Norm, **shared),
        layers.DBlock(5, 6, downsample=pool(2), preactivation=True, **shared),
        layers.DBlock(6, 6, downsample=pool(2), wide=False, **shared),
        layers.DBlock(6, 6, preactivation=True, **shared),
    ]
    return nn.ModuleList(blocks).double()


def run_blocks(blocks, steps=3):
    """Outputs, gradients and state of some steps of an optimizer, and of an eval forward."""
    optimizer = torch.optim.Adam(blocks.parameters(), 1e-3)
    seen = []
    y = torch.linspace(-1, 1, 8, dtype=torch.float64).view(2, 4)
    for training in [True] * steps + [False]:
        h = X.double()
        for block in blocks.train(training):
            h = block(h, y) if hasattr(block, "bn1") else block(h)
        optimizer.zero_grad()
        h.square().mean().backward()
        seen += [h.detach(), *(p.grad.clone() for p in blocks.parameters())]
        optimizer.step()
        seen += [b.clone() for b in blocks.buffers()]
    return [*seen, dict(blocks.state_dict())]


@pytest.fixture
def calls(monkeypatch):
    """How often each of our resampling convolutions runs."""
    counts = Counter()

    def counted(name, function):
        def call(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        return call

    for name in ("upsample_conv2d", "conv_downsample2d"):
        monkeypatch.setattr(functional, name, counted(name, getattr(functional, name)))
    return counts


@pytest.mark.parametrize("imported", [False, True])
@pytest.mark.parametrize("conv", ["SNConv2d", "Conv2d"])
def test_blocks_of_biggan(checkout, calls, imported, conv):
    checkout(BIGGAN)
    layers = importlib.import_module("layers")
    expected = run_blocks(four_blocks(layers, conv))
    theirs = [layers.SN.W_, layers.GBlock.forward, layers.DBlock.forward]
    if not imported:
        del sys.modules["layers"]
    torch.manual_seed(1)
    report = fastgan.patch("biggan-pytorch")
    layers = importlib.import_module("BigGAN").layers
    assert statuses(report)["layers.SN.W_"] == ("replaced" if imported else "replaced when imported")
    assert {row.status for row in fastgan.patch("biggan").rows[:3]} == {"replaced"}
    state = torch.random.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state)
    calls.clear()
    torch.testing.assert_close(run_blocks(four_blocks(layers, conv)), expected, rtol=1e-9, atol=1e-11)
    assert calls == {"upsample_conv2d": 4, "conv_downsample2d": 8}
    fastgan.unpatch("biggan")
    if imported:
        assert [layers.SN.W_, layers.GBlock.forward, layers.DBlock.forward] == theirs
    run_blocks(four_blocks(layers, conv), 1)
    assert calls == {"upsample_conv2d": 4, "conv_downsample2d": 8}


OTHERS = {
    "bilinear": {"up": partial(F.interpolate, scale_factor=2, mode="bilinear")},
    "a lambda": {"up": lambda x: F.interpolate(x, scale_factor=2)},
    "max pooling": {"pool": nn.MaxPool2d},
    "no resampling by 2": {"up": nn.Upsample(scale_factor=4), "pool": lambda size: nn.AvgPool2d(4)},
    "a hook": {"conv": "hooked"},
    "two singular values": {"num_svs": 2},
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_biggans_blocks_do_not_fuse_is_theirs(checkout, calls, case):
    checkout(BIGGAN)
    layers = importlib.import_module("layers")
    layers.hooked = lambda *args, **kwargs: torch.nn.utils.spectral_norm(nn.Conv2d(*args, **kwargs))
    options = OTHERS[case]
    expected = run_blocks(four_blocks(layers, **options), 1)
    fastgan.patch("biggan")
    calls.clear()
    torch.testing.assert_close(run_blocks(four_blocks(layers, **options), 1), expected, rtol=1e-9, atol=1e-11)
    fused = {"upsample_conv2d": 2 * ("up" not in options), "conv_downsample2d": 4 * ("pool" not in options)}
    assert calls == ({} if case == "a hook" else {name: count for name, count in fused.items() if count})


def test_a_subclass_keeps_its_shortcut(checkout):
    checkout(BIGGAN)
    layers = importlib.import_module("layers")

    class Halved(layers.DBlock):
        def shortcut(self, x):
            return 0.5 * super().shortcut(x)

    block = Halved(3, 4, partial(nn.Conv2d, kernel_size=3, padding=1), True, True, nn.ReLU(), nn.AvgPool2d(2)).double()
    expected = block(X.double())
    fastgan.patch("biggan")
    torch.testing.assert_close(block(X.double()), expected, rtol=1e-12, atol=1e-12)


def test_another_codebases_layers_are_left_alone(checkout):
    other = BIGGAN["layers.py"].replace("return self.weight / sigma", "return 2 * self.weight / sigma")
    other = other.replace("wide=True,", "wide=True, groups=1,").replace("class GBlock", "class Block")
    checkout({"layers.py": other})
    layers = importlib.import_module("layers")
    theirs = layers.SN.W_, layers.DBlock.forward
    rows = {row.name: row for row in fastgan.patch("biggan").rows}
    assert (layers.SN.W_, layers.DBlock.forward) == theirs
    assert rows["layers.SN.W_"][1:] == ("left", "it computes something else than BigGAN-PyTorch's SN")
    assert rows["layers.GBlock.forward"].status == "not there"
    assert rows["layers.DBlock.forward"][1:] == ("left", "its constructor is not that of BigGAN-PyTorch's DBlock")


def test_a_class_that_fails_is_left_alone(checkout):
    checkout({"layers.py": BIGGAN["layers.py"].replace("self.bn2(h, y)", "self.bn2(h)")})
    rows = {row.name: row for row in fastgan.patch("biggan").rows}
    importlib.import_module("layers")
    rows = {row.name: row for row in fastgan.patch("biggan").rows}
    assert rows["layers.SN.W_"].status == rows["layers.DBlock.forward"].status == "replaced"
    assert rows["layers.GBlock.forward"].reason.startswith("it does not run as BigGAN-PyTorch's GBlock does: TypeError")


# --- torch ---


@pytest.mark.parametrize("style", ["torch.nn.utils", "torch.nn.utils.parametrizations"])
@pytest.mark.parametrize("layer", [lambda: nn.Conv2d(3, 5, 3), lambda: nn.ConvTranspose2d(3, 5, 3)])
def test_spectral_norm_everywhere(checkout, style, layer):
    module = importlib.import_module(style)

    def made():
        torch.manual_seed(0)
        return module.spectral_norm(layer().double(), n_power_iterations=2)

    function, theirs = module.spectral_norm, made()
    fastgan.patch("torch")
    assert module.spectral_norm is not function
    ours = made()
    fastgan.unpatch("torch")
    assert module.spectral_norm is function
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for _ in range(2):
        torch.testing.assert_close(ours(X.double()), theirs(X.double()), rtol=1e-12, atol=1e-12)
    for network in (ours, theirs):
        network(X.double()).square().sum().backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-10)
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-12, atol=1e-12)


# --- grid_sample ---


def test_grid_sample_is_differentiated_twice():
    image = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    grid = torch.rand(2, 4, 4, 2, dtype=torch.float64) * 2.2 - 1.1
    assert torch.equal(grid_sample(image, grid), F.grid_sample(image, grid, align_corners=False))
    assert torch.autograd.gradcheck(lambda image: grid_sample(image, grid), image)
    assert torch.autograd.gradgradcheck(lambda image: grid_sample(image, grid), image)
    moving = grid.requires_grad_()
    assert torch.autograd.gradcheck(grid_sample, (image, moving))


def test_grid_sample_says_what_it_cannot():
    image = torch.randn(1, 1, 4, 4, requires_grad=True)
    grid = torch.zeros(1, 2, 2, 2, requires_grad=True)
    (dx,) = torch.autograd.grad(grid_sample(image, grid).square().sum(), image, create_graph=True)
    with pytest.raises(NotImplementedError, match="cannot be differentiated with respect to the grid"):
        dx.sum().backward()


# --- names ---


def test_names():
    assert patching.family_of("StyleGAN2-ADA") == "stylegan"
    assert patching.family_of("gfpgan") == "basicsr"
    with pytest.raises(ValueError, match=r"name must be one of stylegan, .* got str 'dcgan'"):
        fastgan.patch("dcgan")
    with pytest.raises((TypeError, ValueError), match="name must be"):
        fastgan.patch(3)


@pytest.mark.parametrize("name", patching.FAMILIES)
def test_a_family_reports_every_function(checkout, name):
    report = fastgan.patch(name)
    family = patching.load(name)
    assert family.summary
    names = {row.name for row in report.rows}
    assert {f"{module}.{function}" for module, functions in family.functions.items() for function in functions} <= names
    assert set(family.left) <= names
    table = str(report).splitlines()
    assert table[0] == f"fastgan.patch({name!r})"
    assert len(table) == len(report.rows) + 1
    assert report.to_dict()["rows"][0]["name"] == report.rows[0].name


def test_command_lists_the_families(capsys):
    assert main(["patch", "--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for family, aliases in patching.FAMILIES.items() for name in (family, *aliases))


@pytest.mark.parametrize("shape", [(8, 64, 1, 1), (4, 64, 3, 3)], ids=["1x1", "3x3"])
def test_convolutions_of_gradfix(shape):
    torch.manual_seed(0)
    x, w = (torch.randn(s, requires_grad=True, dtype=torch.float64) for s in ((2, 64, 16, 16), shape))
    results = []
    for conv2d in (GRADFIX["conv2d"], F.conv2d):
        y = conv2d(input=x, weight=w, padding=shape[-1] // 2)
        dx, dw = torch.autograd.grad(y.square().sum(), (x, w), create_graph=True)
        second = torch.autograd.grad(dx.square().sum() + dw.square().sum(), (x, w))
        with torch.no_grad():
            results.append([y, conv2d(x, w, padding=shape[-1] // 2), dx, dw, *second])
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).norm() <= 1e-12 * theirs.norm()
    assert torch.func.vmap(lambda w: GRADFIX["conv2d"](x, w))(w[None]).shape[:3] == (1, 2, shape[0])
