"""What writes the tape of a forward, while that runs."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

from fastgan.intercept import Call, canonical, replaced, tensors_in, user_line
from fastgan.intercept.convolutions import run_for_double_backward
from fastgan.penalty.marks import Marks
from fastgan.penalty.tape import (
    Activation,
    OpaqueError,
    Operation,
    RefusedError,
    Rule,
    Tape,
    ancestors,
    check_versions,
    versions_of,
)

# Ways to put a hook on an activation: through its node in the graph, too.
_HOOKS = {Tensor.register_hook, Tensor.grad_fn.__get__}


class TapeRecorder(TorchFunctionMode):
    """While it is active, everything that happens to `x` goes on the tape. No result is altered, no call repeated.

    What it does not take, the head, runs so that it can be differentiated twice.

    Args:
        x: the input [N, ...], a leaf that requires grad.
        rules: by canonical name of the operation.
    """

    def __init__(self, x: Tensor, rules: Mapping[str, Rule]):
        super().__init__()
        self.tape = Tape(len(x), {x.dtype})
        self.reasons: dict[str, None] = {}  # what runs in another form than torch would choose
        self._rules, self._marks = rules, Marks(x)
        self._device = x.device.type
        self._autocast = _autocast(self._device)
        self._activations, self._opaque = 0, False
        self._head: dict[int, Tensor] = {}  # activations that operations beside the tape have taken
        self._add_activation(x)

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}

        def run() -> Any:
            return run_for_double_backward(function, args, kwargs, self.reasons)

        if function in _HOOKS and self._marks.of(args[0]) is not None:
            self._refuse(OpaqueError("a hook on an activation may alter gradients"))
        if self.tape.refusal:
            return self._beside_tape(run(), args, kwargs)
        try:
            call, actual = self._calls(function, args, kwargs)
            rule = self._rules.get(call.name) if call else None
            out, pattern = rule.record(call, actual, run) if rule else (run(), None)
        except RefusedError as refused:
            self._refuse(refused)
            return self._beside_tape(run(), args, kwargs)
        if call is not None:
            try:
                self._note(call, actual, rule, out, pattern)
            except RefusedError as refused:
                self._refuse(refused)
                self._beside_tape(out, args, kwargs)
        return out

    def finish(self, logits: Tensor) -> Tape:
        """The tape that ends with `logits`."""
        try:
            if not self.tape.refusal:
                self._end_at(logits)
        except RefusedError as refused:
            self.tape.refusal = str(refused)
        if self.tape.refusal:
            self._keep_trunk()
        return self.tape

    # --- one call ---

    def _calls(self, function: Callable, args: tuple, kwargs: dict[str, Any]) -> tuple[Call | None, Call | None]:
        """A call that takes an activation, with `Activation`s and with tensors; None for any other."""
        tensors = list(tensors_in((args, kwargs)))
        if all(self._marks.of(tensor) is None for tensor in tensors):
            return None, None
        actual = canonical(function, args, kwargs)
        return Call(actual.name, function, *replaced((actual.args, actual.kwargs), self._placeholder)), actual

    def _placeholder(self, tensor: Tensor) -> Tensor | Activation:
        index = self._marks.index(tensor)
        return tensor if index is None else Activation(index)

    def _note(self, call: Call, actual: Call, rule: Rule | None, out: Any, pattern: Any) -> None:
        """Write a call on the tape that has run."""
        # `x[i] = y` returns nothing.
        outputs = [actual.args[0]] if call.name == "setitem" else list(tensors_in(out))
        if not any(tensor.requires_grad for tensor in outputs):
            return
        _check_is_linear(call, rule, pattern)
        self._check_obstacles(actual)
        constants = list(tensors_in((call.args, call.kwargs)))
        if self._is_argument(call, outputs, constants):
            return
        if any(tensor.ndim == 0 or len(tensor) != self.tape.batch for tensor in outputs):
            self._lose_samples(call, actual, out, outputs)
            return
        edge = get_gradient_edge(outputs[0]) if any(tensor.requires_grad for tensor in constants) else None
        indices = tuple(self._add_activation(tensor) if tensor.requires_grad else None for tensor in outputs)
        versions, autocast = versions_of(call, pattern), _autocast(self._device)
        self.tape.operations.append(
            Operation(
                call, rule, indices, pattern, versions, edge, user_line(),
                None if autocast == self._autocast else autocast,
            )
        )  # fmt: skip

    def _check_obstacles(self, actual: Call) -> None:
        for tensor in tensors_in((actual.args, actual.kwargs)):
            if (mark := self._marks.of(tensor)) and mark.obstacle:
                raise RefusedError(mark.obstacle)

    def _is_argument(self, call: Call, outputs: list[Tensor], constants: list[Tensor]) -> bool:
        """Whether the call returned an activation as it was, as dropout does in evaluation; refuses other changes."""
        for tensor in outputs:
            if any(tensor is constant for constant in constants):
                raise RefusedError(f"{call.name} changes a constant in place")
            mark = self._marks.of(tensor)
            if mark is None:
                continue
            if mark.version == tensor._version:
                return True
            if tensor._is_view():
                raise RefusedError(f"{call.name} changes a view of another activation in place")
        return False

    def _lose_samples(self, call: Call, actual: Call, out: Any, outputs: list[Tensor]) -> None:
        """Mark what is no longer one of every sample: nothing is lost while it is only looked at, as a statistic is."""
        obstacle = (
            f"{call.name} gives {list(outputs[0].shape)} from a batch of {self.tape.batch}: "
            f"dimension 0 is no longer that of the samples ({user_line()})"
        )
        self._beside_tape(out, actual.args, actual.kwargs)
        for tensor in outputs:
            self._marks.put(tensor, -1, obstacle)

    def _add_activation(self, tensor: Tensor) -> int:
        index = self._activations
        self._activations += 1
        self.tape.dtypes.add(tensor.dtype)
        self._marks.put(tensor, index)
        return index

    # --- where the tape ends ---

    def _beside_tape(self, out: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Note what an operation takes that does not go on the tape; returns its result."""
        if any(tensor.requires_grad for tensor in tensors_in(out)):
            for tensor in tensors_in((args, kwargs)):
                if (mark := self._marks.of(tensor)) is not None and not mark.obstacle:
                    self._head[mark.index] = tensor
        return out

    def _refuse(self, refused: RefusedError) -> None:
        reason = str(refused)
        self._opaque |= isinstance(refused, OpaqueError)
        self.tape.refusal = reason if reason.endswith(")") else f"{reason} ({user_line()})"

    def _end_at(self, logits: Tensor) -> None:
        index = self._marks.index(logits)
        if index is None:
            raise RefusedError("the logits do not depend on the input")
        if obstacle := self._marks.of(logits).obstacle:
            raise RefusedError(obstacle)
        self.tape.ends = {index: logits}
        check_versions(self.tape.operations)

    def _keep_trunk(self) -> None:
        """Cut the tape where the head begins; if it cannot be cut there, nothing remains of it."""
        ends = set(self._head)
        # Of two activations of which one leads to the other, the head begins with the first.
        ends -= {i for i in ends if ends & ancestors([i], self.tape.operations)}
        needed = ends | ancestors(ends, self.tape.operations)
        trunk = [operation for operation in self.tape.operations if needed & {*operation.outputs}]
        unchanged = all(self._head[i]._version == self._marks.of(self._head[i]).version for i in ends)
        try:
            check_versions(trunk)
        except RefusedError:
            unchanged = False
        if unchanged and not self._opaque and any(operation.edge for operation in trunk):
            self.tape.operations, self.tape.ends = trunk, {i: self._head[i] for i in ends}
        else:
            self.tape.operations = []


def _check_is_linear(call: Call, rule: Rule | None, pattern: Any) -> None:
    if rule is None:
        raise RefusedError(f"{call.name} is not known to be piecewise linear")
    if isinstance(pattern, RefusedError):
        raise pattern


def _autocast(device: str) -> tuple[str, torch.dtype, bool]:
    return device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
