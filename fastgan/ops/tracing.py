"""How an op is called: in eager mode as an autograd.Function, which is faster; as a registered op where it is traced.

An op's own file decides by `is_traced`; what calls a backend is `untraced`.
"""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


def is_traced(*tensors: Tensor) -> bool:
    """Whether somebody wants to see the op: a compiler, a dispatch mode, a tensor subclass."""
    return (
        torch.compiler.is_compiling()
        or is_in_torch_dispatch_mode()
        or not {type(tensor) for tensor in tensors} <= {Tensor, torch.nn.Parameter}
    )


def is_differentiated(*tensors: Tensor) -> bool:
    """Whether an autograd.Function is needed: to call one may take longer than to call the kernel."""
    if forward_ad._current_level >= 0:
        return True
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def untraced(function: Callable) -> Callable:
    """Dynamo must not look inside a backend: it would drop a tensor as soon as its address was read.

    `torch.compiler.disable` imports Dynamo, and with it Triton, which takes as long as to import torch: where nobody
    else has done so, there is nothing to disable.
    """
    disabled = torch._disable_dynamo(function)

    @wraps(function)
    def run(*args: Any) -> Any:
        return (disabled if "torch._dynamo" in sys.modules else function)(*args)

    return run


def refuse_forward_mode(op: str) -> None:
    """Raise where forward-mode derivatives are taken: a registered op has no rule, and torch takes that for zero."""
    if forward_ad._current_level >= 0:
        raise_no_forward_mode(op)


def raise_no_forward_mode(op: str) -> None:
    """What an op's autograd.Function does in its `jvp`."""
    raise NotImplementedError(f"fastgan {op}: forward-mode derivatives are not supported; use reverse mode")
