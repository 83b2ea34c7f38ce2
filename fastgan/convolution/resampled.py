"""Convolutions that upsample before or downsample after, as one operation."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor

from fastgan import check
from fastgan.convolution import choice as _form
from fastgan.convolution import resampled_forms as _conv
from fastgan.convolution.choice import ResamplingForm
from fastgan.convolution.dimensions import document
from fastgan.ops.op import overridable
from fastgan.ops.upfirdn2d import MOST_TAPS

Size = int | Sequence[int]
Padding = Size | Literal["same", "valid"] | None


_UP = """Upsample {images} and convolve them, without forming the upsampled {image}.

        nearest:    y = conv{n}d(interpolate(x, scale_factor=s, mode="nearest"), weight, bias, padding=p)
2d      fir:        y = conv2d(upsample2d(x, fir, s, padding=p), weight, bias)

    so a size H becomes s H + 2p - k + 1, s H by default where k is odd. What runs gives the same values to
    rounding, and `resampling_form` names it: a convolution and then a filter, or a transposed convolution with
    folded weights.
2d  "fir" is not `upsample2d` before a padded convolution: within p pixels of the border the filter is taken beyond the
2d  image rather than cut off.
{arguments}
    Source: A. Odena et al., Deconvolution and Checkerboard Artifacts, Distill 2016, on the two ways to upsample; the
    folded weights are in fastgan/convolution/folded_weight.py.
    """
_DOWN = """Convolve {images} and downsample them, without forming what is dropped.

        avg:    y = avg_pool{n}d(conv{n}d(x, weight, bias, padding=p), s)
2d      fir:    y = conv2d(upfirdn2d(x, fir, padding=...), weight, bias, stride=s)

    so a size H becomes floor((H + 2p - k + 1) / s): with the default padding and an odd k, H // s.
2d  The padding of "fir" is p and the one of `downsample2d`.
{arguments}
    """
_ARGUMENTS = """
    Args:
        x: [N, C_in, {sizes}]; float64, float32, bfloat16 or float16, any strides.
        weight: [C_out, C_in / groups, {kernel}], as conv{n}d takes it (a correlation).
        bias: [C_out] or None.
        scale_factor: a whole number s >= 1{or_s}.
