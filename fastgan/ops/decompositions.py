"""What the registered ops are in torch's own, for exporters and compilers that know nothing of fastgan."""

from collections.abc import Callable

import torch
from torch._C import _get_tracing_state
from torch._ops import OpOverload
from torch.compiler import is_compiling

_TABLE: dict[OpOverload, Callable] = {}


def register_decomposition(name: str, function: Callable) -> None:
    """Enter what `torch.ops.fastgan.<name>` computes: a function of the same arguments, made of torch's ops."""
    _TABLE[getattr(torch.ops.fastgan, name).default] = function


def registered(name: str) -> Callable:
    """What to call where something traces: `torch.ops.fastgan.<name>`.

    In torch.jit.trace it is the plain form: a trace is saved, and loaded where there is no fastgan.
    """
    op = getattr(torch.ops.fastgan, name)
    return op if is_compiling() or _get_tracing_state() is None else _TABLE[op.default]


def decompositions() -> dict[OpOverload, Callable]:
    """A new table of every registered op and its plain form.

    For `exported_program.run_decompositions(table)` and, through that, `torch.onnx.export`.
    """
    return dict(_TABLE)
