"""Convolution and resampling as one: the forms that give the same values. Which one runs, choice.py says.

Upsampling by s before a kernel of k taps with padding p makes s H + 2p - k + 1 of H, downsampling after it
floor((H + 2p - k + 1) / s). With a FIR filter x is zero outside, and the filter is taken beyond the image as far as the
convolution reaches: so the two commute.

Nearest upsampling is a FIR filter too, of s ones, and so is the mean of s pixels. So those commute with the convolution
as well, which leaves it k taps for each pixel of the small image: 9 of a 3x3 kernel, where folded weights have 16 and
the plain way 36. The price is one pass over the large image ("strided"; "matmul" is the same by a product of matrices;
"strided_channels_last" converts contiguous images in that pass, see strided.py).

All are made of torch's ops, of plain.py's and of `upfirdn2d`, so autograd, torch.func and compilers need nothing
from us.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan import filters
from fastgan.convolution import folded_weight, strided
from fastgan.convolution.plain import convolve, convolve_transposed
from fastgan.filters import Resampling
from fastgan.ops import resample
from fastgan.ops.bias_act import make_spec
from fastgan.ops.op import is_traced
from fastgan.ops.resample import box
from fastgan.ops.upfirdn2d import checked, resampled
from fastgan.ops.upfirdn2d_bias_act import resampled_activated
from fastgan.reference import resampled_conv as reference


class Geometry(NamedTuple):
    """What a call asks for besides its tensors; tuples have one value for each axis."""

    up: bool
    scale: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    fir: Tensor | None
    more_after: tuple[int, ...] = (0, 0, 0)  # 1 where padding="same" is uneven

    def output_size(self, x: Tensor, weight: Tensor) -> list[int]:
        """H' for each axis; less than 1 where the kernel does not fit."""
        sizes = []
        padding = [2 * p + more for p, more in zip(self.padding, self.more_after, strict=False)]
        for h, k, s, p in zip(x.shape[2:], self.kernel(weight), self.scale, padding, strict=True):
            sizes.append(h * s + p - k + 1 if self.up else (h + p - k + 1) // s)
        return sizes

    def plain_padding(self) -> tuple[int, ...] | str:
        """As torch's convolutions take it."""
        return "same" if any(self.more_after) else self.padding

    def kernel(self, weight: Tensor) -> list[int]:
        """How many pixels the kernel spans along each axis."""
        # Numbers where torch.jit traces, to which sizes are tensors; so below, and wherever a padding comes of them.
        return [(int(k) - 1) * d + 1 for k, d in zip(weight.shape[2:], self.dilation, strict=True)]


Form = Callable[[Tensor, Tensor, Tensor | None, Geometry], Tensor]


# --- nearest upsampling, then convolution ---


def _up_plain(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    return reference.upsample_conv(x, weight, bias, g.scale, g.plain_padding(), g.dilation, g.groups)


def _up_folded(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    folded = folded_weight.transposed(weight, g.scale, g.groups)
    padding = _transposed_padding(weight, g)
    return convolve_transposed(len(g.scale), x, folded, bias, stride=g.scale, padding=padding, groups=g.groups)


def _up_polyphase(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    n, phases = len(g.scale), prod(g.scale)
    taps = [folded_weight.phase_taps(k, s) for k, s in zip(weight.shape[2:], g.scale, strict=True)]
    folded = folded_weight.polyphase(weight, g.scale)
    bias = None if bias is None else bias.repeat_interleave(phases)
    y = convolve(n, x, folded, bias, padding=tuple(t - 1 for t in taps), groups=g.groups)
    # [N, C_out, s..., H''...] -> [N, C_out, H'' s...]
    y = y.unflatten(1, (-1, *g.scale))
    y = y.permute(0, 1, *(axis for i in range(n) for axis in (2 + n + i, 2 + i)))
    y = y.reshape(*y.shape[:2], *(y.shape[2 + 2 * i] * s for i, s in enumerate(g.scale)))
    for i, (before, size) in enumerate(zip(_transposed_padding(weight, g), g.output_size(x, weight), strict=True)):
        y = y.narrow(2 + i, before, size)
    return _laid_out_as(x, y)


def _up_pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    y = convolve(len(g.scale), x, weight, bias, groups=g.groups)
    if _filters_images(y, g):
        return resample.nearest(y, g.scale[0])
    return F.interpolate(y, scale_factor=tuple(map(float, g.scale)), mode="nearest")


def _filters_images(x: Tensor, g: Geometry) -> bool:
    """Where nothing traces: sizes are known."""
    return not is_traced(x) and resample.is_faster(x, g.scale, g.up)


def _transposed_padding(weight: Tensor, g: Geometry) -> tuple[int, ...]:
    return tuple(k - 1 - p for k, p in zip(weight.shape[2:], g.padding, strict=True))


# --- convolution, then average pooling ---


def _down_plain(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    return reference.conv_downsample(x, weight, bias, g.scale, g.plain_padding(), g.dilation, g.groups)


def _down_folded(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    folded = folded_weight.strided(weight, g.scale)
    return convolve(len(g.scale), x, folded, bias, stride=g.scale, padding=g.padding, groups=g.groups)


def _down_pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    n = len(g.scale)
    y = resample.mean(x, g.scale[0]) if _filters_images(x, g) else reference.POOLS[n](x, g.scale)
    return convolve(n, y, weight, bias, groups=g.groups)


# --- filtering and convolution exchanged, whatever the filter ---


def _up_strided(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    return _up_by(_transposed, x, weight, bias, g)


def _up_matmul(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    return _up_by(_transposed_as_matmul, x, weight, bias, g)


def _up_channels_last(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    inside = filters.channels_inside(x)
    return _up_by(_transposed_channels_last, x, weight, bias, g, channels_last=inside)


def _up_by(
    transposed: Callable,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    g: Geometry,
    channels_last: bool | None = None,
) -> Tensor:
    taps = weight.flip(2, 3).unflatten(0, (g.groups, -1)).transpose(1, 2).flatten(0, 1)
    # A transposed convolution begins k - 1 pixels before the one of zeros between pixels, and ends k - s after it.
    kernel, (fir, gain) = g.kernel(weight), _filter_of(g, x.device)
    around = [
        (before - k + 1, after - k + s)
        for (before, after), k, s in zip(_fir_padding(fir, g), kernel, g.scale, strict=True)
    ]
    # What the filter would crop on both sides need not be computed, where the convolution can leave it out.
    crop = [max(0, min(-before, -after)) if channels_last is None else 0 for before, after in around]
    y = transposed(x, taps, crop, g)
    around = [(before + c, after + c) for (before, after), c in zip(around, crop, strict=True)]
    return _filter(y, fir, (1, 1), (1, 1), around, gain, bias, channels_last)


def _transposed(x: Tensor, taps: Tensor, padding: list[int], g: Geometry) -> Tensor:
    options = {"stride": g.scale, "padding": padding, "groups": g.groups, "dilation": g.dilation}
    return convolve_transposed(2, x, taps, None, **options)


def _transposed_as_matmul(x: Tensor, taps: Tensor, padding: list[int], g: Geometry) -> Tensor:
    # [N, L, C_in] [C_in, C_out k k] -> every pixel's contribution, which are then summed where they overlap.
    parts, kernel = x.flatten(2).transpose(1, 2) @ taps.flatten(1), taps.shape[2:]
    size = [(h - 1) * s + k - 2 * p for h, s, k, p in zip(x.shape[2:], g.scale, kernel, padding, strict=True)]
    return _laid_out_as(x, F.fold(parts.transpose(1, 2), size, kernel, padding=padding, stride=g.scale))


def _transposed_channels_last(x: Tensor, taps: Tensor, padding: list[int], g: Geometry) -> Tensor:
    return strided.transposed(_turned(x, None, True), taps, g.scale)


def _down_strided(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    return convolve(2, _filtered(x, g), weight, bias, stride=g.scale, dilation=g.dilation, groups=g.groups)


def _down_matmul(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    columns = F.unfold(_filtered(x, g), weight.shape[2:], stride=g.scale)
    y = F.linear(columns.transpose(1, 2), weight.flatten(1), bias)
    return _laid_out_as(x, y.transpose(1, 2).unflatten(2, g.output_size(x, weight)))


def _down_channels_last(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    fir, gain = _filter_of(g, x.device)
    # Less what the convolution does not reach.
    unread = [
        (h + 2 * p - k + 1) % s for h, k, s, p in zip(x.shape[2:], weight.shape[2:], g.scale, g.padding, strict=True)
    ]
    around = [(before, after - u) for (before, after), u in zip(_fir_padding(fir, g), unread, strict=True)]
    filtered = _filter(x, fir, (1, 1), (1, 1), around, gain, None, True)
    return _turned(strided.convolve(filtered, weight, g.scale), bias, filters.channels_inside(x))


def _turned(x: Tensor, bias: Tensor | None, channels_last: bool) -> Tensor:
    """x in this memory format, and a bias added, in one pass."""
    if bias is None and x.is_contiguous(memory_format=filters.memory_format(channels_last)):
        return x
    return _filter(x, box((1, 1), x.device), (1, 1), (1, 1), [(0, 0), (0, 0)], 1.0, bias, channels_last)


def _filtered(x: Tensor, g: Geometry) -> Tensor:
    """Images for a convolution with a stride."""
    fir, gain = _filter_of(g, x.device)
    return _filter(x, fir, (1, 1), (1, 1), _fir_padding(fir, g), gain)


def _in_two_dimensions(form: Form) -> Form:
    """The form for images, for sequences too: images of one row."""

    def run(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
        if len(g.scale) == 2:
            return form(x, weight, bias, g)
        # Not `_replace`, which torch 2.6 does not trace.
        axes = (1, *g.scale), (0, *g.padding), (1, *g.dilation)
        rows = Geometry(g.up, *axes, g.groups, g.fir, (0, *g.more_after))
        return form(x.unsqueeze(2), weight.unsqueeze(2), bias, rows).squeeze(2)

    return run


def _filter_of(g: Geometry, device: torch.device) -> tuple[Tensor, float]:
    """The filter and its gain, that of upsampling keeping the mean: without a FIR filter s ones along each axis."""
    if g.fir is not None:
        return g.fir, float(prod(g.scale) if g.up else 1)
    return box(g.scale, device), 1.0 if g.up else 1 / prod(g.scale)


def _fir_padding(fir: Tensor, g: Geometry) -> list[tuple[int, int]]:
    """Zeros before and after along each axis: the convolution's, and what centres the filter."""
    shape = (int(fir.shape[0]), int(fir.shape[-1]))
    first = [(t + s - 1) // 2 if g.up else (t - s + 1) // 2 for t, s in zip(shape, g.scale, strict=True)]
    return [
        (p + before, p + more + (t - s) // 2)
        for p, more, before, t, s in zip(g.padding, g.more_after, first, shape, g.scale, strict=False)
    ]


def _filter(
    x: Tensor,
    fir: Tensor,
    up: Sequence[int],
    down: Sequence[int],
    around: Sequence[tuple[int, int]],
    gain: float,
    bias: Tensor | None = None,
    channels_last: bool | None = None,
) -> Tensor:
    """`upfirdn2d` with everything given by axis, H first, a bias, and the memory format of what comes out."""
    fir, how = checked(x, fir, tuple(up[::-1]), tuple(down[::-1]), (*around[1], *around[0]), False, gain)
    how = Resampling(how.up, how.down, how.padding, how.flip_filter, how.gain, channels_last)
    if bias is None:
        return resampled(x, fir, how)
    return resampled_activated(x, fir, how, bias, _ONLY_BIAS)


_ONLY_BIAS = make_spec(1, "linear", None, 1, None)


# --- with a FIR filter ---


def _up_fir_plain(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    y = _filter(x, g.fir, g.scale, (1, 1), _fir_padding(g.fir, g), prod(g.scale))
    return convolve(2, y, weight, bias, dilation=g.dilation, groups=g.groups)


def _up_fir_pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    y = convolve(2, x, weight, None, groups=g.groups)
    return _filter(y, g.fir, g.scale, (1, 1), _fir_padding(g.fir, g), prod(g.scale), bias)


def _down_fir_pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    y = _filter(x, g.fir, (1, 1), g.scale, _fir_padding(g.fir, g), 1.0)
    return convolve(2, y, weight, bias, groups=g.groups)


def _laid_out_as(x: Tensor, y: Tensor) -> Tensor:
    """y in the memory format that a convolution of x has."""
    inside = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim)
    if inside is None or x.is_contiguous() or not x.is_contiguous(memory_format=inside):
        return y.contiguous()
    return y.contiguous(memory_format=inside)


# By direction and whether there is a FIR filter. Every form of a group gives the same values.
FORMS: dict[tuple[bool, bool], dict[str, Form]] = {
    (True, False): {
        "plain": _up_plain,
        "strided": _in_two_dimensions(_up_strided),
        "matmul": _up_matmul,
        "folded": _up_folded,
        "polyphase": _up_polyphase,
        "strided_channels_last": _up_channels_last,
        "pointwise": _up_pointwise,
    },
    (False, False): {
        "plain": _down_plain,
        "strided": _in_two_dimensions(_down_strided),
        "matmul": _down_matmul,
        "folded": _down_folded,
        "strided_channels_last": _down_channels_last,
        "pointwise": _down_pointwise,
    },
    (True, True): {"plain": _up_fir_plain, "strided": _up_strided, "pointwise": _up_fir_pointwise},
    (False, True): {"plain": _down_strided, "pointwise": _down_fir_pointwise},
}


def run(form: str, x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    """The convolution and resampling in this form."""
    return FORMS[g.up, g.fir is not None][form](x, weight, bias, g)
