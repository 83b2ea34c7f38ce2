"""Marks on the tensors of one forward: which are activations, and which of them must not be used."""

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from fastgan.penalty.tape import RefusedError


class Mark(NamedTuple):
    """Left on an activation's tensor.

    Args:
        recording: the number of its forward.
        index: of the activation.
        version: of the tensor's memory.
        obstacle: why it must not be used; empty if it may be.
    """

    recording: int
    index: int
    version: int
    obstacle: str


class Marks:
    """The marks of one forward.

    Args:
        x: its input, a leaf that requires grad.
    """

    _numbers = itertools.count()

    def __init__(self, x: Tensor):
        self._number = next(self._numbers)
        self._x_node = get_gradient_edge(x).node
        self._independent: set[Any] = set()  # nodes of the graph that do not lead to x

    def put(self, tensor: Tensor, index: int, obstacle: str = "") -> None:
        """Mark a tensor as an activation."""
        tensor._fastgan_mark = Mark(self._number, index, tensor._version, obstacle)

    def of(self, tensor: Tensor) -> Mark | None:
        """A tensor's mark, whatever has become of its values since."""
        mark = getattr(tensor, "_fastgan_mark", None)
        return mark if mark is not None and mark.recording == self._number else None

    def index(self, tensor: Tensor) -> int | None:
        """Which activation a tensor is; None for a constant. Refuses what cannot be known."""
        mark = self.of(tensor)
        if mark is None:
            if tensor.requires_grad and self._leads_to_x(tensor.grad_fn):
                raise RefusedError(f"an activation comes out of {_culprit(tensor)}, whose inside cannot be seen")
            return None
        if mark.version != tensor._version:
            raise RefusedError("an activation was changed in place through another tensor that shares its memory")
        return mark.index

    def _leads_to_x(self, node: Any) -> bool:
        seen, stack = set(), [node]
        while stack:
            node = stack.pop()
            if node is self._x_node:
                return True
            if node is None or node in seen or node in self._independent:
                continue
            seen.add(node)
            stack += [following for following, _ in node.next_functions]
        self._independent |= seen
        return False


def _culprit(tensor: Tensor) -> str:
    """The last autograd.Function that a tensor comes from, which cannot be intercepted; else its last operation."""
    stack, seen = [tensor.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            return node.name()
        seen.add(node)
        stack += [following for following, _ in node.next_functions]
    return tensor.grad_fn.name()
