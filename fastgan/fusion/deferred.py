"""A tensor that is not computed yet: it waits for the next call of its chain, or for any other use.

A call that a chain can go on with takes the link and leaves the tensor alone. Any other use computes it by the
user's own call first; then the very object *becomes* that result (`torch.utils.swap_tensors`), an ordinary
tensor. What reads only its shape, dtype or device is answered without.

C++ sees neither Python's calls nor the link: there the tensor is a wrapper whose operations arrive in
`__torch_dispatch__`, which computes its data; its node in the graph, `_Defer`, differentiates the user's call. From
then on it stays a wrapper, since others may hold it.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.utils import swap_tensors

from fastgan.fusion.chains import follow
from fastgan.fusion.changes import may_change, versions
from fastgan.fusion.pending import Pending
from fastgan.fusion.state import TorchState, can_defer
from fastgan.intercept import canonical, replaced, tensors_in

# What a wrapper knows of itself.
KNOWN = {
    *(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "requires_grad", "layout")),
    *(getattr(Tensor, name).__get__ for name in ("is_cuda", "is_cpu", "is_sparse", "is_quantized", "is_meta")),
    *(getattr(Tensor, name) for name in ("size", "dim", "numel", "nelement", "ndimension", "is_floating_point")),
    *(getattr(Tensor, name) for name in ("is_complex", "get_device", "element_size", "__len__")),
    *(getattr(torch, name) for name in ("is_floating_point", "is_complex", "numel")),
}


class Deferred(Tensor):
    """The result of a deferred call: a wrapper without memory until the call is computed."""

    _pending: Pending

    @staticmethod
    def __new__(cls, pending: Pending) -> "Deferred":
        """With the shape, dtype and device of the result."""
        link = pending.link
        out = Tensor._make_wrapper_subclass(cls, link.shape, dtype=link.dtype, device=link.inputs[0].device)
        out._pending = pending
        return out

    @classmethod
    def __torch_function__(cls, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        """A call that has a deferred tensor among its arguments."""
        return call(function, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        """An operation that Python did not see, below autograd."""
        return function(*replaced(args, _data), **replaced(kwargs or {}, _data))


def defer(pending: Pending) -> Tensor:
    """The result of a call that is deferred."""
    inputs = pending.link.inputs
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    out = _Defer.apply(pending, *inputs) if wanted else Deferred(pending)
    pending.waiting.add(out)
    return out


def is_waiting(value: Any) -> bool:
    """Whether it is a deferred tensor for which nothing has been computed."""
    return isinstance(value, Deferred) and value._pending.is_open


def compute(tensor: Deferred) -> None:
    """Let a tensor that waits become what it stands for, and what goes on from it too."""
    pending = tensor._pending
    pending.waiting.remove(pending)
    if _has_other_history(tensor):
        pending.data = _run(pending).detach()
    else:
        _become(tensor, _run(pending))
    for other in pending.waiting:
        if other._pending.before is pending:
            compute(other)


def _run(pending: Pending) -> Tensor:
    """The result of the user's call, as it would have been."""
    pending.check_inputs()
    with pending.state.restored():
        args, kwargs = computed((pending.args, pending.kwargs))

        def run() -> Tensor:
            return pending.function(*args, **kwargs)

        return pending.link.again(run) if pending.has_run else run()


def computed(value: Any) -> Any:
    """Nested arguments in which nothing waits any more."""
    for tensor in tensors_in(value):
        if is_waiting(tensor):
            compute(tensor)
    return replaced(value, _result)


