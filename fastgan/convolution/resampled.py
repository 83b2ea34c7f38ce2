"""Convolutions that upsample before or downsample after, as one operation."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor

from fastgan import check
from fastgan.convolution import choice as _form
from fastgan.convolution import resampled_forms as _conv
from fastgan.convolution.choice import ResamplingForm
from fastgan.ops.overrides import overridable
from fastgan.ops.upfirdn2d import MOST_TAPS

Size = int | Sequence[int]
Padding = Size | Literal["same", "valid"] | None


@overridable
def upsample_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    scale_factor: Size = 2,
    mode: Literal["nearest", "fir"] = "nearest",
    fir: Tensor | None = None,
    padding: Padding = None,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Upsample images and convolve them, without forming the upsampled image.

        nearest:    y = conv2d(interpolate(x, scale_factor=s, mode="nearest"), weight, bias, padding=p)
        fir:        y = conv2d(upsample2d(x, fir, s, padding=p), weight, bias)

    so H becomes s H + 2p - k + 1, twice H by default where k is odd. What runs gives the same values to rounding, and
    `resampling_form` names it: a transposed convolution with folded weights; for "fir" one with stride s and
    then the filter. "fir" is not `upsample2d` before a padded convolution: within p pixels
    of the border the filter is taken beyond the image rather than cut off.

    Args:
        x: [N, C_in, H, W]; float64, float32, bfloat16 or float16, any strides.
        weight: [C_out, C_in / groups, kh, kw], as conv2d takes it (a correlation, in both modes).
        bias: [C_out] or None.
        scale_factor: a whole number s >= 1, or [sh, sw].
        mode: "nearest" or "fir".
        fir: a filter of `setup_filter`, for "fir".
        padding: a number p or [ph, pw], "same" or "valid", as conv2d takes it; None for dilation * (k // 2), which
            keeps the size where k is odd.
        dilation: a number or [dh, dw]; a dilated kernel does not fold.
        groups: as in conv2d.

    Returns:
        [N, C_out, H', W'], of the dtype and the memory format that conv2d returns.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.

    Derivatives: with respect to x, weight and bias, reverse mode to any order. `fir` is a constant.

    Source: A. Odena et al., Deconvolution and Checkerboard Artifacts, Distill 2016, on the two ways to upsample; the
    folded weights are in fastgan/convolution/folded.py.
    """
    return _run(
        x, weight, bias, _geometry(2, True, x, weight, bias, scale_factor, mode, fir, padding, dilation, groups)
    )


