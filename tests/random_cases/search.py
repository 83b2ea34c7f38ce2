"""One case: the op beside its formula in plain torch, in float64 and in the op's own dtype.

What is compared: the value, the gradient of every input, and the gradients of a weighted sum of those. How far they may
be from the truth, which is the formula in float64:

    err(ours) <= 2 err(torch) + eps |truth| + 16 * what the truth changes by, where every input is off by eps or 2 eps

The last term is what makes the bound one for all cases: a sum of terms that cancel is as inexact as its terms are, and
so is what only depends on the ratio of two inputs. It is the largest of some draws of inputs that are off, each value
by eps or 2 eps up or down, or all of a tensor in the same direction; so are a gradient on its way through them, what is
kept for the backward, and the slopes of activations. 16: a sum of n terms one after another is off by up to sqrt(n) as
much as that, and no kernel adds more than 128 so before it starts again; then there are a scale, a shift, an activation
and a rounding or two of results that are kept.
"""

from collections.abc import Callable
from itertools import cycle
from typing import Any, NamedTuple

import torch
from torch import Tensor

from random_cases.draw import Draw, Laid

ROUNDINGS = 16
DRAWS = (False, False, True, True)  # whether all of a tensor is off in the same direction


class Case(NamedTuple):
    """A call of an op.

    Args:
        ours: of the inputs by name: a tensor, or a tuple of one and others that are values only.
        plain: the same, in plain torch and in the dtype of what it is given; its first argument is a function that all
            that is kept between two steps goes through, as roundings do.
        inputs: by name.
        constants: the names of those that no gradient is taken of.
        dtype: of the result.
    """

    name: str
    ours: Callable[..., Any]
    plain: Callable[..., Any]
    inputs: dict[str, Laid]
    dtype: torch.dtype
    constants: tuple[str, ...] = ()
    facts: str = ""


def same(t: Tensor) -> Tensor:
    return t


def problems(case: Case, d: Draw) -> list[str]:
    """What is wrong with a case."""
    asked = [name for name in case.inputs if name not in case.constants and d.chance(0.8)]
    before = {name: laid.base.clone() for name, laid in case.inputs.items()}
    example = _first(case.plain(same, **{k: laid.view(laid.base.double()) for k, laid in case.inputs.items()}))
    dy = d.laid(example.shape, case.dtype)
    weights = {name: d.normal(case.inputs[name].base.shape) for name in asked}

    def evaluate(function: Callable, dtype: torch.dtype | None, noise: Callable = same) -> dict[str, Tensor]:
        return _evaluate(function, case, asked, dy, weights, dtype, noise)

    found = []
    ours = evaluate(lambda noise, **xs: case.ours(**xs), None)
    truth = evaluate(case.plain, torch.float64)
    torchs = _in_own_dtype(case, evaluate)
    coarse = _coarsest(case)
    spreads = [evaluate(case.plain, torch.float64, _noise(coarse, d, together)) for together in DRAWS]

    def compare(name: str, ours: Tensor, key: str) -> list[str]:
        return _compare(name, ours, torchs[key], truth[key], [spread[key] for spread in spreads], coarse)

    for name, laid in case.inputs.items():
        if not torch.equal(laid.base, before[name]):
            found.append(f"{name} was changed")
    found += _aliases(case)
    for name in truth:
        found += compare(name, ours[name], name)
    if d.chance(0.3):
        with torch.no_grad() if d.chance(0.5) else torch.inference_mode():
            value = _first(case.ours(**{name: laid.view(laid.base.clone()) for name, laid in case.inputs.items()}))
        found += compare("value without gradients", value, "value")
    return found


