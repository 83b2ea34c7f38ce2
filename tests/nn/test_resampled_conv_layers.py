"""Layers with resampling: torch's keys, values and arguments."""

import inspect
import itertools
import pickle
import pydoc
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastgan import functional
from fastgan.nn import (
    ConvDownsample1d,
    ConvDownsample2d,
    ConvDownsample3d,
    PixelShuffleUpsample,
    Upsample2d,
    UpsampleConv1d,
    UpsampleConv2d,
    UpsampleConv3d,
)

UP = {1: UpsampleConv1d, 2: UpsampleConv2d, 3: UpsampleConv3d}
DOWN = {1: ConvDownsample1d, 2: ConvDownsample2d, 3: ConvDownsample3d}
CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
OPTIONS = [
    {},
    {"groups": 2, "bias": False},
    {"dilation": 2},
    {"padding": 0, "scale_factor": 3},
    {"padding_mode": "reflect"},
    {"padding_mode": "circular", "kernel_size": 5},
    {"kernel_size": 1},
    {"dtype": torch.float32},
]


def pair(layers, n, options):
    """Our layer and torch's with the same parameters, through state_dict, and the scale."""
    options = {"kernel_size": 3, **options}
    ours = layers[n](4, 6, **options)
    scale = options.pop("scale_factor", 2)
    options.setdefault("padding", options.get("dilation", 1) * (options["kernel_size"] // 2))
    plain = CONV[n](4, 6, **options)
    assert list(ours.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(ours.state_dict())
    return ours, plain, scale


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_as_torch_in_two_steps(n, options):
    x = torch.randn(2, 4, *(12, 11, 12)[:n], dtype=options.get("dtype"))
    ours, conv, scale = pair(UP, n, options)
    torch.testing.assert_close(ours(x), conv(F.interpolate(x, scale_factor=scale)), rtol=1e-4, atol=1e-5)
    ours, conv, scale = pair(DOWN, n, options)
    torch.testing.assert_close(ours(x), POOL[n](conv(x), scale), rtol=1e-4, atol=1e-5)


PADDINGS = [0, 1, 2, -1, "same", "valid", "full", None, (1,), (1, 1, 1, 1)]


def outcome(function):
    try:
        return function()
    except (TypeError, ValueError, RuntimeError) as error:
        return error


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular", "replicate"])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_padding_as_torch(n, mode):
    """Every padding in every mode: torch's values, or an error where torch has one."""
    x = torch.randn(2, 4, *(7, 6, 5)[:n], dtype=torch.float64)
    for kernel, dilation, padding in itertools.product((1, 2, 3, 4), (1, 2), PADDINGS):
        options = {"dilation": dilation, "groups": 2, "padding_mode": mode, "dtype": torch.float64}
        torchs = dilation * (kernel // 2) if padding is None else padding
        for layers, up in ((UP, True), (DOWN, False)):
            case = (kernel, dilation, padding, up)

            def ours(options=options, layers=layers, case=case):
                torch.manual_seed(0)
                return layers[n](4, 6, case[0], padding=case[2], **options)(x)

            def plain(options=options, torchs=torchs, case=case):
                torch.manual_seed(0)
                conv = CONV[n](4, 6, case[0], padding=torchs, **options)
                return conv(F.interpolate(x, scale_factor=2.0)) if case[3] else POOL[n](conv(x), 2)

            a, b = outcome(ours), outcome(plain)
            assert isinstance(a, Exception) == isinstance(b, Exception), (case, a, b)
            if not isinstance(b, Exception):
                torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11, msg=lambda text, case=case: f"{case}: {text}")


@pytest.mark.parametrize("padding", ["same", "valid", None, 1, (0, 2)])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_padding_of_pixel_shuffle_upsample(padding, mode):
    ours = PixelShuffleUpsample(4, 3, 3, padding=padding, padding_mode=mode)
    conv = nn.Conv2d(4, 12, 3, padding=1 if padding is None else padding, padding_mode=mode)
    conv.load_state_dict(ours.state_dict())
    x = torch.randn(2, 4, 6, 7)
    torch.testing.assert_close(ours(x), F.pixel_shuffle(conv(x), 2))


@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
def test_same_padding_with_a_filter(kernel):
    """The extra padding that an even kernel needs is of the resampled image; the filter reaches beyond it."""
    x, fir = torch.randn(2, 3, 6, 7, dtype=torch.float64), functional.setup_filter([1, 3, 3, 1])
    weight, around = torch.randn(4, 3, kernel, kernel, dtype=torch.float64), [(kernel - 1) // 2, kernel // 2]
    y = functional.upsample_conv2d(x, weight, mode="fir", fir=fir, padding="same")
    torch.testing.assert_close(y, F.conv2d(functional.upsample2d(x, fir, 2, padding=around * 2), weight))
    y = functional.conv_downsample2d(x, weight, mode="fir", fir=fir, padding="same")
    before = [1 + around[0], 1 + around[1]]
    torch.testing.assert_close(y, F.conv2d(functional.upfirdn2d(x, fir, padding=before * 2), weight, stride=2))


def test_starts_as_torch_does():
    torch.manual_seed(0)
    ours = UpsampleConv2d(3, 5, 3)
    torch.manual_seed(0)
    assert torch.equal(ours.weight, nn.Conv2d(3, 5, 3).weight)
    assert isinstance(ours, nn.Conv2d)
    assert "scale_factor=(2, 2)" in repr(ours)


@pytest.mark.parametrize("layer", [UpsampleConv2d, ConvDownsample2d])
def test_filter(layer):
    ours, x = layer(4, 6, 3, fir=[1, 3, 3, 1]), torch.randn(2, 4, 8, 8)
    assert list(ours.state_dict()) == ["weight", "bias"]
    function = functional.upsample_conv2d if layer is UpsampleConv2d else functional.conv_downsample2d
    fir = functional.setup_filter([1, 3, 3, 1])
    torch.testing.assert_close(ours(x), function(x, ours.weight, ours.bias, mode="fir", fir=fir))
    assert ours.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


FILTERED = {
    "conv": (lambda: ConvDownsample2d(4, 4, 3, fir=[1, 3, 3, 1]), "fir"),
    "resample": (lambda: Upsample2d([1, 3, 3, 1]), "resample_filter"),
}
filtered = pytest.mark.parametrize(("make", "name"), FILTERED.values(), ids=FILTERED)


@filtered
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_filter_stays_what_it_is(make, name, dtype):
    layer, taps = make().to(dtype), getattr(make(), name)
    assert torch.equal(getattr(layer, name), taps)
    assert torch.equal(getattr(layer.float(), name), taps)
    assert layer.to(dtype)(torch.randn(2, 4, 8, 8, dtype=dtype)).dtype == dtype


@filtered
def test_a_filter_from_the_meta_device(make, name):
    with torch.device("meta"):
        layer = make()
    assert getattr(layer, name).is_meta
    assert torch.equal(getattr(layer.to_empty(device="cpu"), name), getattr(make(), name))


def test_spectral_norm_goes_around_it():
    torch.manual_seed(0)
    ours, x = nn.utils.parametrizations.spectral_norm(UpsampleConv2d(4, 6, 3)), torch.randn(2, 4, 8, 8)
    expected = F.conv2d(F.interpolate(x, scale_factor=2), ours.eval().weight, ours.bias, padding=1)
    torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-5)


def test_bad_arguments():
    with pytest.raises(ValueError, match="padding_mode must be \"zeros\" with a FIR filter, got 'reflect'"):
        UpsampleConv2d(4, 6, 3, padding_mode="reflect", fir=[1, 1])
    with pytest.raises(ValueError, match="fir must be None but for images"):
        ConvDownsample1d(4, 6, 3, fir=[1, 1])
    with pytest.raises(TypeError, match="scale_factor must be an int"):
        UpsampleConv2d(4, 6, 3, scale_factor=1.5)(torch.ones(1, 4, 4, 4))


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("layers", [UP, DOWN], ids=["up", "down"])
def test_what_is_generated(layers, n):
    """Name, documentation and pickle of a layer for n dimensions."""
    layer = layers[n]
    text = pydoc.render_doc(layer, renderer=pydoc.plaintext)
    text = text[: text.index("Method resolution order")]
    name = "UpsampleConv" if layers is UP else "ConvDownsample"
    sizes = {1: "L", 2: "H, W", 3: "D, H, W"}[n]
    assert f"class {name}{n}d(" in text
    assert f"[N, C_in, {sizes}]" in text
    assert {int(d) for d in re.findall(r"(?i)conv(?:_?downsample)?(\d)d", text)} == {n}
    documented = re.findall(r"^ \| {6}(\w+): ", text.replace(" |      Raises:", "").replace("TypeError, ", ""), re.M)
    assert [key for key in documented if key != "ValueError"] == list(inspect.signature(layer).parameters)
    assert issubclass(layer, CONV[n])
    copy = pickle.loads(pickle.dumps(layer(4, 6, 3)))
    assert type(copy) is layer