@overridable
def conv_downsample2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    scale_factor: Size = 2,
    mode: Literal["avg", "fir"] = "avg",
    fir: Tensor | None = None,
    padding: Padding = None,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve images and downsample them, without forming what is dropped.

        avg:    y = avg_pool2d(conv2d(x, weight, bias, padding=p), s)
        fir:    y = conv2d(upfirdn2d(x, fir, padding=...), weight, bias, stride=s)

    so H becomes floor((H + 2p - k + 1) / s): with the default padding and an odd k, H // s. The padding of "fir" is p
    and the one of `downsample2d`.

    Args:
        x: [N, C_in, H, W]; float64, float32, bfloat16 or float16, any strides.
        weight: [C_out, C_in / groups, kh, kw].
        bias: [C_out] or None.
        scale_factor: a whole number s >= 1, or [sh, sw].
        mode: "avg" or "fir".
        fir: a filter of `setup_filter`, for "fir".
        padding: a number p or [ph, pw], "same" or "valid", as conv2d takes it; None for dilation * (k // 2), which
            keeps the size where k is odd.
        dilation: a number or [dh, dw]; a dilated kernel does not fold.
        groups: as in conv2d.

    Returns:
        [N, C_out, H', W'], of the dtype and the memory format that conv2d returns.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.

    Derivatives: with respect to x, weight and bias, reverse mode to any order. `fir` is a constant.
    """
    return _run(
        x, weight, bias, _geometry(2, False, x, weight, bias, scale_factor, mode, fir, padding, dilation, groups)
    )


@overridable
def upsample_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    scale_factor: Size = 2,
    padding: Padding = None,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Upsample sequences [N, C_in, L] by nearest neighbours and convolve: `upsample_conv2d` for 1 dimension."""
    options = (scale_factor, "nearest", None, padding, dilation, groups)
    return _run(x, weight, bias, _geometry(1, True, x, weight, bias, *options))


@overridable
def conv_downsample1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    scale_factor: Size = 2,
    padding: Padding = None,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve sequences [N, C_in, L] and take means of blocks: `conv_downsample2d` for 1 dimension."""
    options = (scale_factor, "avg", None, padding, dilation, groups)
    return _run(x, weight, bias, _geometry(1, False, x, weight, bias, *options))


@overridable
def upsample_conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    scale_factor: Size = 2,
    padding: Padding = None,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Upsample volumes [N, C_in, D, H, W] by nearest neighbours and convolve: `upsample_conv2d` for 3 dimensions."""
    options = (scale_factor, "nearest", None, padding, dilation, groups)
    return _run(x, weight, bias, _geometry(3, True, x, weight, bias, *options))


@overridable
def conv_downsample3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    scale_factor: Size = 2,
    padding: Padding = None,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve volumes [N, C_in, D, H, W] and take means of blocks: `conv_downsample2d` for 3 dimensions."""
    options = (scale_factor, "avg", None, padding, dilation, groups)
    return _run(x, weight, bias, _geometry(3, False, x, weight, bias, *options))


_DEFAULTS = {"scale_factor": 2, "fir": None, "padding": None, "dilation": 1, "groups": 1}
_DIRECTIONS = {
    upsample_conv1d: (1, True),
    upsample_conv2d: (2, True),
    upsample_conv3d: (3, True),
    conv_downsample1d: (1, False),
    conv_downsample2d: (2, False),
    conv_downsample3d: (3, False),
}


def resampling_form(
    function: Callable, x: Tensor, weight: Tensor, bias: Tensor | None = None, **options: Any
) -> ResamplingForm:
    """Which form a call of this module's functions takes, and why, with the settings of now.

    Args:
        function: `upsample_conv2d`, `conv_downsample2d`, or one of their forms for 1 and 3 dimensions.
        x: the function's arguments, and so on.
        weight: see there.
        bias: see there.
        options: see there.

    Returns:
        `name`: "plain" (what the function's formula says, step by step), "strided", "strided_channels_last", "matmul",
        "folded", "polyphase" or "pointwise", see fastgan/convolution/resampled_forms.py; `reason`: a sentence. With
        `fastgan.autotune` this may measure, as the call would.

    Raises:
        TypeError, ValueError: another function, or what the function would raise.
    """
    if not callable(function) or function not in _DIRECTIONS:
        names = ", ".join(f.__name__ for f in _DIRECTIONS)
        raise ValueError(f"function must be one of {names}, got {check.short(function)}")
    n, up = _DIRECTIONS[function]
    arguments = {**_DEFAULTS, "mode": "nearest" if up else "avg", **options}
    return _form.choose(x, weight, bias, _geometry(n, up, x, weight, bias, **arguments))


def _run(x: Tensor, weight: Tensor, bias: Tensor | None, g: _conv.Geometry) -> Tensor:
    return _conv.run(_form.choose(x, weight, bias, g).name, x, weight, bias, g)


def _geometry(
    n: int,
    up: bool,
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
    check.convolution(x, weight, bias, n, groups)
    plain = "nearest" if up else "avg"
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
    more_behind = (0,) * n
    if padding is None:
        padding = tuple(d * (k // 2) for d, k in zip(dilation, kernel, strict=True))
    elif isinstance(padding, str):
        check.choice(padding, "padding", ("same", "valid"))
        whole = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        padding, more_behind = tuple(p // 2 for p in whole), tuple(p % 2 for p in whole)
    scale = _per_axis(scale_factor, "scale_factor", n, least=1)
    g = _conv.Geometry(up, scale, _per_axis(padding, "padding", n, 0, as_torch), dilation, groups, fir, more_behind)
    large = g._replace(scale=scale if up else (1,) * n).output_size(x, weight)
    check.size((x.shape[0], max(x.shape[1], weight.shape[0]), *large), "the larger images")
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
