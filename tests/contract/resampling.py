"""Cases of FIR resampling, as its formula says it: insert zeros, pad or crop, convolve, drop."""

import torch
import torch.nn.functional as F

from contract.activations import activate, activation, scaled_and_clamped
from contract.channels import along, exact, scale_of
from contract.compare import Case
from contract.draw import Draw
from fastgan import functional


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


def _image(d: Draw) -> list[int]:
    return [d.one_of([1, 1, 2, 3]), d.one_of([1, 2, 3, 8, 17]), d.integer(1, 9), d.integer(1, 9)]


def _resampling(d: Draw, size: list[int]):
    """A filter or None, up, down and padding that leave something, [x, y], whether it is flipped, gain."""
    f = None if d.chance(0.1) else filter_of(d)
    taps = [1, 1] if f is None else [f.shape[-1], f.shape[0]]
    up, down = d.each(2, [1, 1, 2, 3]), d.each(2, [1, 1, 2, 5])
    padding = []
    for n, k, u in zip(size, taps, up, strict=True):
        before = d.integer(-min(2, n * u - 1), 6)
        padding += [before, max(d.integer(-2, 6), k - n * u - before)]
    return f, up, down, padding, d.chance(0.5), d.one_of([1.0, 4.0, -0.5])


def upfirdn2d(d: Draw, dtype: torch.dtype) -> Case:
    shape = d.settled("shape", _image, d)
    f, *options = d.settled("resampling", _resampling, d, shape[:1:-1])
    taps = torch.ones(1, 1) if f is None else f

    def plain(noise, x):
        return resample(x, taps, *options)

    def ours(x):
        return functional.upfirdn2d(x, None if f is None else f.to(x.device), *options)

    inputs = {"x": d.laid(shape, dtype, scale_of(d, dtype))}
    facts = f"{shape} f {list(taps.shape)} {options}"
    return Case("upfirdn2d", ours, plain, inputs, dtype, facts=facts, rounded_once=("value", "gradient of x"))


def upfirdn2d_bias_act(d: Draw, dtype: torch.dtype) -> Case:
    shape = d.settled("shape", _image, d)
    f, *options = d.settled("resampling", _resampling, d, shape[:1:-1])
    taps = torch.ones(1, 1) if f is None else f
    (act, alpha), gain = activation(d), d.settled("gain", d.one_of, [None, 1.0, 0.3, 3.0])
    clamp = d.settled("clamp", d.one_of, [None, None, 1.5])
    inputs = {"x": d.laid(shape, dtype, scale_of(d, dtype))}
    if d.settled("bias", d.chance, 0.7):
        inputs["b"] = d.laid(shape[1:2], exact(d, dtype))
    fused = act in ("linear", "relu", "lrelu") and (alpha is None or alpha >= 0)

    def plain(noise, x, b=None):
        z = noise(resample(x, taps, *options), kept=not fused)
        z = z if b is None else z + along(b, 4, 1)
        return scaled_and_clamped(activate(z, act, alpha, noise), act, gain, clamp, noise).to(x.dtype)

    def ours(x, b=None):
        f_here = None if f is None else f.to(x.device)
        return functional.upfirdn2d_bias_act(x, f_here, b, *options, act, alpha, gain, clamp)

    facts = f"{shape} f {list(taps.shape)} {options} {act} {alpha} {gain} {clamp}"
    return Case("upfirdn2d_bias_act", ours, plain, inputs, dtype, facts=facts, rounded_once=("value",))


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
