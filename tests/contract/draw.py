"""Random choices, and tensors of any strides."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Laid(NamedTuple):
    """A tensor as a view of a leaf: `view(base)`."""

    base: Tensor
    view: Callable[[Tensor], Tensor]
    name: str


class Draw:
    """What one case is made of: the same for the same seed. `fixed` holds answers, by name, that are not drawn."""

    def __init__(self, seed: int, **fixed: Any):
        self.generator = torch.Generator().manual_seed(seed)
        self.fixed = fixed
        self.settled_names: set[str] = set()

    def settled(self, name: str, draw: Callable, *args: Any) -> Any:
        """The fixed answer of this name, else draw(*args)."""
        self.settled_names.add(name)
        return self.fixed[name] if name in self.fixed else draw(*args)

    def integer(self, least: int, most: int) -> int:
        return int(torch.randint(least, most + 1, (), generator=self.generator))

    def chance(self, p: float) -> bool:
        return float(torch.rand((), generator=self.generator)) < p

    def one_of(self, items: Sequence[Any]) -> Any:
        return items[self.integer(0, len(items) - 1)]

    def each(self, n: int, items: Sequence[Any]) -> list[Any]:
        return [self.one_of(items) for _ in range(n)]

    def normal(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(tuple(shape), generator=self.generator, dtype=torch.float64)

    def signs(self, shape: Sequence[int]) -> Tensor:
        """Of +1 and -1."""
        return torch.randint(0, 2, tuple(shape), generator=self.generator).double() * 2 - 1

    def values(self, shape: Sequence[int], dtype: torch.dtype, scale: float) -> Tensor:
        """Normal values, now and then with exact zeros among them."""
        values = self.normal(shape) * scale
        if self.settled("zeros", self.chance, 0.1):
            values = torch.where(torch.rand(tuple(shape), generator=self.generator) < 0.2, 0.0, values)
        return values.to(dtype)

    def laid(self, shape: Sequence[int], dtype: torch.dtype, scale: float = 1.0) -> Laid:
        """Values of this shape in some layout."""
        shape, name = tuple(shape), self.settled("layout", self.one_of, list(LAYOUTS))
        base, view = LAYOUTS[name](self, shape) or (shape, lambda base: base)
        return Laid(self.values(base, dtype, scale), view, name)

    def contiguous(self, shape: Sequence[int], dtype: torch.dtype, scale: float = 1.0) -> Laid:
        return Laid(self.values(shape, dtype, scale), lambda base: base, "contiguous")


# --- layouts: from a shape, that of a leaf and how to look at it; None where they do not fit ---


def _contiguous(d: Draw, shape: tuple[int, ...]):
    return None


def _channels_last(d: Draw, shape: tuple[int, ...]):
    if len(shape) < 3:
        return None
    return (shape[0], *shape[2:], shape[1]), lambda base: base.movedim(-1, 1)


def _permuted(d: Draw, shape: tuple[int, ...]):
    order = torch.randperm(len(shape), generator=d.generator).tolist()
    return [shape[i] for i in order], lambda base: base.permute([order.index(i) for i in range(len(shape))])


def _sliced(d: Draw, shape: tuple[int, ...]):
    steps, offsets = d.each(len(shape), [1, 1, 2, 3]), d.each(len(shape), [0, 0, 1, 2])
    base = [size * step + offset for size, step, offset in zip(shape, steps, offsets, strict=True)]
    slices = tuple(slice(o, o + n * s, s) for n, s, o in zip(shape, steps, offsets, strict=True))
    return base, lambda base: base[slices]


def _offset(d: Draw, shape: tuple[int, ...]):
    offset = d.integer(1, 7)
    return (prod(shape) + offset,), lambda base: base[offset:].view(shape)


def _expanded(d: Draw, shape: tuple[int, ...]):
    if not prod(shape):
        return None
    return [1 if d.chance(0.5) else size for size in shape], lambda base: base.expand(shape)


def _overlapping(d: Draw, shape: tuple[int, ...]):
    """Rows are windows of one line."""
    if len(shape) < 2 or not prod(shape[-2:]):
        return None
    step = d.integer(1, shape[-1])
    line = (*shape[:-2], (shape[-2] - 1) * step + shape[-1])
    return line, lambda base: base.unfold(-1, shape[-1], step)


LAYOUTS = {
    layout.__name__.strip("_"): layout
    for layout in (_contiguous, _channels_last, _permuted, _sliced, _offset, _expanded, _overlapping)
}