2d      mode: "{mode}" or "fir".
2d      fir: a filter of `setup_filter`, for "fir".
        padding: a number p{or_p}, "same" or "valid", as conv{n}d takes it; None for dilation * (k // 2), which
            keeps the size where k is odd.
        dilation: a number{or_d}; a dilated kernel does not fold.
        groups: as in conv{n}d.

    Returns:
        [N, C_out, {new_sizes}], of the dtype and the memory format that conv{n}d returns.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.

    Derivatives: with respect to x, weight and bias, reverse mode to any order.
2d  `fir` is a constant.
"""
_PLAIN_MODE = {True: "nearest", False: "avg"}


# Whether it upsamples, and the dimensions. They are looked up by name: of a closure's integer, torch.compile with
# dynamic=True makes a symbol.
_KINDS = {
    f"{name}{n}d": (up, n) for name, up in (("upsample_conv", True), ("conv_downsample", False)) for n in (1, 2, 3)
}


def _public(name: str) -> Callable[..., Tensor]:
    up, n = _KINDS[name]
    plain = _PLAIN_MODE[up]
    if n == 2:

        def function(
            x: Tensor,
            weight: Tensor,
            bias: Tensor | None = None,
            *,
            scale_factor: Size = 2,
            mode: Literal[plain, "fir"] = plain,
            fir: Tensor | None = None,
            padding: Padding = None,
            dilation: Size = 1,
            groups: int = 1,
        ) -> Tensor:
            g = _geometry(name, x, weight, bias, scale_factor, mode, fir, padding, dilation, groups)
            return _run(x, weight, bias, g)

    else:

        def function(
            x: Tensor,
            weight: Tensor,
            bias: Tensor | None = None,
            *,
            scale_factor: Size = 2,
            padding: Padding = None,
            dilation: Size = 1,
            groups: int = 1,
        ) -> Tensor:
            g = _geometry(name, x, weight, bias, scale_factor, plain, None, padding, dilation, groups)
            return _run(x, weight, bias, g)

    function.__name__ = function.__qualname__ = name
    text = (_UP if up else _DOWN).replace("{arguments}", _ARGUMENTS)
    function.__doc__ = document(text, n, mode=plain)
    return overridable(function)


upsample_conv1d = _public("upsample_conv1d")
upsample_conv2d = _public("upsample_conv2d")
upsample_conv3d = _public("upsample_conv3d")
conv_downsample1d = _public("conv_downsample1d")
conv_downsample2d = _public("conv_downsample2d")
conv_downsample3d = _public("conv_downsample3d")

_FUNCTIONS = (
    *(upsample_conv1d, upsample_conv2d, upsample_conv3d),
    *(conv_downsample1d, conv_downsample2d, conv_downsample3d),
)
_DEFAULTS = {"scale_factor": 2, "fir": None, "padding": None, "dilation": 1, "groups": 1}


def resampling_form(
    function: Callable, x: Tensor, weight: Tensor, bias: Tensor | None = None, **options: Any
) -> ResamplingForm:
    """Which form a call of this module's functions takes, and why, with the current settings.

    Args:
        function: `upsample_conv2d`, `conv_downsample2d`, or one of their forms for 1 and 3 dimensions.
        x: the function's arguments, and so on.
        weight: see there.
        bias: see there.
        options: see there.

    Returns:
        `name`: "plain" (what the function's formula says, step by step), "strided", "strided_channels_last", "matmul",
        "folded", "polyphase" or "pointwise"; `reason`: a sentence. With
        `fastgan.autotune` this may measure, as the call would.

    Raises:
        TypeError, ValueError: another function, or what the function would raise.
    """
    if not any(function is known for known in _FUNCTIONS):
        names = ", ".join(_KINDS)
        raise ValueError(f"function must be one of {names}, got {check.short(function)}")
    name = function.__name__
    up, _ = _KINDS[name]
    arguments = {**_DEFAULTS, "mode": _PLAIN_MODE[up], **options}
    return _form.choose(x, weight, bias, _geometry(name, x, weight, bias, **arguments))


def _run(x: Tensor, weight: Tensor, bias: Tensor | None, g: _conv.Geometry) -> Tensor:
    return _conv.run(_form.choose(x, weight, bias, g).name, x, weight, bias, g)


def _geometry(
    name: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale_factor: Size,
    mode: str,
    fir: Tensor | None,
    padding: Padding,
    dilation: Size,
    groups: int,
) -> _conv.Geometry:
    """What the call asks for; raises for what it cannot be asked for."""
    up, n = _KINDS[name]
    check.convolution(x, weight, bias, n, groups)
    plain = _PLAIN_MODE[up]
    if not isinstance(mode, str) or mode not in (plain, "fir"):
        raise ValueError(f'mode must be "{plain}" or "fir", got {check.short(mode)}')
    if (mode == "fir") != (fir is not None):
        got = f"{check.describe(fir)} and {check.short(mode)}"
        raise ValueError(f'fir must be a filter with mode="fir" and None with any other, got {got}')
    if fir is not None:
        check.fir_filter(fir, "fir", MOST_TAPS)
    # Lists of one are for all axes, as in torch's convolutions.
    as_torch = tuple({1, n})
    dilation = _per_axis(dilation, "dilation", n, 1, as_torch)
    # Numbers where torch.jit traces, to which sizes are tensors.
    kernel = [int(k) for k in weight.shape[2:]]
    more_after = (0,) * n
    if padding is None:
        padding = tuple(d * (k // 2) for d, k in zip(dilation, kernel, strict=True))
    elif isinstance(padding, str):
        check.choice(padding, "padding", ("same", "valid"))
        whole = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        padding, more_after = tuple(p // 2 for p in whole), tuple(p % 2 for p in whole)
    scale = _per_axis(scale_factor, "scale_factor", n, least=1)
    others = _per_axis(padding, "padding", n, 0, as_torch), dilation, groups, fir, more_after
    g, large = (_conv.Geometry(up, s, *others) for s in (scale, scale if up else (1,) * n))
    check.size((x.shape[0], max(x.shape[1], weight.shape[0]), *large.output_size(x, weight)), "the larger images")
    if any(size < 1 for size in g.output_size(x, weight)):
        raise ValueError(
            f"x is too small for this kernel, padding and scale_factor: it would become {g.output_size(x, weight)}; "
            f"x is {check.describe(x)}, weight {list(weight.shape)}, padding {list(g.padding)}"
        )
    return g


def _per_axis(value: Size, name: str, n: int, least: int, lengths: Sequence[int] = ()) -> tuple[int, ...]:
    check.integers(value, name, lengths or (n,), least)
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return values * n if len(values) == 1 else values