def _evaluate(
    function: Callable,
    case: Case,
    asked: list[str],
    dy: Laid,
    weights: dict[str, Tensor],
    dtype: torch.dtype | None,
    noise: Callable,
) -> dict[str, Tensor]:
    """By name: the value, others, gradients and second ones."""

    def leaf(laid: Laid, wanted: bool) -> Tensor:
        base = laid.base.clone() if dtype is None else laid.base.to(dtype)
        return base.requires_grad_(wanted)

    leaves = {name: leaf(laid, name in asked) for name, laid in case.inputs.items()}
    given = {name: noise(laid.view(leaves[name])) for name, laid in case.inputs.items()}
    if dtype is not None:  # the truth depends on no layout, and torch has no gradients for some
        given = {name: t.clone(memory_format=torch.contiguous_format) for name, t in given.items()}
    returned = function(noise, **given)
    y, *others = returned if isinstance(returned, tuple) else (returned,)
    results = {"value": y} | {f"other {i}": other for i, other in enumerate(others)}
    wanted = [leaves[name] for name in asked]
    if not wanted or not y.requires_grad:
        return results
    leaf_dy = (dy.base.clone() if dtype is None else dy.base.to(dtype)).requires_grad_()
    upstream = noise(dy.view(leaf_dy)).to(y.dtype)
    gradients = torch.autograd.grad(y, wanted, upstream, create_graph=True, allow_unused=True)
    # Without create_graph other kernels run.
    first = torch.autograd.grad(y, wanted, upstream, retain_graph=True, allow_unused=True)
    for name, a, b, like in zip(asked, first, gradients, wanted, strict=True):
        results[f"gradient of {name}"] = _zeros(a, like)
        results[f"gradient of {name}, differentiable"] = _zeros(b, like)
    sums = [(g.double() * weights[n]).sum() for n, g in zip(asked, gradients, strict=True) if g is not None]
    total = sum(s for s in sums if s.requires_grad)
    sources = [*wanted, leaf_dy]
    second = [None] * len(sources)
    if isinstance(total, Tensor):
        second = torch.autograd.grad(total, sources, allow_unused=True)
    for name, g, like in zip([*asked, "dy"], second, sources, strict=True):
        results[f"second derivative, {name}"] = _zeros(g, like)
    return results


def _in_own_dtype(case: Case, evaluate: Callable) -> dict[str, Tensor]:
    """Torch's; in float64 where it has no kernel for the dtype, or, as for gelu, none for these strides."""
    try:
        return evaluate(case.plain, None)
    except RuntimeError:
        results = evaluate(case.plain, torch.float64)
    return {name: result.to(case.dtype) for name, result in results.items()}


def _coarsest(case: Case) -> torch.finfo:
    """Of the dtypes that numbers go through."""
    dtypes = [case.dtype, *(laid.base.dtype for laid in case.inputs.values())]
    return max(map(torch.finfo, dtypes), key=lambda facts: facts.eps)


def _noise(coarse: torch.finfo, d: Draw, together: bool) -> Callable[[Tensor], Tensor]:
    # By turns once and twice eps: of two factors that are off by the same, the product may be right.
    by = cycle((coarse.eps, 2 * coarse.eps))
    return lambda t: t * (1 + next(by) * d.signs((1,) * t.ndim if together else t.shape).to(t.dtype))


def _compare(
    name: str, ours: Tensor, torchs: Tensor, truth: Tensor, off: list[Tensor], coarse: torch.finfo
) -> list[str]:
    if ours.shape != truth.shape:
        return [f"{name}: shape {list(ours.shape)}, not {list(truth.shape)}"]
    if ours.dtype != torchs.dtype:
        return [f"{name}: {ours.dtype}, not {torchs.dtype}"]
    ours, torchs, truth = ours.detach(), torchs.detach(), truth.detach()
    # Where torch's is finite, ours has to be; where it is not, nothing is known.
    counted = torchs.isfinite() & truth.to(ours.dtype).isfinite()
    if not ours[counted].isfinite().all():
        return [f"{name}: not finite where torch's is"]
    error = (ours[counted].double() - truth[counted]).norm()
    torch_error = (torchs[counted].double() - truth[counted]).norm()
    spread = max(((o.detach()[counted] - truth[counted]).norm() for o in off), default=0.0)
    size = truth[counted].norm()
    smallest = coarse.smallest_normal * coarse.eps * (1 + truth.numel()) * ROUNDINGS  # what is below may become 0
    bound = 2 * torch_error + torch.finfo(ours.dtype).eps * size + ROUNDINGS * spread + smallest
    if error > bound:
        return [f"{name}: off by {error:.1e}, torch {torch_error:.1e}, of {size:.1e}; allowed {bound:.1e}"]
    return []


def _aliases(case: Case) -> list[str]:
    """A result has memory of its own."""
    given = {name: laid.view(laid.base.clone()) for name, laid in case.inputs.items()}
    y = _first(case.ours(**given))
    memory = {name: t.untyped_storage()._cdata for name, t in given.items() if t.numel()}
    return [f"the result shares {name}'s memory" for name, m in memory.items() if m == y.untyped_storage()._cdata]


def _zeros(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if gradient is None else gradient


def _first(returned: Any) -> Tensor:
    return returned[0] if isinstance(returned, tuple) else returned
