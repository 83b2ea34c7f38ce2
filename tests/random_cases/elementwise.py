"""Cases of the ops on channels, on pixels and on samples."""

from math import prod

import torch
import torch.nn.functional as F

from fastgan import functional
from random_cases.draw import Draw
from random_cases.search import Case, same

ACTIVATIONS = {
    "linear": lambda z, alpha: z,
    "relu": lambda z, alpha: F.relu(z),
    "lrelu": lambda z, alpha: F.leaky_relu(z, alpha),
    "tanh": lambda z, alpha: torch.tanh(z),
    "sigmoid": lambda z, alpha: torch.sigmoid(z),
    "elu": lambda z, alpha: F.elu(z),
    "selu": lambda z, alpha: F.selu(z),
    "softplus": lambda z, alpha: F.softplus(z),
    "swish": lambda z, alpha: F.silu(z),
    "gelu": lambda z, alpha: F.gelu(z),
}
SCALES = {torch.float16: [1.0, 1.0, 1.0, 150.0]}  # products that float16 does not hold, of numbers that it does


def activation(d: Draw) -> tuple[str, float | None]:
    return d.one_of(list(ACTIVATIONS)), d.one_of([None, 0.1, 0.0, 1.5, -0.3])


def activate(z, act, alpha, noise):
    """f(z); slopes are taken from a y that was rounded, and are off by as much."""
    y = ACTIVATIONS[act](z, 0.2 if alpha is None else alpha)
    if noise is same or act in ("linear", "relu", "lrelu"):
        return y
    distance = z - z.detach()
    return y + (noise(torch.ones_like(z)) - 1) * (distance + distance.square() / 2)


def gain_of(act, gain):
    return (2**0.5 if act in ("relu", "lrelu", "swish") else 1) if gain is None else gain


def scale_of(d: Draw, dtype: torch.dtype) -> float:
    return d.one_of(SCALES.get(dtype, [1.0]))


def exact(d: Draw, dtype: torch.dtype) -> torch.dtype:
    """Of numbers per channel or per sample."""
    return d.one_of([dtype, dtype, torch.float64 if dtype == torch.float64 else torch.float32])


def along(t, ndim, dim):
    """[C] along a dimension."""
    return t.view([-1 if i == dim else 1 for i in range(ndim)])


def bias_act(d: Draw, dtype: torch.dtype) -> Case:
    shape = d.each(d.integer(1, 5), [0, 1, 2, 3, 5] if d.chance(0.1) else [1, 2, 3, 5, 8])
    dim = d.integer(-len(shape), len(shape) - 1)
    act, alpha = activation(d)
    gain = d.one_of([None, 1, 0.4, 2.5, -1.0])
    clamp = d.one_of([None, None, 0.7, 2.0]) if dtype in (torch.float64, torch.float32) else None
    scale = scale_of(d, dtype)
    inputs = {"x": d.laid(shape, dtype, scale)}
    if d.chance(0.7):
        inputs["b"] = d.laid([shape[dim]], exact(d, dtype), scale)

    def plain(noise, x, b=None):
        z = x if b is None else x + along(b, x.ndim, dim % x.ndim)
        y = activate(z, act, alpha, noise) * (
            (2**0.5 if act in ("relu", "lrelu", "swish") else 1) if gain is None else gain
        )
        return (y if clamp is None else y.clamp(-clamp, clamp)).to(x.dtype)

    def ours(x, b=None):
        return functional.bias_act(x, b, dim, act, alpha, gain, clamp)

    return Case("bias_act", ours, plain, inputs, dtype, facts=f"{shape} {dim} {act} {alpha} {gain} {clamp}")


def channels(d: Draw) -> list[int]:
    """[N, C, ...]."""
    shape = [d.one_of([1, 2, 3]), d.one_of([1, 2, 3, 8]), *d.each(d.integer(0, 3), [1, 2, 3, 5])]
    if d.chance(0.1):
        shape[d.integer(0, len(shape) - 1)] = 0
    return shape


def affine(t, x):
    return t.view(*t.shape, *[1] * (x.ndim - 2))


def per_channel(d: Draw, shape: list[int], dtype: torch.dtype, scale: float = 1.0):
    return d.laid(shape[1:2] if d.chance(0.6) else shape[:2], exact(d, dtype), scale)


def scale_shift_act(d: Draw, dtype: torch.dtype) -> Case:
    shape, (act, alpha), scale = channels(d), activation(d), scale_of(d, dtype)
    inputs = {"x": d.laid(shape, dtype, scale)}
    for name in ("scale", "shift"):
        if d.chance(0.75):
            inputs[name] = per_channel(d, shape, dtype, scale)

    def plain(noise, x, scale=None, shift=None):
        z = x if scale is None else x * affine(scale, x)
        z = z if shift is None else z + affine(shift, x)
        return activate(z, act, alpha, noise).to(x.dtype)

    def ours(x, scale=None, shift=None):
        return functional.scale_shift_act(x, scale, shift, act, alpha)

    return Case("scale_shift_act", ours, plain, inputs, dtype, facts=f"{shape} {act} {alpha}")


