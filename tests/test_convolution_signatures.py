"""The convolutions for 1, 2 and 3 dimensions are generated: they look and behave as if each was written out."""

import inspect
import pickle
import pydoc
import re

import pytest
import torch
from samples import draw

from fastgan import functional

SIZES = {1: "L", 2: "H, W", 3: "D, H, W"}
NEW_SIZES = {1: "L'", 2: "H', W'", 3: "D', H', W'"}
KERNEL = {1: "k", 2: "kh, kw", 3: "kd, kh, kw"}
RESAMPLED = ["x", "weight", "bias", "scale_factor", "padding", "dilation", "groups"]
PARAMETERS = {
    "conv": ["input", "weight", "bias", "stride", "padding", "dilation", "groups"],
    "conv_transpose": ["input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation"],
    "upsample_conv": RESAMPLED,
    "conv_downsample": RESAMPLED,
}


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("name", PARAMETERS)
def test_help(name, n):
    """Name, parameters and documentation are those of the dimension; others are not named."""
    function, parameters = getattr(functional, f"{name}{n}d"), list(PARAMETERS[name])
    resampled = PARAMETERS[name] is RESAMPLED
    if resampled and n == 2:
        parameters[4:4] = ["mode", "fir"]
    found = inspect.signature(function)
    assert list(found.parameters) == parameters
    keyword_only = [key for key, value in found.parameters.items() if value.kind is value.KEYWORD_ONLY]
    assert keyword_only == (parameters[3:] if resampled else [])
    assert all(value.annotation is not value.empty for value in found.parameters.values())
    text = pydoc.render_doc(function, renderer=pydoc.plaintext)
    assert f"{name}{n}d(" in text
    assert {int(d) for d in re.findall(r"conv(?:_transpose|_downsample)?(\d)d", text)} == {n}
    if resampled:
        assert f"x: [N, C_in, {SIZES[n]}]" in text
        assert f"weight: [C_out, C_in / groups, {KERNEL[n]}]" in text
        assert f"[N, C_out, {NEW_SIZES[n]}]" in text
        documented = re.findall(r"^ {8}(\w+): ", text.partition("Args:")[2], re.M)
        assert documented == parameters
    assert "{" not in text


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("name", PARAMETERS)
def test_pickle(name, n):
    function = getattr(functional, f"{name}{n}d")
    assert pickle.loads(pickle.dumps(function)) is function
    with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
        function(torch.ones(1, 1, *[3] * n), torch.ones(1, 1, *[1] * n), other=1)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("name", ["upsample_conv", "conv_downsample"])
def test_filters_are_for_images(name, n):
    with pytest.raises(TypeError, match="unexpected keyword argument 'fir'"):
        getattr(functional, f"{name}{n}d")(
            torch.ones(1, 1, *[3] * n), torch.ones(1, 1, *[1] * n), fir=functional.setup_filter([1, 2, 1])
        )


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("name", PARAMETERS)
def test_compile_for_any_size(name, n):
    """With symbolic sizes: the number of dimensions stays a number."""
    function = getattr(functional, f"{name}{n}d")
    x, weight = draw((2, 4, *[6] * n), torch.float64), draw((4, 4, *[3] * n), torch.float64)
    compiled = torch.compile(function, fullgraph=True, backend="eager", dynamic=True)
    torch.testing.assert_close(compiled(x, weight), function(x, weight))
