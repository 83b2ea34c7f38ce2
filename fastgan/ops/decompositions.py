"""What the registered ops are in torch's own, for exporters and compilers that know nothing of fastgan."""

from collections.abc import Callable

import torch
from torch._ops import OpOverload

_TABLE: dict[OpOverload, Callable] = {}


def register_decomposition(name: str, function: Callable) -> None:
    """Enter what `torch.ops.fastgan.<name>` computes: a function of the same arguments, made of torch's ops."""
    _TABLE[getattr(torch.ops.fastgan, name).default] = function


def decompositions() -> dict[OpOverload, Callable]:
    """A new table of every registered op and its plain form.

    For `exported_program.run_decompositions(table)` and, through that, `torch.onnx.export`.
    """
    return dict(_TABLE)