def norm_act(d: Draw, dtype: torch.dtype) -> Case:
    norm, training = d.one_of(["batch", "instance"]), d.chance(0.75)
    shape = channels(d)
    of = prod(shape) // (shape[1] if norm == "batch" else shape[0] * shape[1]) if prod(shape) else 2
    if of == 1:
        shape = [shape[0] + 1, *shape[1:], 3]
    (act, alpha), eps, momentum = activation(d), d.one_of([1e-2, 1e-1]), d.one_of([0.1, 1.0, 0.0])
    x = d.laid(shape, dtype, scale_of(d, dtype))
    if x.name == "expanded":  # its values may all be one, and all derivatives of their norm 0 but for rounding
        x = d.contiguous(shape, dtype, scale_of(d, dtype))
    inputs = {"x": x}
    for name in ("weight", "bias"):
        if d.chance(0.75):
            inputs[name] = per_channel(d, shape, dtype)
    constants: tuple[str, ...] = ()
    if not training or d.chance(0.5):
        kept = torch.float64 if dtype == torch.float64 else torch.float32
        var = d.contiguous(shape[1:2], kept)
        inputs |= {"mean": d.contiguous(shape[1:2], kept), "var": var._replace(base=var.base.abs() + 0.5)}
        constants = "mean", "var"

    def plain(noise, x, weight=None, bias=None, mean=None, var=None):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        moving = None if mean is None else (mean.clone().detach(), var.clone().detach())
        statistics = moving
        if training:
            dims = (0, 2) if norm == "batch" else 2
            flat = wide.unsqueeze(-1).flatten(2)
            statistics = flat.mean(dims), flat.var(dims, correction=0)
            if not x.numel():  # of nothing, as torch has it: gradients are 0
                statistics = tuple(t.detach().zero_() for t in statistics)
            if moving is not None and x.numel():
                moving = moved(moving, *statistics, flat)
        centered = wide - affine(noise(statistics[0]), x)
        z = centered * affine((noise(statistics[1]) + eps).rsqrt(), x)
        z = z if weight is None else z * affine(weight, x)
        z = z if bias is None else z + affine(bias, x)
        return activate(z, act, alpha, noise).to(x.dtype), *(() if moving is None else moving)

    def moved(moving, mean, var, flat):
        count = flat.numel() // mean.numel()
        new = [t.detach().mean(0) if t.ndim == 2 else t.detach() for t in (mean, var * count / (count - 1))]
        return tuple((1 - momentum) * old + momentum * t for old, t in zip(moving, new, strict=True))

    def ours(x, weight=None, bias=None, mean=None, var=None):
        moving = [None if t is None else t.clone() for t in (mean, var)]
        options = {"norm": norm, "training": training, "momentum": momentum, "eps": eps, "act": act, "alpha": alpha}
        y = functional.norm_act(x, weight, bias, *moving, **options)
        return y, *(t for t in moving if t is not None)

    facts = f"{shape} {norm} training={training} {act} {alpha} {eps}"
    return Case("norm_act", ours, plain, inputs, dtype, constants, facts)


def pixel_shuffle_act(d: Draw, dtype: torch.dtype) -> Case:
    r, (act, alpha), scale = d.one_of([1, 2, 2, 3]), activation(d), scale_of(d, dtype)
    shape = [d.one_of([0, 1, 2]), d.one_of([1, 2, 3]) * r * r, d.integer(1, 5), d.integer(1, 6)]
    inputs = {"x": d.laid(shape, dtype, scale)}
    if d.chance(0.7):
        inputs["bias"] = d.laid(shape[1:2], exact(d, dtype), scale)

    def plain(noise, x, bias=None):
        z = x if bias is None else x + along(bias, 4, 1)
        count = x.shape[1] // r**2  # torch's own has no gradient of an empty batch
        y = activate(z, act, alpha, noise).reshape(x.shape[0], count, r, r, *x.shape[2:]).permute(0, 1, 4, 2, 5, 3)
        return y.reshape(x.shape[0], count, r * x.shape[2], r * x.shape[3]).to(x.dtype)

    def ours(x, bias=None):
        return functional.pixel_shuffle_act(x, bias, r, act, alpha)

    return Case("pixel_shuffle_act", ours, plain, inputs, dtype, facts=f"{shape} {r} {act} {alpha}")


# --- a batch of samples ---


def samples(d: Draw) -> list[int]:
    return d.each(d.integer(1, 4), [0, 1, 2, 3] if d.chance(0.1) else [1, 2, 3, 5, 9])


def sample_norm(d: Draw, dtype: torch.dtype) -> Case:
    shape, squared = samples(d), d.chance(0.5)

    def plain(noise, x):
        squares = x.to(torch.promote_types(x.dtype, torch.float32)).unsqueeze(-1).flatten(1).square().sum(1)
        if squared:
            return squares
        zero = squares == 0
        return torch.where(zero, 0.0, torch.where(zero, 1.0, squares).sqrt())

    wide = torch.float64 if dtype == torch.float64 else torch.float32
    inputs = {"x": d.laid(shape, dtype, scale_of(d, dtype))}
    facts = f"{shape} squared={squared}"
    return Case("sample_norm", lambda x: functional.sample_norm(x, squared=squared), plain, inputs, wide, facts=facts)


def scale_samples(d: Draw, dtype: torch.dtype) -> Case:
    shape, scale = samples(d), scale_of(d, dtype)
    inputs = {"x": d.laid(shape, dtype, scale), "c": d.laid(shape[:1], exact(d, dtype), scale)}

    def plain(noise, x, c):
        return (x * along(c, x.ndim, 0)).to(x.dtype)

    return Case("scale_samples", functional.scale_samples, plain, inputs, dtype, facts=f"{shape}")


def interpolate(d: Draw, dtype: torch.dtype) -> Case:
    shape, scale = samples(d), scale_of(d, dtype)
    inputs = {name: d.laid(shape, dtype, scale) for name in ("real", "fake")}
    inputs["eps"] = d.laid(shape[:1], exact(d, dtype), scale)

    def plain(noise, real, fake, eps):
        eps = along(eps, real.ndim, 0)
        return (eps * real + (1 - eps) * fake).to(real.dtype)

    return Case("interpolate", functional.interpolate, plain, inputs, dtype, facts=f"{shape}")
