"""Cases of FIR resampling, as its formula says it: insert zeros, pad or crop, convolve, drop."""

import torch
import torch.nn.functional as F

from fastgan import functional
from random_cases.draw import Draw
from random_cases.elementwise import activate, activation, along, exact, gain_of, scale_of
from random_cases.search import Case


def filter_of(d: Draw):
    """Float32 taps: [k], [fh, fw], a product of two, a usual one, zeros."""
    kind = d.integer(0, 4)
    if kind == 0:
        return d.normal([d.integer(1, 12)]).float()
    if kind == 1:
        return d.normal([d.integer(1, 5), d.integer(1, 5)]).float()
    if kind == 2:
        return torch.outer(d.normal([d.integer(1, 5)]), d.normal([d.integer(1, 5)])).float()
    return functional.setup_filter([1, 3, 3, 1]) if kind == 3 else torch.zeros(d.integer(1, 3), 2)


def resample(x, f, up, down, padding, flip, gain):
    """upfirdn2d, the filter in x's dtype or float32."""
    count, channels, h, w = x.shape
    f = f.to(torch.promote_types(x.dtype, torch.float32))
    f = torch.outer(f, f) if f.ndim == 1 else f
    y = F.pad(x.reshape(count, channels, h, 1, w, 1), [0, up[0] - 1, 0, 0, 0, up[1] - 1])
    y = F.pad(y.reshape(count, channels, h * up[1], w * up[0]), [max(p, 0) for p in padding])
    x0, x1, y0, y1 = (max(-p, 0) for p in padding)
    y = y[:, :, y0 : y.shape[2] - y1, x0 : y.shape[3] - x1].to(f.dtype)
    taps = f if flip else f.flip(0, 1)
    out = F.conv2d(y.reshape(count * channels, 1, *y.shape[2:]), taps[None, None], stride=(down[1], down[0]))
    return (gain * out).reshape(count, channels, *out.shape[2:]).to(x.dtype)


def _arguments(d: Draw, size: list[int], taps: list[int]):
    """up, down and padding that leave something; all are [x, y]."""
    up, down = d.each(2, [1, 1, 2, 3]), d.each(2, [1, 1, 2, 5])
    padding = []
    for n, k, u in zip(size, taps, up, strict=True):
        before = d.integer(-min(2, n * u - 1), 6)
        padding += [before, max(d.integer(-2, 6), k - n * u - before)]
    return up, down, padding


def upfirdn2d(d: Draw, dtype: torch.dtype, after: bool = False) -> Case:
    """Alone, or with a bias, an activation, a gain and a clamp after it."""
    shape = [d.one_of([1, 1, 2, 3]), d.one_of([1, 2, 3, 8, 17]), d.integer(1, 9), d.integer(1, 9)]
    f = None if d.chance(0.1) else filter_of(d)
    taps = torch.ones(1, 1) if f is None else f
    up, down, padding = _arguments(d, shape[:1:-1], [taps.shape[-1], taps.shape[0]])
    options = up, down, padding, d.chance(0.5), d.one_of([1.0, 4.0, -0.5])
    (act, alpha), act_gain = activation(d), d.one_of([None, 1.0, 0.3, 3.0])
    clamp = d.one_of([None, None, 1.5]) if dtype in (torch.float64, torch.float32) else None
    inputs = {"x": d.laid(shape, dtype, scale_of(d, dtype))}
    if after and d.chance(0.7):
        inputs["b"] = d.laid(shape[1:2], exact(d, dtype))

    def plain(noise, x, b=None):
        z = resample(x, taps, *options)
        if not after:
            return z
        z = noise(z) if b is None else noise(z) + along(b, 4, 1)
        y = activate(z, act, alpha, noise) * gain_of(act, act_gain)
        return (y if clamp is None else y.clamp(-clamp, clamp)).to(x.dtype)

    def ours(x, b=None):
        if not after:
            return functional.upfirdn2d(x, f, *options)
        return functional.upfirdn2d_bias_act(x, f, b, *options, act, alpha, act_gain, clamp)

    facts = f"{shape} f {list(taps.shape)} {options} {act} {alpha} {act_gain} {clamp}"
    return Case("upfirdn2d_bias_act" if after else "upfirdn2d", ours, plain, inputs, dtype, facts=facts)


def upfirdn2d_bias_act(d: Draw, dtype: torch.dtype) -> Case:
    return upfirdn2d(d, dtype, after=True)


def shorthands(d: Draw, dtype: torch.dtype) -> Case:
    """filter2d, upsample2d and downsample2d."""
    name, f, by = d.one_of(["filter2d", "upsample2d", "downsample2d"]), filter_of(d), d.one_of([1, 2, 3])
    shape = [d.one_of([1, 2]), d.one_of([1, 3]), d.integer(3, 9), d.integer(3, 9)]
    around = []
    for k in (f.shape[-1], f.shape[0]):
        before, after = {
            "filter2d": (k // 2, (k - 1) // 2), "upsample2d": ((k + by - 1) // 2, (k - by) // 2),
            "downsample2d": ((k - by + 1) // 2, (k - by) // 2),
        }[name]  # fmt: skip
        around += [before, after]
    steps = {"filter2d": (1, 1, 1), "upsample2d": (by, 1, by * by), "downsample2d": (1, by, 1)}[name]

    def plain(noise, x):
        return resample(x, f, [steps[0]] * 2, [steps[1]] * 2, around, False, steps[2])

    def ours(x):
        return getattr(functional, name)(x, f, *([] if name == "filter2d" else [by]))

    inputs = {"x": d.laid(shape, dtype, scale_of(d, dtype))}
    return Case(name, ours, plain, inputs, dtype, facts=f"{shape} f {list(f.shape)} by {by}")
