"""A tensor that is not computed yet: it waits for the next call of its chain, or for anybody else who wants it.

A call that a chain can go on with takes the link and leaves the tensor alone. Whatever else touches it has it computed
by the user's own call first; then the very object *becomes* that result (`torch.utils.swap_tensors`), an ordinary
tensor. What reads only its shape, dtype or device is answered without.

C++ sees neither Python's calls nor the link: there the tensor is a wrapper whose operations arrive in
`__torch_dispatch__`, which computes its data; its node in the graph, `_Defer`, differentiates the user's call. From
then on it stays a wrapper, since others may hold it.
"""

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.autograd.graph import increment_version
from torch.utils import swap_tensors

from fastgan.fusion.chains import Link, follow
from fastgan.fusion.state import State, can_defer
from fastgan.intercept import canonical, replaced, tensors_in

# What a wrapper knows of itself.
KNOWN = {
    *(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "requires_grad", "layout")),
    *(getattr(Tensor, name).__get__ for name in ("is_cuda", "is_cpu", "is_sparse", "is_quantized", "is_meta")),
    *(getattr(Tensor, name) for name in ("size", "dim", "numel", "nelement", "ndimension", "is_floating_point")),
    *(getattr(Tensor, name) for name in ("is_complex", "get_device", "element_size", "__len__")),
    *(getattr(torch, name) for name in ("is_floating_point", "is_complex", "numel")),
}


class Pending:
    """A call that was put off.

    Args:
        function: the call.
        args: its arguments, among them the result of `before`.
        kwargs: the same.
        link: what is known behind it.
        calls: how many more calls the chain has.
        waiting: where the tensors that wait are kept.
        before: the call before it in the chain.
    """

    def __init__(
        self,
        function: Callable,
        args: tuple,
        kwargs: dict[str, Any],
        link: Link,
        calls: int,
        waiting: "Waiting",
        before: "Pending | None" = None,
    ):
        self.function, self.args, self.kwargs = function, args, kwargs
        self.link, self.calls, self.waiting, self.before = link, calls, waiting, before
        self.state = State.now(link.inputs[0].device.type)
        self.versions = _versions(link.inputs)
        self.has_run = False  # as a part of its chain
        self.result: Tensor | None = None  # where the tensor could not become it
        self.data: Tensor | None = None  # for C++

    def compute(self) -> Tensor:
        """The result of the user's call, as it would have been."""
        self.check()
        with self.state.restored():
            args, kwargs = computed((self.args, self.kwargs))

            def run() -> Tensor:
                return self.function(*args, **kwargs)

            return self.link.again(run) if self.has_run else run()

    def check(self) -> None:
        """Raise if an input is no longer what it was: a change that can be seen is preceded by `compute`."""
        if self.versions != _versions(self.link.inputs):
            raise RuntimeError(
                f"a tensor that {self.function.__name__} was given was changed in place, out of sight, before its "
                f"result was used: accelerate this network with ops that do not include {self.link.op!r}"
            )

    def chain(self) -> Iterator["Pending"]:
        """It and the calls before it."""
        pending = self
        while pending is not None:
            yield pending
            pending = pending.before


class Waiting:
    """The deferred tensors of one forward.

    Args:
        missed: told of a `Pending` that is wanted outside of its chain, and by what.
    """

    def __init__(self, missed: Callable[[Pending, str], None]):
        self.missed = missed
        self._tensors: dict[int, weakref.ref[Deferred]] = {}
        # What changes something in place happens even if nobody looks at the result.
        self._kept: dict[int, Deferred] = {}
        self._wrappers: list[weakref.ref[Deferred]] = []  # of results that are tensors besides

    def add(self, tensor: "Deferred") -> None:
        """Wait for it."""
        key = id(tensor._pending)
        self._tensors[key] = weakref.ref(tensor)
        if tensor._pending.link.changes:
            self._kept[key] = tensor

    def remove(self, pending: Pending) -> None:
        """It waits no more."""
        self._tensors.pop(id(pending), None)
        self.has_run(pending)

    def has_run(self, pending: Pending) -> None:
        """Its chain has: its tensor is waited for as long as somebody holds it."""
        self._kept.pop(id(pending), None)

    def settle(self) -> None:
        """Let what changes something in place happen, whether or not the forward came to its end."""
        for tensor in list(self._kept.values()):
            self.missed(tensor._pending, "nothing in the forward")
            compute(tensor)

    def stays_wrapper(self, tensor: "Deferred") -> None:
        """Others hold it, so that it could not become its result."""
        self._wrappers.append(weakref.ref(tensor))

    def wrappers(self) -> Iterator["Deferred"]:
        """Those of which the forward has a result besides."""
        return (tensor for ref in self._wrappers if (tensor := ref()) is not None)

    def __bool__(self) -> bool:
        return bool(self._tensors or self._wrappers)

    def __iter__(self) -> Iterator["Deferred"]:
        tensors = [ref() for ref in self._tensors.values()]
        return (tensor for tensor in tensors if tensor is not None and is_waiting(tensor))

    def finish(self, wanted_by: str) -> None:
        """Compute all that are still there."""
        for tensor in self:
            self.missed(tensor._pending, wanted_by)
            compute(tensor)
        self._tensors.clear()


