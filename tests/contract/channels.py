"""Cases of the ops on channels and on pixels."""

from math import prod

import torch

from contract.activations import activate, activation, scaled_and_clamped
from contract.compare import Case
from contract.draw import Draw
from fastgan import functional
from fastgan.ops.sum_channels import sum_channels as summed

SCALES = {torch.float16: [1.0, 1.0, 1.0, 150.0]}  # products that float16 does not hold, of values that it does


def scale_of(d: Draw, dtype: torch.dtype) -> float:
    return d.settled("scale", d.one_of, SCALES.get(dtype, [1.0]))


def exact(d: Draw, dtype: torch.dtype) -> torch.dtype:
    """Of values per channel or per sample."""
    return d.one_of([dtype, dtype, torch.float64 if dtype == torch.float64 else torch.float32])


def along(t, ndim, dim):
    """[C] along a dimension."""
    return t.view([-1 if i == dim else 1 for i in range(ndim)])


def any_shape(d: Draw) -> list[int]:
    return d.each(d.integer(1, 5), [0, 1, 2, 3, 5] if d.chance(0.1) else [1, 2, 3, 5, 8])


def bias_act(d: Draw, dtype: torch.dtype) -> Case:
    shape = d.settled("shape", any_shape, d)
    dim = d.settled("dim", d.integer, -len(shape), len(shape) - 1)
    dim = min(dim, len(shape) - 1)
    act, alpha = activation(d)
    gain = d.settled("gain", d.one_of, [None, 1, 0.4, 2.5, -1.0])
    clamp = d.settled("clamp", d.one_of, [None, None, 0.75, 2.0])
    scale = scale_of(d, dtype)
    inputs = {"x": d.laid(shape, dtype, scale)}
    if d.settled("bias", d.chance, 0.7):
        inputs["b"] = d.laid([shape[dim]], exact(d, dtype), scale)

    def plain(noise, x, b=None):
        z = x if b is None else x + along(b, x.ndim, dim % x.ndim)
        return scaled_and_clamped(activate(z, act, alpha, noise), act, gain, clamp, noise).to(x.dtype)

    def ours(x, b=None):
        return functional.bias_act(x, b, dim, act, alpha, gain, clamp)

    facts = f"{shape} {dim} {act} {alpha} {gain} {clamp}"
    return Case("bias_act", ours, plain, inputs, dtype, facts=facts, rounded_once=("value", "gradient of x"))


def sum_channels(d: Draw, dtype: torch.dtype) -> Case:
    shape = d.settled("shape", any_shape, d)
    dim = d.integer(0, len(shape) - 1)
    wide = torch.promote_types(dtype, torch.float32)

    def plain(noise, x):
        others = [i for i in range(x.ndim) if i != dim]
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return x.sum(others) if others else x.clone()

    inputs = {"x": d.laid(shape, dtype, scale_of(d, dtype))}
    return Case("sum_channels", lambda x: summed(x, dim), plain, inputs, wide, facts=f"{shape} {dim}",
                rounded_once=("value", "gradient of x"))  # fmt: skip


def channels(d: Draw) -> list[int]:
    """[N, C, ...]."""
    shape = [d.one_of([1, 2, 3]), d.one_of([1, 2, 3, 8]), *d.each(d.integer(0, 3), [1, 2, 3, 5])]
    if d.chance(0.1):
        shape[d.integer(0, len(shape) - 1)] = 0
    return shape


def affine(t, x):
    return t.view(*t.shape, *[1] * (x.ndim - 2))


def per_channel(d: Draw, shape: list[int], dtype: torch.dtype, scale: float = 1.0, number: int = 0):
    """[C] or [N, C]; the fixed answer has a number of dimensions for the first and the second of two."""
    ndim = d.settled("values", lambda: [1 if d.chance(0.6) else 2] * 2)[number]
    return d.laid(shape[2 - ndim : 2] if ndim == 1 else shape[:2], exact(d, dtype), scale)


def given(d: Draw, name: str) -> bool:
    """Whether there is a scale, or a shift."""
    return name in d.settled("given", lambda: (name,) if d.chance(0.75) else ())


GRADIENTS = tuple(f"gradient of {name}" for name in ("x", "scale", "shift", "weight", "bias"))


def scale_shift_act(d: Draw, dtype: torch.dtype) -> Case:
    shape, (act, alpha), scale = d.settled("shape", channels, d), activation(d), scale_of(d, dtype)
    inputs = {"x": d.laid(shape, dtype, scale)}
    for number, name in enumerate(("scale", "shift")):
        if given(d, name):
            inputs[name] = per_channel(d, shape, dtype, scale, number)

    def plain(noise, x, scale=None, shift=None):
        z = x if scale is None else x * affine(scale, x)
        z = z if shift is None else z + affine(shift, x)
        return activate(z, act, alpha, noise).to(x.dtype)

    def ours(x, scale=None, shift=None):
        return functional.scale_shift_act(x, scale, shift, act, alpha)

    facts = f"{shape} {act} {alpha}"
    return Case("scale_shift_act", ours, plain, inputs, dtype, facts=facts, rounded_once=("value", *GRADIENTS))


