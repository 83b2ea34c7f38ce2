"""Calls that are deferred, and the tensors of one forward that wait for them."""

import weakref
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from fastgan.fusion.chains import Link
from fastgan.fusion.changes import versions
from fastgan.fusion.state import TorchState


class Pending:
    """A deferred call.

    Args:
        function: what is called.
        args: its arguments, among them the result of `before`.
        kwargs: the same.
        link: what is known after it.
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
        self.state = TorchState.now(link.inputs[0].device.type)
        self.versions = versions(link.inputs)
        self.has_run = False  # as a part of its chain
        self.result: Tensor | None = None  # where the tensor could not become it
        self.data: Tensor | None = None  # for C++

    @property
    def is_open(self) -> bool:
        """Whether nothing has been computed for its tensor."""
        return self.data is None and self.result is None

    def check_inputs(self) -> None:
        """Raise if an input is no longer what it was: where a change can be seen, the call is computed before it."""
        if self.versions != versions(self.link.inputs):
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
        missed: told of a `Pending` that is needed outside of its chain, and by what.
    """

    def __init__(self, missed: Callable[[Pending, str], None]):
        self.missed = missed
        self._tensors: dict[int, weakref.ref[Tensor]] = {}
        # What changes something in place happens even if nothing uses the result.
        self._kept: dict[int, Tensor] = {}
        self._wrappers: list[weakref.ref[Tensor]] = []  # of results that are tensors of their own

    def add(self, tensor: Tensor) -> None:
        """A deferred tensor waits from now on."""
        key = id(tensor._pending)
        self._tensors[key] = weakref.ref(tensor)
        if tensor._pending.link.changes:
            self._kept[key] = tensor

    def remove(self, pending: Pending) -> None:
        """Its tensor waits no more."""
        self._tensors.pop(id(pending), None)
        self.has_run(pending)

    def has_run(self, pending: Pending) -> None:
        """Its chain has run: its tensor waits for as long as something refers to it."""
        self._kept.pop(id(pending), None)

    def kept(self) -> list[Tensor]:
        """Those that change something in place."""
        return list(self._kept.values())

    def stays_wrapper(self, tensor: Tensor) -> None:
        """Others refer to it, so that it could not become its result."""
        self._wrappers.append(weakref.ref(tensor))

    def wrappers(self) -> Iterator[Tensor]:
        """Those whose result is a tensor of its own."""
        return (tensor for ref in self._wrappers if (tensor := ref()) is not None)

    def clear(self) -> None:
        """None waits any more; wrappers stay."""
        self._tensors.clear()

    def __bool__(self) -> bool:
        return bool(self._tensors or self._wrappers)

    def __iter__(self) -> Iterator[Tensor]:
        tensors = [ref() for ref in self._tensors.values()]
        return (tensor for tensor in tensors if tensor is not None and _still_waits(tensor))


def _still_waits(tensor: Tensor) -> bool:
    pending = vars(tensor).get("_pending")  # a tensor that has become its result has none
    return pending is not None and pending.is_open