class Deferred(Tensor):
    """See above."""

    _pending: Pending

    @staticmethod
    def __new__(cls, pending: Pending) -> "Deferred":
        """A wrapper without memory."""
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
    """The result of a call that is put off."""
    inputs = pending.link.inputs
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    out = _Defer.apply(pending, *inputs) if wanted else Deferred(pending)
    pending.waiting.add(out)
    return out


def is_waiting(value: Any) -> bool:
    """Whether it is a deferred tensor that nobody has touched."""
    return isinstance(value, Deferred) and value._pending.data is None and value._pending.result is None


def compute(tensor: Deferred) -> None:
    """Let a tensor that waits become what it stands for, and what goes on from it too."""
    pending = tensor._pending
    pending.waiting.remove(pending)
    if _has_other_history(tensor):
        pending.data = pending.compute().detach()
    else:
        _become(tensor, pending.compute())
    for other in pending.waiting:
        if other._pending.before is pending:
            compute(other)


def computed(value: Any) -> Any:
    """Nested arguments in which nothing waits any more."""
    for tensor in tensors_in(value):
        if is_waiting(tensor):
            compute(tensor)
    return replaced(value, _result)


def call(function: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """A call with deferred tensors among its arguments: the chain's next, or whatever else."""
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
    if pending.state != State.now(pending.state.device) or not can_defer():
        return None
    link, last = follow(pending.link, canonical(function, args, kwargs), tensor), pending.calls == 1
    if isinstance(link, str) or (last and not link.complete):
        return None
    in_place = may_change(function, args, kwargs)
    if in_place and not (last and _can_become(tensor)):
        return None
    pending.check()
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


def may_change(function: Callable, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether a call may change one of its arguments in place."""
    if isinstance(function, OpOverload):
        return function._schema.is_mutable
    name = getattr(function, "__name__", "")
    return (
        (name.endswith("_") and not name.endswith("__"))
        or name in ("__setitem__", "__set__")
        or (name.startswith("__i") and name not in ("__index__", "__int__", "__invert__", "__iter__"))
        or bool(kwargs.get("inplace"))
        or kwargs.get("out") is not None
        or ("pool" not in name and any(argument is True for argument in args))  # `inplace` by position
    )


def hands_out_memory(function: Callable) -> bool:
    """Whether what a call returns may be changed without torch."""
    names = ("numpy", "__array__", "__dlpack__", "data_ptr", "untyped_storage", "storage")
    return getattr(function, "__name__", "") in names


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
            pending.result, pending.result_version = result, _versions((result,))
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
        pending.data = pending.compute().detach()
    return pending.data


def _versions(tensors: tuple[Tensor, ...]) -> tuple[int, ...]:
    # Tensors made in inference mode count no versions.
    return tuple(0 if tensor.is_inference() else tensor._version for tensor in tensors)


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
        if pending.result is not None and _versions((pending.result,)) != pending.result_version:
            raise RuntimeError(f"the result of {pending.function.__name__} was changed in place where C++ holds it")
        inputs, needed = pending.link.inputs, ctx.needs_input_grad[1:]
        wanted = [t for t, is_needed in zip(inputs, needed, strict=True) if is_needed]
        create_graph = torch.is_grad_enabled()
        pending.has_run = True
        with torch.enable_grad():
            gradients = iter(torch.autograd.grad(pending.compute(), wanted, dy, create_graph=create_graph))
        return None, *(next(gradients) if is_needed else None for is_needed in needed)
