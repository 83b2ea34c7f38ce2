"""How an op is called: in eager mode as an autograd.Function, which is faster; as a registered op where it is traced.

An op's own file decides by `is_traced`; what calls a backend is `untraced`.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch._C import _get_tracing_state
from torch._C._dynamo.eval_frame import get_eval_frame_callback
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

_PLAIN = frozenset({Tensor, torch.nn.Parameter})

# Every op passes through these two, several times a call: they are loops, since a generator takes longer.


def is_traced(*tensors: Tensor) -> bool:
    """Whether somebody wants to see the op: a compiler, a dispatch mode, torch.jit.trace, a tensor subclass.

    Or nobody wants its numbers: on the meta device a registered op has a shape.
    """
    if is_compiling() or is_in_torch_dispatch_mode() or _get_tracing_state() is not None:
        return True
    for tensor in tensors:  # noqa: SIM110
        if type(tensor) not in _PLAIN or tensor.is_meta:
            return True
    return False


def is_differentiated(*tensors: Tensor) -> bool:
    """Whether an autograd.Function is needed: to call one may take longer than to call the kernel."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor.requires_grad:
                return True
    return forward_ad._current_level >= 0


def is_plain(*tensors: Tensor) -> bool:
    """Whether a backend may be called as it is: nobody traces, transforms or differentiates."""
    return not (is_traced(*tensors) or torch._C._are_functorch_transforms_active() or is_differentiated(*tensors))


def untraced(function: Callable) -> Callable:
    """Dynamo must not look inside a backend: it would drop a tensor as soon as its address was read.

    To go through `torch.compiler.disable` takes as long as a small kernel, and the first time it imports Dynamo: it is
    left out where Dynamo does not run.
    """
    disabled = torch._disable_dynamo(function)

    @wraps(function)
    def run(*args: Any) -> Any:
        if is_compiling() or get_eval_frame_callback() is not None:
            return disabled(*args)
        return function(*args)

    return run


def refuse_forward_mode(op: str) -> None:
    """Raise where forward-mode derivatives are taken: a registered op has no rule, and torch takes that for zero."""
    if forward_ad._current_level >= 0:
        raise_no_forward_mode(op)


def raise_no_forward_mode(op: str) -> None:
    """What an op's autograd.Function does in its `jvp`."""
    raise NotImplementedError(f"fastgan {op}: forward-mode derivatives are not supported; use reverse mode")


def saved_tensor_hooks() -> Any:
    """Those in force. Non-reentrant checkpointing counts what is saved: what it surrounds must compute for itself.

    Before torch 2.8 they cannot be seen.
    """
    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return top and top(True)
