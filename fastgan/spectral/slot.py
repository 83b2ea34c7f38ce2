"""What answers for one layer while forwards run: the weight that was computed at their start, for its first use.

A group attaches a *slot* to each of its layers. Every thread has forwards of its own.
"""

import threading
import weakref
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastgan.modes import saved_tensor_hooks

Tensors = tuple[Tensor, ...]


class Forward(NamedTuple):
    """A forward of the root, as far as its results depend on it."""

    grad_enabled: bool
    saved_tensor_hooks: Any

    @classmethod
    def now(cls) -> "Forward":
        """The one that starts here."""
        return cls(torch.is_grad_enabled(), _saved_tensor_hooks())

    def covers_now(self) -> bool:
        """Whether a result of it, used now, is as if it had been computed now."""
        if not self.grad_enabled and torch.is_grad_enabled():
            return False
        return self.saved_tensor_hooks == _saved_tensor_hooks()


def _saved_tensor_hooks() -> Any:
    return None if torch.compiler.is_compiling() else saved_tensor_hooks()


class Result(NamedTuple):
    """What was computed for a layer, and from what.

    Args:
        weight_hat: the normalised weight.
        after: the buffers after a use.
        tensors: the weight, and the buffers before.
        versions: of these tensors.
        training: whether u and v were iterated.
        forward: the one that it was computed for.
    """

    weight_hat: Tensor
    after: tuple[Tensor, ...]
    tensors: Tensors
    versions: tuple[int, ...]
    training: bool
    forward: Forward

    def holds(self, tensors: Tensors, training: bool) -> bool:
        """Whether computing it now would give the same."""
        return (
            all(map(is_, self.tensors, tensors))
            and self.training == training
            and self.versions == versions_of(tensors)
            and self.forward.covers_now()
        )


class Slot:
    """One layer's results in the forwards that are running.

    Args:
        owner: the group.
    """

    def __init__(self, owner: Any):
        self.owner: weakref.ref | None = weakref.ref(owner)
        self.pending: dict[int, Result] = {}  # by thread: computed for its forward, and not used yet
        self.used: dict[int, Result] = {}  # in training mode, so that buffers are to be written

    def take(self, tensors: Tensors, training: bool) -> Tensor | None:
        """The normalised weight, once; None where there is none, or an outdated one: the layer computes it itself."""
        thread = this_thread()
        used = self.used.pop(thread, None)
        if used is not None:
            # A second use starts from what the first one left.
            write_buffers([used])
        result = self.pending.pop(thread, None)
        if result is None or not result.holds(tensors, training):
            return None
        if training:
            self.used[thread] = result
        return result.weight_hat if torch.is_grad_enabled() else result.weight_hat.detach()

    def __getstate__(self) -> dict[str, Any]:
        # A copy belongs to the copy of the group, if that is copied too (see `_Group.__setstate__`), and to no forward.
        return {"owner": None, "pending": {}, "used": {}}


@torch.no_grad()
def write_buffers(used: list[Result]) -> None:
    """Leave the buffers as the use of these layers leaves them."""
    torch._foreach_copy_([t for r in used for t in r.tensors[1:]], [t for r in used for t in r.after])


def this_thread() -> int:
    """By what a slot tells threads apart; a compiler, which cannot trace that, counts as a thread of its own."""
    return 0 if torch.compiler.is_compiling() else threading.get_ident()


def versions_of(tensors: Tensors) -> tuple[int, ...]:
    """How often each was changed in place."""
    if torch.compiler.is_compiling():
        return ()
    try:
        return tuple([t._version for t in tensors])
    except RuntimeError:
        # Tensors made in inference mode count no versions.
        return ()