def call(function: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """A call with deferred tensors among its arguments: the chain's next, or any other."""
    if function not in KNOWN:
        tensors = [tensor for tensor in tensors_in((args, kwargs)) if is_waiting(tensor)]
        if len(tensors) == 1:
            followed = _follow(tensors[0], function, args, kwargs)
            if followed is not None:
                return followed
        for tensor in tensors:
            tensor._pending.waiting.missed(tensor._pending, getattr(function, "__name__", "a call"))
        given = (args, kwargs)
        args, kwargs = computed(given)
        if may_change(function, args, kwargs):
            for tensor in tensors_in(given):
                if isinstance(tensor, Deferred) and tensor._pending.result is not None:
                    count_change(tensor)
    with torch._C.DisableTorchFunctionSubclass():
        return function(*args, **kwargs)


def _follow(tensor: Deferred, function: Callable, args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """What the call returns if the chain goes on with it, else None."""
    pending = tensor._pending
    if not pending.calls or (pending.has_run and pending.link.changes) or kwargs.get("out") is not None:
        return None
    if _has_other_history(tensor):
        return None
    if pending.state != TorchState.now(pending.state.device) or not can_defer():
        return None
    link, last = follow(pending.link, canonical(function, args, kwargs), tensor), pending.calls == 1
    if isinstance(link, str) or (last and not link.complete):
        return None
    in_place = may_change(function, args, kwargs)
    if in_place and not (last and _can_become(tensor)):
        return None
    pending.check_inputs()
    if not last:
        return defer(Pending(function, args, kwargs, link, pending.calls - 1, pending.waiting, pending))
    out = link.run()
    for done in pending.chain():
        done.has_run = True
        pending.waiting.has_run(done)
    if not in_place:
        return out
    pending.waiting.remove(pending)
    _become(tensor, out)
    return tensor


def _has_other_history(tensor: Deferred) -> bool:
    """Whether an autograd.Function or an operator returned it: then its gradient goes where they say."""
    with torch._C.DisableTorchFunctionSubclass():
        node = tensor.grad_fn
    return node is not None and getattr(node, "pending", None) is not tensor._pending


def _can_become(tensor: Deferred) -> bool:
    return tensor._use_count() == 1 and weakref.getweakrefcount(tensor) == 1  # ours


def _become(tensor: Deferred, result: Tensor) -> None:
    """Make the object itself the result; where others hold it, it stays a wrapper of the result."""
    pending = tensor._pending
    written = {name: value for name, value in vars(tensor).items() if name != "_pending"}
    with torch._C.DisableTorchFunctionSubclass():
        try:
            swap_tensors(tensor, result)
            vars(tensor).update(written)
        except RuntimeError:
            if not isinstance(tensor, Deferred):  # torch saw it late, as where a profiler has a weak reference: undo
                for name in ("__class__", "__dict__"):
                    theirs = getattr(tensor, name)
                    setattr(tensor, name, getattr(result, name))
                    setattr(result, name, theirs)
            pending.result, pending.result_version = result, versions((result,))
            pending.waiting.stays_wrapper(tensor)


def _result(tensor: Tensor) -> Tensor:
    """A tensor for a call that Python sees."""
    if isinstance(tensor, Deferred) and tensor._pending.result is not None:
        return tensor._pending.result
    return tensor


def count_change(wrapper: Deferred) -> None:
    """Let C++, which holds a wrapper, for a backward say, know that its result is no longer what it was."""
    if not wrapper.is_inference():
        increment_version(wrapper)


def _data(tensor: Tensor) -> Tensor:
    """A tensor for an operation that only C++ sees."""
    if not isinstance(tensor, Deferred):
        return tensor
    pending = tensor._pending
    if pending.result is not None:
        return pending.result.detach()
    if pending.data is None:
        pending.waiting.missed(pending, "C++")
        pending.waiting.remove(pending)
        pending.data = _run(pending).detach()
    return pending.data


class _Defer(torch.autograd.Function):
    """(pending, inputs...) -> the deferred tensor."""

    @staticmethod
    def forward(ctx: Any, pending: Pending, *inputs: Tensor) -> Tensor:
        ctx.pending = pending
        return Deferred(pending)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Reached only from where C++ took the tensor: by the user's own call, once more."""
        pending = ctx.pending
        if pending.result is not None and versions((pending.result,)) != pending.result_version:
            raise RuntimeError(f"the result of {pending.function.__name__} was changed in place where C++ holds it")
        inputs, needed = pending.link.inputs, ctx.needs_input_grad[1:]
        wanted = [t for t, is_needed in zip(inputs, needed, strict=True) if is_needed]
        create_graph = torch.is_grad_enabled()
        pending.has_run = True
        with torch.enable_grad():
            gradients = iter(torch.autograd.grad(_run(pending), wanted, dy, create_graph=create_graph))
        return None, *(next(gradients) if is_needed else None for is_needed in needed)
