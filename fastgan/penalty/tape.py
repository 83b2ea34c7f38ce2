"""The tape of one forward: which operations led from the input to the logits, and what each needs to be repeated.

A tensor is an activation if a gradient flows from it to the input. All else that an operation takes (weights, labels,
detached activations, the results of comparisons) is a constant of this forward, whether it requires grad or not.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from fastgan.intercept import Call, tensors_in


class RefusedError(Exception):
    """The forward breaks a premise of the linearized engine; the message says which."""


class OpaqueError(RefusedError):
    """So that nothing of it can be linearized, not even what came before."""


class Activation(NamedTuple):
    """Stands for an activation among the arguments of a recorded call."""

    index: int


class Rule(NamedTuple):
    """How an operation is recorded and replayed.

    Args:
        replay: (operation, activations and constants) -> what the operation makes of them, its pattern frozen; see
            `fastgan.penalty.replay`.
        record: (call, with `Activation`s; the same with tensors; run) -> (run(), what to keep of the forward). It may
            raise `RefusedError` before it has called `run`; afterwards it returns the exception as what to keep.
    """

    replay: Callable
    record: Callable[[Call, Call, Callable[[], Any]], tuple[Any, Any]] = lambda call, actual, run: (run(), None)


@dataclass(frozen=True)
class Operation:
    """One call on the tape.

    Args:
        call: the call, with an `Activation` for every activation among its arguments.
        rule: how it is replayed.
        outputs: the indices of the activations that it made; None for an output that is a constant.
        pattern: what the rule kept of the forward.
        versions: of the tensors in `call` and `pattern`, which must be at the replay what they were here.
        edge: where the gradient of the output arrives, for an operation that takes a tensor that requires grad.
        line: the user's line.
        autocast: the arguments of the `torch.autocast` that held for it; None if it was that around the whole forward.
    """

    call: Call
    rule: Rule
    outputs: tuple[int | None, ...]
    pattern: Any
    versions: tuple[int, ...]
    edge: GradientEdge | None
    line: str
    autocast: tuple[str, torch.dtype, bool] | None


@dataclass
class Tape:
    """The operations from activation 0, the input, to the `ends`.

    Without a `refusal`, the one end is the logits. With one, the operations are the *trunk* of the critic: the ends are
    the activations that what was refused begins with, the *head*. There may be no trunk either, and no operations.
    """

    batch: int
    dtypes: set[torch.dtype]  # of activations
    operations: list[Operation] = field(default_factory=list)
    ends: dict[int, Tensor] = field(default_factory=dict)
    refusal: str = ""


def ancestors(indices: Iterable[int], operations: list[Operation]) -> set[int]:
    """The activations that lead to these, without these."""
    found: set[int] = set()
    wanted = set(indices)
    for operation in reversed(operations):
        if wanted & {*operation.outputs}:
            parents = {item.index for item in activations_in((operation.call.args, operation.call.kwargs))}
            found |= parents
            wanted |= parents
    return found


def check_versions(operations: list[Operation]) -> None:
    """Refuse operations of which a tensor is not what it was when they ran."""
    for operation in operations:
        if operation.versions != versions_of(operation.call, operation.pattern):
            raise RefusedError(f"what {operation.call.name} took or gave is changed in place later ({operation.line})")


def versions_of(call: Call, pattern: Any) -> tuple[int, ...]:
    """Of the tensors in a call and a pattern, how often each was changed in place."""
    return tuple(_version(tensor) for tensor in tensors_in((call.args, call.kwargs, pattern)))


def _version(tensor: Tensor) -> int:
    # Tensors made in inference mode count no versions.
    return 0 if tensor.is_inference() else tensor._version


def activations_in(value: Any) -> list[Activation]:
    """Every `Activation` in nested arguments."""
    if isinstance(value, Activation):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [found for item in value for found in activations_in(item)] if isinstance(value, tuple | list) else []