def norm_act(d: Draw, dtype: torch.dtype) -> Case:
    norm, training = d.settled("norm", d.one_of, ["batch", "instance"]), d.settled("training", d.chance, 0.75)
    shape = list(d.settled("shape", channels, d))
    of = prod(shape) // (shape[1] if norm == "batch" else shape[0] * shape[1]) if prod(shape) else 2
    if of == 1:
        shape = [shape[0] + 1, *shape[1:], 3]
    (act, alpha), eps, momentum = activation(d), d.one_of([1e-2, 1e-1]), d.one_of([0.1, 1.0, 0.0])
    x = d.laid(shape, dtype, scale_of(d, dtype))
    if x.name == "expanded":  # its values may all be one, and all derivatives of their norm 0 but for rounding
        x = d.contiguous(shape, dtype, scale_of(d, dtype))
    inputs = {"x": x}
    for number, name in enumerate(("weight", "bias")):
        if given(d, ("scale", "shift")[number]):
            inputs[name] = per_channel(d, shape, dtype, 1.0, number)
    constants: tuple[str, ...] = ()
    if not training or d.settled("moving", d.chance, 0.5):
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
        return (y, *moving) if constants else y

    facts = f"{shape} {norm} training={training} {act} {alpha} {eps}"
    return Case("norm_act", ours, plain, inputs, dtype, constants, facts, ("value", *GRADIENTS))


def _shuffled(d: Draw) -> tuple[list[int], int]:
    r = d.one_of([1, 2, 2, 3])
    return [d.one_of([0, 1, 2]), d.one_of([1, 2, 3]) * r * r, d.integer(1, 5), d.integer(1, 6)], r


def pixel_shuffle_act(d: Draw, dtype: torch.dtype) -> Case:
    (shape, r), (act, alpha), scale = d.settled("shape", _shuffled, d), activation(d), scale_of(d, dtype)
    inputs = {"x": d.laid(shape, dtype, scale)}
    if d.settled("bias", d.chance, 0.7):
        inputs["bias"] = d.laid(shape[1:2], exact(d, dtype), scale)

    def plain(noise, x, bias=None):
        z = x if bias is None else x + along(bias, 4, 1)
        count = x.shape[1] // r**2  # torch's own has no gradient of an empty batch
        y = activate(z, act, alpha, noise).reshape(x.shape[0], count, r, r, *x.shape[2:]).permute(0, 1, 4, 2, 5, 3)
        return y.reshape(x.shape[0], count, r * x.shape[2], r * x.shape[3]).to(x.dtype)

    def ours(x, bias=None):
        return functional.pixel_shuffle_act(x, bias, r, act, alpha)

    facts = f"{shape} {r} {act} {alpha}"
    return Case("pixel_shuffle_act", ours, plain, inputs, dtype, facts=facts, rounded_once=("value", "gradient of x"))


def _grouped(d: Draw) -> tuple[list[int], int | None, int]:
    group, features = d.one_of([1, 2, 3, None]), d.one_of([1, 1, 2, 3])
    shape = [(group or 2) * d.one_of([0, 1, 2]), features * d.one_of([1, 2, 5]), *d.each(d.integer(0, 3), [1, 2, 3, 5])]
    return shape, group, features


def minibatch_stddev(d: Draw, dtype: torch.dtype) -> Case:
    shape, group, features = d.settled("shape", _grouped, d)
    eps = d.one_of([1e-8, 1e-2])

    def plain(noise, x):
        count, size = x.shape[0], min(group or x.shape[0], x.shape[0]) or 1
        wide = x.to(torch.promote_types(x.dtype, torch.float32)).unsqueeze(-1).flatten(2)
        statistics = wide.new_zeros(count // size, features)
        if x.numel():
            groups = wide.reshape(size, count // size, features, -1)
            statistics = (groups.var(0, correction=0) + eps).sqrt().mean(2)
        appended = affine(statistics.repeat(size, 1), x).expand(count, features, *x.shape[2:])
        return torch.cat([x, appended.to(x.dtype)], 1)

    def ours(x):
        return functional.minibatch_stddev(x, group, features, eps)

    inputs = {"x": d.laid(shape, dtype, scale_of(d, dtype))}
    facts = f"{shape} group_size={group} num_channels={features} {eps}"
    return Case("minibatch_stddev", ours, plain, inputs, dtype, facts=facts, rounded_once=("value", "gradient of x"))
