"""Convolutions of a network whose gradients are differentiated: gradient penalties, path lengths."""

from typing import Any

import torch
from torch import Tensor, nn

from fastgan.fusion.deferred import can_defer
from fastgan.fusion.report import Row
from fastgan.fusion.scope import Hooks
from fastgan.intercept import tensors_in
from fastgan.intercept.convolutions import EfficientConvolutions


class DoubleBackward(Hooks):
    """Waits for a backward with `create_graph=True`; in later forwards, convolutions are ready for it.

    Args:
        root: the network.
        rows: of its report.
    """

    fuses = False

    def __init__(self, root: nn.Module, rows: list[Row]):
        super().__init__(root)
        self.rows, self.is_needed = rows, False

    def mode(self, module: nn.Module) -> EfficientConvolutions | None:
        """From the first such backward on."""
        return EfficientConvolutions() if self.is_needed and torch.is_grad_enabled() and can_defer() else None

    def finished(self, module: nn.Module, mode: EfficientConvolutions) -> None:
        """Nothing to do."""

    def finish(self, module: nn.Module, args: Any, out: Any) -> None:
        """Watch the backward of what the forward returned."""
        super().finish(module, args, out)
        if self.is_needed or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return
        with torch._C.DisableTorchFunction():  # nobody else need know: it changes nothing
            for tensor in tensors_in(out):
                if tensor.grad_fn is not None:
                    tensor.grad_fn.register_prehook(self._watch)

    def _watch(self, gradients: tuple[Tensor | None, ...]) -> None:
        if torch.is_grad_enabled() and not self.is_needed:
            self.is_needed = True
            self.rows.append(Row("", "a gradient of a gradient", "convolutions with an efficient double backward"))
