"""Cases of convolutions, with resampling before or after them and without."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
import torch.nn.functional as F

from contract.compare import Case
from contract.draw import Draw
from contract.resampling import filter_of, resample
from fastgan import functional

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _sizes(d: Draw, n: int) -> dict[str, Any]:
    """Of a convolution along n axes that leaves something."""
    kernel, dilation = d.each(n, [1, 2, 3, 3, 4]), d.each(n, [1, 1, 1, 2])
    reach = [(k - 1) * r for k, r in zip(kernel, dilation, strict=True)]
    padding = [d.integer(0, r) for r in reach]
    if d.chance(0.3):
        padding = d.one_of(["same", "valid"])
    whole = {"same": reach, "valid": [0] * n}[padding] if isinstance(padding, str) else [2 * p for p in padding]
    cut = [max(0, r - w) for r, w in zip(reach, whole, strict=True)]
    groups = d.one_of([1, 1, 2, 3])
    return {
        "kernel": kernel, "dilation": dilation, "reach": reach, "padding": padding, "whole": whole, "groups": groups,
        "size": [c + d.integer(1, 5) for c in cut], "c_in": d.integer(1, 3), "c_out": d.integer(1, 3),
    }  # fmt: skip


def _case(
    d: Draw,
    dtype: torch.dtype,
    name: str,
    sizes: dict[str, Any],
    channels: tuple[int, int],
    plain: Callable,
    options: dict[str, Any],
) -> Case:
    # In 3d torch 2.13 reads memory that it has not written: in half precision, and in float32 for some strides.
    if len(sizes["kernel"]) == 3 and dtype.itemsize == 2:
        dtype = torch.float32
    laid = d.contiguous if len(sizes["kernel"]) == 3 and dtype == torch.float32 else d.laid
    terms = channels[1] * prod(sizes["kernel"])
    inputs = {
        "x": laid((d.one_of([1, 2, 3]), sizes["c_in"] * sizes["groups"], *sizes["size"]), dtype),
        "weight": laid((*channels, *sizes["kernel"]), dtype, terms**-0.5),
    }
    if d.chance(0.6):
        inputs["bias"] = d.laid((sizes["c_out"] * sizes["groups"],), dtype)

    def call(x, weight, bias=None):
        return getattr(functional, name)(x, weight, bias, **options)

    return Case(name, call, plain, inputs, dtype, facts=f"{sizes} {options}")


def convolution(d: Draw, dtype: torch.dtype) -> Case:
    n = d.one_of([1, 2, 2, 3])
    sizes, name = _sizes(d, n), f"conv{n}d"
    same = sizes["padding"] == "same"
    options = {"stride": 1 if same else d.each(n, [1, 1, 2, 3])}
    options |= {key: sizes[key] for key in ("padding", "dilation", "groups")}
    channels = sizes["c_out"] * sizes["groups"], sizes["c_in"]

    def plain(noise, x, weight, bias=None):
        return CONVOLUTIONS[n](x, weight, bias, **options)

    return _case(d, dtype, name, sizes, channels, plain, options)


def transposed(d: Draw, dtype: torch.dtype) -> Case:
    n = d.one_of([1, 2, 2, 3])
    sizes, name = _sizes(d, n), f"conv_transpose{n}d"
    options = {"stride": d.each(n, [1, 1, 2, 3]), "padding": [d.integer(0, r // 2) for r in sizes["reach"]]}
    options |= {key: sizes[key] for key in ("dilation", "groups")}
    least = zip(options["stride"], sizes["dilation"], strict=True)
    options["output_padding"] = [d.integer(0, max(step, r) - 1) for step, r in least]
    channels = sizes["c_in"] * sizes["groups"], sizes["c_out"]

    def plain(noise, x, weight, bias=None):
        return getattr(F, name)(x, weight, bias, **options)

    return _case(d, dtype, name, sizes, channels, plain, options)


def resampled(d: Draw, dtype: torch.dtype) -> Case:
    """Upsampling before, or means after, by nearest neighbours or a filter."""
    n, up = d.one_of([1, 2, 2, 2, 3]), d.chance(0.5)
    sizes = _sizes(d, n)
    scale = d.each(n, [1, 2, 2, 3])
    fir = filter_of(d) if n == 2 and d.chance(0.4) else None
    if not up or sizes["padding"] == "valid":
        sizes["size"] = [h + s - 1 for h, s in zip(sizes["size"], scale, strict=True)]
    options = {"scale_factor": scale} | {key: sizes[key] for key in ("padding", "dilation", "groups")}
    if fir is not None:
        options |= {"mode": "fir", "fir": fir}
    channels = sizes["c_out"] * sizes["groups"], sizes["c_in"]
    around = [(w // 2, w - w // 2) for w in sizes["whole"]]
    rest = {"dilation": sizes["dilation"], "groups": sizes["groups"]}

    def plain(noise, x, weight, bias=None):
        if fir is None:
            pads = [p for pair in reversed(around) for p in pair]
            if up:
                x = F.interpolate(x, scale_factor=tuple(map(float, scale)))
            y = CONVOLUTIONS[n](F.pad(x, pads), weight, bias, **rest)
            return y if up else _mean(y, n, scale)
        taps, steps = [fir.shape[-1], fir.shape[0]], scale[::-1]
        first = [(t + s - 1) // 2 if up else (t - s + 1) // 2 for t, s in zip(taps, steps, strict=True)]
        pads = [
            p for own, before, t, s in zip(around[::-1], first, taps, steps, strict=True)
            for p in (own[0] + before, own[1] + (t - s) // 2)
        ]  # fmt: skip
        if up:
            return CONVOLUTIONS[n](resample(x, fir, steps, [1, 1], pads, False, prod(scale)), weight, bias, **rest)
        y = resample(x, fir, [1, 1], [1, 1], pads, False, 1)
        return CONVOLUTIONS[n](y, weight, bias, stride=scale, **rest)

    name = f"upsample_conv{n}d" if up else f"conv_downsample{n}d"
    return _case(d, dtype, name, sizes, channels, plain, options)


def _mean(y, n, scale):
    if n == 3 and y.dtype in (torch.bfloat16, torch.float16):  # torch has none on a CPU
        return F.avg_pool3d(y.float(), scale).to(y.dtype)
    return POOLS[n](y, scale)
