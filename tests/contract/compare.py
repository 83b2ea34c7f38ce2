"""One case: the op beside its formula in plain torch, in float64 and in the op's own dtype.

What is compared: the value, the gradient of every input, and the gradients of a weighted sum of those. How far they may
be from the truth, which is the formula in float64:

    err(ours) <= 2 err(torch) + eps |truth| + 16 * what the truth changes by, where every input is off by e or 2 e

The last term is what makes the bound one for all cases: a sum of terms that cancel is as inexact as its terms are, and
so is what only depends on the ratio of two inputs. It is the largest of some draws of inputs that are off, each value
by e or 2 e up or down, or all of a tensor in the same direction; so are a gradient on its way through them, what is
kept for the backward, and the slopes of activations. 16: a sum of n terms one after another is off by up to sqrt(n) as
much as that, and no kernel adds more than 128 so before it starts again; then there are a scale, a shift, an activation
and a rounding or two of results that are kept.

e is eps of the coarsest dtype that values go through; of what an op computes in float32 or better, and rounds once, it
is eps of that, and what is kept for the backward alone is as coarse as it is stored.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import torch
from torch import Tensor

from contract.draw import Draw, Laid

ROUNDINGS = 16
_ONCE = ", without create_graph"
DRAWS = (False, False, True, True)  # whether all of a tensor is off in the same direction


class Case(NamedTuple):
    """A call of an op.

    Args:
        ours: of the inputs by name: a tensor, or a tuple of one and others that are values only.
        plain: the same, in plain torch and in the dtype of what it is given; its first argument is a function that all
            that is kept between two steps goes through, as roundings do: noise(t), or noise(t, kept=True) for what is
            stored in the op's dtype for the backward alone.
        inputs: by name.
        constants: the names of those that no gradient is taken of.
        dtype: of the result.
        rounded_once: the results, as in "gradient of x", that are computed in float32 or better and rounded once.
    """

    name: str
    ours: Callable[..., Any]
    plain: Callable[..., Any]
    inputs: dict[str, Laid]
    dtype: torch.dtype
    constants: tuple[str, ...] = ()
    facts: str = ""
    rounded_once: tuple[str, ...] = ()


def same(t: Tensor, kept: bool = False) -> Tensor:
    return t


class Expected:
    """What a case should give: computed once, whatever computes it."""

    def __init__(self, case: Case, d: Draw) -> None:
        self.case = case
        self.asked = [name for name in case.inputs if name not in case.constants and d.settled("all", d.chance, 0.8)]
        example = _first(case.plain(same, **{k: laid.view(laid.base.double()) for k, laid in case.inputs.items()}))
        self.dy = d.laid(example.shape, case.dtype)
        self.weights = {name: d.normal(case.inputs[name].base.shape) for name in self.asked}
        self.truth = self._evaluate(case.plain, torch.float64)
        self.torchs = self._in_own_dtype()
        # Where torch's is finite, ours has to be; where it is not, nothing is known.
        self.counted = {name: t.isfinite() & self.truth[name].to(t.dtype).isfinite() for name, t in self.torchs.items()}
        self.coarse = max((case.dtype, *(t.base.dtype for t in case.inputs.values())), key=lambda t: torch.finfo(t).eps)
        self.spreads = self._spreads(self.coarse, d)
        fine = torch.promote_types(self.coarse, torch.float32)
        of_fine = self._spreads(fine, d) if case.rounded_once and fine != self.coarse else self.spreads
        self.spreads |= {name: of_fine[name] for name in case.rounded_once if name in of_fine}

    def problems(self, device: torch.device | str = "cpu", grad_mode: Callable | None = None) -> list[str]:
        """What is wrong with the op's results on a device; grad_mode: with the value inside of it, too."""
        case, found = self.case, []
        results = self._evaluate(lambda noise, **given: case.ours(**given), None, device=device, ours=True)
        for name, got in results.items():
            found += self._compare(name, got, name.removesuffix(_ONCE))
        bases = {name: laid.base.clone().to(device) for name, laid in case.inputs.items()}
        given = {name: laid.view(bases[name]) for name, laid in case.inputs.items()}
        with (grad_mode or torch.no_grad)():
            value = _first(case.ours(**given))
        found += self._compare("value without gradients", value, "value")
        found += [f"{name} was changed" for name, t in bases.items() if not t.cpu().equal(case.inputs[name].base)]
        memory = {name: t.untyped_storage()._cdata for name, t in given.items() if t.numel()}
        own = value.untyped_storage()._cdata
        return found + [f"the result shares {name}'s memory" for name, other in memory.items() if other == own]

    def _evaluate(
        self,
        function: Callable,
        dtype: torch.dtype | None,
        noise: Callable = same,
        device: torch.device | str = "cpu",
        ours: bool = False,
    ) -> dict[str, Tensor]:
        """By name: the value, others, gradients and second ones."""

        def leaf(laid: Laid, wanted: bool) -> Tensor:
            base = laid.base.clone() if dtype is None else laid.base.to(dtype)
            return base.to(device).requires_grad_(wanted)

        leaves = {name: leaf(laid, name in self.asked) for name, laid in self.case.inputs.items()}
        given = {name: noise(laid.view(leaves[name])) for name, laid in self.case.inputs.items()}
        if dtype is not None:  # the truth depends on no layout, and torch has no gradients for some
            given = {name: t.clone(memory_format=torch.contiguous_format) for name, t in given.items()}
        returned = function(noise, **given)
        y, *others = returned if isinstance(returned, tuple) else (returned,)
        results = {"value": y} | {f"other {i}": other for i, other in enumerate(others)}
        wanted = [leaves[name] for name in self.asked]
        if not wanted or not y.requires_grad:
            return {name: result.detach() for name, result in results.items()}
        leaf_dy = leaf(self.dy, wanted=True)
        upstream = noise(self.dy.view(leaf_dy)).to(y.dtype)
        gradients = torch.autograd.grad(y, wanted, upstream, create_graph=True, allow_unused=True)
        results |= {f"gradient of {n}": g for n, g in self._there(gradients, wanted)}
        if ours:  # without create_graph other kernels run
            first = torch.autograd.grad(y, wanted, upstream, retain_graph=True, allow_unused=True)
            results |= {f"gradient of {n}{_ONCE}": g for n, g in self._there(first, wanted)}
        pairs = zip(self.asked, gradients, strict=True)
        sums = [(g.double() * self.weights[n].to(device)).sum() for n, g in pairs if g is not None]
        total = sum(s for s in sums if s.requires_grad)
        sources = [*wanted, leaf_dy]
        second = [None] * len(sources)
        if isinstance(total, Tensor):
            second = torch.autograd.grad(total, sources, allow_unused=True)
        results |= {f"second derivative, {n}": g for n, g in self._there(second, sources)}
        return {name: result.detach() for name, result in results.items()}

    def _there(self, gradients: Sequence[Tensor | None], sources: list[Tensor]) -> Iterator[tuple[str, Tensor]]:
        """By name; None is zeros."""
        for name, gradient, source in zip([*self.asked, "dy"], gradients, sources, strict=False):
            yield name, torch.zeros_like(source) if gradient is None else gradient

    def _in_own_dtype(self) -> dict[str, Tensor]:
        """Torch's; in float64 where it has no kernel for the dtype, or, as for gelu, none for these strides."""
        try:
            return self._evaluate(self.case.plain, None)
        except RuntimeError:
            results = self._evaluate(self.case.plain, torch.float64)
        return {name: result.to(self.case.dtype) for name, result in results.items()}

    def _spreads(self, computed_in: torch.dtype, d: Draw) -> dict[str, float]:
        """How far off the results are, of inputs that are."""
        spreads = dict.fromkeys(self.truth, 0.0)
        eps = torch.finfo(computed_in).eps, torch.finfo(self.coarse).eps
        for together in DRAWS:
            for name, off in self._evaluate(self.case.plain, torch.float64, _noise(*eps, d, together)).items():
                spreads[name] = max(spreads[name], float((off - self.truth[name])[self.counted[name]].norm()))
        return spreads

    def _compare(self, name: str, ours: Tensor, key: str) -> list[str]:
        truth, torchs = self.truth[key], self.torchs[key]
        if ours.shape != truth.shape:
            return [f"{name}: shape {list(ours.shape)}, not {list(truth.shape)}"]
        if ours.dtype != torchs.dtype:
            return [f"{name}: {ours.dtype}, not {torchs.dtype}"]
        counted = self.counted[key]
        ours, torchs, truth = ours.cpu()[counted], torchs[counted], truth[counted]
        if not ours.isfinite().all():
            return [f"{name}: not finite where torch's is"]
        error, of_torch, size = (ours.double() - truth).norm(), (torchs.double() - truth).norm(), truth.norm()
        facts = torch.finfo(self.coarse)
        smallest = facts.smallest_normal * facts.eps * (1 + truth.numel()) * ROUNDINGS  # what is below may become 0
        bound = 2 * of_torch + torch.finfo(ours.dtype).eps * size + ROUNDINGS * self.spreads[key] + smallest
        if error > bound:
            return [f"{name}: off by {error:.1e}, torch {of_torch:.1e}, of {size:.1e}; allowed {bound:.1e}"]
        return []


def _noise(eps: float, eps_kept: float, d: Draw, together: bool) -> Callable[..., Tensor]:
    # By turns once and twice eps: of two factors that are off by the same, the product may be right.
    by = cycle((1, 2))

    def noise(t: Tensor, kept: bool = False) -> Tensor:
        size = next(by) * (eps_kept if kept else eps)
        return t * (1 + size * d.signs((1,) * t.ndim if together else t.shape).to(t.dtype))

    return noise


def _first(returned: Any) -> Tensor:
    return returned[0] if isinstance(returned, tuple) else returned
