"""Convolutions of a network whose gradients are differentiated: gradient penalties, path lengths."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.fusion.report import Row
from fastgan.fusion.scope import Hooks
from fastgan.fusion.state import can_defer
from fastgan.intercept import tensors_in
from fastgan.intercept.convolutions import EfficientConvolutions


class DoubleBackward(Hooks):
    """Waits for a backward with `create_graph=True`; in later forwards of that kind, convolutions are ready for it.

    The kind is what the inputs are to autograd: images that a penalty differentiates by are leaves, a generator's are
    results, others require no gradient.

    Args:
        root: the network.
        rows: of its report.
    """

    fuses = False

    def __init__(self, root: nn.Module, rows: list[Row]):
        super().__init__(root)
        self.rows = rows
        self.needed: set[frozenset] = set()

    def mode(self, module: nn.Module, args: Any) -> EfficientConvolutions | None:
        """From the first such backward on."""
        needed = torch.is_grad_enabled() and _kind(args) in self.needed and can_defer()
        return EfficientConvolutions() if needed else None

    def finished(self, module: nn.Module, mode: EfficientConvolutions) -> None:
        """Nothing to do."""

    def finish(self, module: nn.Module, args: Any, out: Any) -> None:
        """Watch the backward of what the forward returned."""
        super().finish(module, args, out)
        if torch.compiler.is_compiling() or not torch.is_grad_enabled() or (kind := _kind(args)) in self.needed:
            return
        with torch._C.DisableTorchFunction():  # nobody else need know: it changes nothing
            for tensor in tensors_in(out):
                if tensor.grad_fn is not None:
                    tensor.grad_fn.register_prehook(partial(self._watch, kind))

    def _watch(self, kind: frozenset, gradients: tuple[Tensor | None, ...]) -> None:
        if not torch.is_grad_enabled():
            return
        if not self.needed:
            self.rows.append(Row("", "a gradient of a gradient", "convolutions with an efficient double backward"))
        self.needed.add(kind)


def _kind(args: Any) -> frozenset[bool]:
    """Of the inputs that require grad, whether they are leaves."""
    with torch._C.DisableTorchFunction():
        return frozenset(tensor.is_leaf for tensor in tensors_in(args) if tensor.requires_grad)
