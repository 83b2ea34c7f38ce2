"""Replaying a tape: the forward as the affine map that it is while its activation pattern is frozen.

With the constants of sample n scaled by c_n, the replay of x~ is the linear part of the forward at x~ plus c_n times
its constant part. So the replay of c * x + v is c_n * o_n + <v_n, g_n>, with o the logits and g their input gradients.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastgan.penalty.tape import Activation, Operation, Tape, activations_in, tensors_in


class Weighted(NamedTuple):
    """The output of an operation that takes a tensor that requires grad, connected to that tensor and nothing else."""

    operation: Operation
    output: Tensor


class Replay:
    """One replay.

    Args:
        tape: of the forward.
        scale: c [N], by which the constants of each sample are scaled; None for 0.
        watch: (operation, value of an activation) -> the value to go on with.
    """

    def __init__(self, tape: Tape, scale: Tensor | None, watch: Callable[[Operation, Tensor], Tensor] = lambda _, y: y):
        self.tape, self.scale, self.watch = tape, scale, watch
        self._values: dict[int, Tensor] = {}

    def run(self, x: Tensor) -> tuple[list[Tensor], list[Weighted]]:
        """The tape's ends for `x` [N, ...], and what depends on tensors that require grad."""
        weighted = []
        uses = Counter(index for operation in self.tape.operations for index in _indices(operation))
        uses.update(self.tape.ends)
        self._values[0] = x
        for operation in self.tape.operations:
            autocast = torch.autocast(*operation.autocast) if operation.autocast else nullcontext()
            with torch.set_grad_enabled(operation.edge is not None), autocast:
                results = list(tensors_in(operation.rule.replay(operation, self)))
            if operation.edge is not None and results[0].requires_grad:
                weighted.append(Weighted(operation, results[0]))
            for index, result in zip(operation.outputs, results, strict=False):
                if index is not None:
                    self._values[index] = self.watch(operation, result.detach())
            for index in _indices(operation):
                uses[index] -= 1
                if not uses[index]:
                    del self._values[index]
        return [self._values[index] for index in self.tape.ends], weighted

    def activation(self, argument: Activation) -> Tensor:
        """Its value in this replay."""
        return self._values[argument.index]

    def arguments(self, value: Any) -> Any:
        """Nested arguments with the values of their activations; constants are left alone."""
        if isinstance(value, Activation):
            return self.activation(value)
        if isinstance(value, torch.Size):
            return value
        if isinstance(value, tuple | list):
            return type(value)(self.arguments(item) for item in value)
        if isinstance(value, dict):
            return {key: self.arguments(item) for key, item in value.items()}
        return value

    def constant(self, value: Any, like: Tensor) -> Tensor | float:
        """A constant that meets the activation `like`, scaled; it broadcasts against it as the constant does."""
        if self.scale is None:
            return torch.zeros_like(value) if isinstance(value, Tensor) else 0.0
        dtype = value.dtype if isinstance(value, Tensor) else like.dtype
        scale = self.scale.to(device=like.device, dtype=dtype).view(-1, *[1] * (like.ndim - 1))
        return scale * value

    def term(self, argument: Any, like: Tensor) -> Tensor | float | None:
        """An argument of a sum: an activation, a scaled constant, or None for zero."""
        if isinstance(argument, Activation):
            return self.activation(argument)
        if self.scale is None or (isinstance(argument, int | float) and argument == 0):
            return None
        return self.constant(argument, like)


def _indices(operation: Operation) -> list[int]:
    return [item.index for item in activations_in((operation.call.args, operation.call.kwargs))]
