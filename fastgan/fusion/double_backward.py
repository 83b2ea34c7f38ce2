"""Convolutions of a network whose gradients are differentiated: gradient penalties, path lengths."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.around import Around
from fastgan.fusion.report import LOCK, Row
from fastgan.fusion.state import can_defer
from fastgan.intercept import run_under, tensors_in
from fastgan.intercept.convolutions import EfficientConvolutions


class DoubleBackward(Around):
    """Waits for a backward with `create_graph=True`; in later forwards of that kind, convolutions are ready for it.

    The kind is what the inputs are to autograd: images that a penalty differentiates by are leaves, a generator's are
    results, others require no gradient.

    Args:
        rows: of the network's report.
    """

    def __init__(self, rows: list[Row]):
        self.rows = rows
        self.needed: set[frozenset] = set()

    def around(self, module: nn.Module, args: tuple, call: Callable[[], Any]) -> Any:
        """From the first such backward on, with a mode; until then, what the forward returns is watched."""
        if torch.compiler.is_compiling() or not torch.is_grad_enabled() or not can_defer():
            return call()
        kind = _kind(args)
        if kind in self.needed:
            return run_under(EfficientConvolutions(), call)
        out = call()
        with torch._C.DisableTorchFunction():  # nobody else need know: it changes nothing
            for tensor in tensors_in(out):
                if tensor.grad_fn is not None:
                    tensor.grad_fn.register_prehook(partial(self._watch, kind))
        return out

    def _watch(self, kind: frozenset, gradients: tuple[Tensor | None, ...]) -> None:
        if not torch.is_grad_enabled():
            return
        with LOCK:
            if not self.needed:
                self.rows.append(Row("", "a gradient of a gradient", "convolutions with an efficient double backward"))
            self.needed.add(kind)


def _kind(args: Any) -> frozenset[bool]:
    """Of the inputs that require grad, whether they are leaves."""
    with torch._C.DisableTorchFunction():
        return frozenset(tensor.is_leaf for tensor in tensors_in(args) if tensor.requires_grad)
