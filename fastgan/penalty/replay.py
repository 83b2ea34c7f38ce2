"""Replaying a tape: the forward as the affine map that it is while its activation pattern is frozen.

With the constants of sample n scaled by c_n, the replay of x~ is the linear part of the forward at x~ plus c_n times
its constant part. So the replay of c * x + v is c_n * o_n + <v_n, g_n>, with o the logits and g their input gradients.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastgan.intercept import replaced, tensors_in
from fastgan.penalty.tape import Activation, Operation, Tape, activations_in


class Replay:
    """One replay.

    Args:
        tape: of the forward.
        scale: c [N], by which the constants of each sample are scaled; None for 0.
        deltas: by number of the operation on the tape, the gradient that arrives at its output in this replay. Each is
            used and dropped when its operation has run.
        watch: (operation, value of an activation) -> the value to go on with.
        instead: (operation, this) -> what to take for its result; None to have it computed.
    """

    def __init__(
        self,
        tape: Tape,
        scale: Tensor | None,
        deltas: dict[int, Tensor] | None = None,
        watch: Callable[[Operation, Tensor], Tensor] = lambda _, y: y,
        instead: Callable[[Operation, "Replay"], Tensor | None] = lambda _, replay: None,
    ):
        self.tape, self.scale, self.watch, self.instead = tape, scale, watch, instead
        self._deltas = {} if deltas is None else deltas
        self._values: dict[int, Tensor] = {}
        self._gradients: dict[int, tuple[Tensor, Tensor]] = {}  # by id of the tensor

    def run(self, x: Tensor) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        """The tape's ends for `x` [N, ...]; tensors that require grad, such as weights, with their gradients."""
        uses = Counter(index for operation in self.tape.operations for index in _indices(operation))
        uses.update(self.tape.ends)
        self._values[0] = x
        for number, operation in enumerate(self.tape.operations):
            delta, ends = self._deltas.pop(number, None), []
            if delta is not None:
                operation, ends = _cut_off(operation)
            autocast = torch.autocast(*operation.autocast) if operation.autocast else nullcontext()
            with torch.set_grad_enabled(delta is not None), autocast:
                other = self.instead(operation, self)
                results = list(tensors_in(operation.rule.replay(operation, self) if other is None else other))
            if delta is not None and results[0].requires_grad:
                self._differentiate(results[0], ends, delta)
            for index, result in zip(operation.outputs, results, strict=False):
                if index is not None:
                    self._values[index] = self.watch(operation, result.detach())
            for index in _indices(operation):
                uses[index] -= 1
                if not uses[index]:
                    del self._values[index]
        return [self._values[index] for index in self.tape.ends], list(self._gradients.values())

    def _differentiate(self, output: Tensor, ends: list[tuple[Tensor, Tensor]], delta: Tensor) -> None:
        live, leaves = zip(*ends, strict=True)
        for tensor, gradient in zip(live, torch.autograd.grad(output, leaves, delta, allow_unused=True), strict=True):
            if gradient is not None:
                _, before = self._gradients.get(id(tensor), (tensor, None))
                self._gradients[id(tensor)] = (tensor, gradient if before is None else before + gradient)

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


def _cut_off(operation: Operation) -> tuple[Operation, list[tuple[Tensor, Tensor]]]:
    """The operation on leaves, and pairs of every tensor that requires grad and its leaf.

    What made a tensor, and a user's hook on it, are for the backward, when the whole of its gradient has arrived.
    """
    leaves: dict[int, tuple[Tensor, Tensor]] = {}

    def leaf(tensor: Tensor) -> Tensor:
        if not tensor.requires_grad:
            return tensor
        if id(tensor) not in leaves:
            # Autocast knows a parameter that it has converted before.
            is_bare = tensor.is_leaf and not tensor._backward_hooks
            leaves[id(tensor)] = tensor, tensor if is_bare else tensor.detach().requires_grad_()
        return leaves[id(tensor)][1]

    args, kwargs = replaced((operation.call.args, operation.call.kwargs), leaf)
    call = operation.call._replace(args=args, kwargs=kwargs)
    return replace(operation, call=call), list(leaves.values())


def _indices(operation: Operation) -> list[int]:
    return [item.index for item in activations_in((operation.call.args, operation.call.kwargs))]
