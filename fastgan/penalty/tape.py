"""The tape of one forward: which operations led from the input to the logits, and what each needs to be repeated.

A tensor is an activation if a gradient flows from it to the input. All else that an operation takes (weights, labels,
detached activations, the results of comparisons) is a constant of this forward, whether it requires grad or not.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from fastgan.intercept import Call, canonical, replaced, tensors_in, user_line
from fastgan.intercept.convolutions import run_for_double_backward


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


class _Mark(NamedTuple):
    """Left on an activation's tensor: its index in a recording, the version of its memory, why it must not be used."""

    recording: int
    index: int
    version: int
    obstacle: str


# Ways to put a hook on an activation: through its node in the graph, too.
_HOOKS = {Tensor.register_hook, Tensor.grad_fn.__get__}


class TapeRecorder(TorchFunctionMode):
    """While it is active, everything that happens to `x` goes on the tape. No result is altered, no call repeated.

    What it does not take, the head, runs so that it can be differentiated twice.

    Args:
        x: the input [N, ...], a leaf that requires grad.
        rules: by canonical name of the operation.
    """

    _numbers = itertools.count()

    def __init__(self, x: Tensor, rules: Mapping[str, Rule]):
        super().__init__()
        self.tape = Tape(len(x), {x.dtype})
        self._rules = rules
        self._number = next(self._numbers)
        self._x_node = get_gradient_edge(x).node
        self._device = x.device.type
        self._autocast = _autocast(self._device)
        self._independent: set[Any] = set()  # nodes of the graph that do not lead to x
        self._activations, self._opaque = 0, False
        self._head: dict[int, Tensor] = {}  # activations that operations beside the tape have taken
        self.reasons: dict[str, None] = {}  # what runs in another form than torch would choose
        self._new(x)

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        """Run the call, and note it."""
        kwargs = kwargs or {}

        def run() -> Any:
            return run_for_double_backward(function, args, kwargs, self.reasons)

        if function in _HOOKS and self._marked(args[0]) is not None:
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

    def _end_at(self, logits: Tensor) -> None:
        index = self._index(logits)
        if index is None:
            raise RefusedError("the logits do not depend on the input")
        if obstacle := self._marked(logits).obstacle:
            raise RefusedError(obstacle)
        self.tape.ends = {index: logits}
        check_versions(self.tape.operations)

    def _keep_trunk(self) -> None:
        """Cut the tape where the head begins; if it cannot be cut there, nothing remains of it."""
        ends = set(self._head)
        # Of two activations of which one leads to the other, the head begins with the first.
        ends -= {i for i in ends if ends & _ancestors([i], self.tape.operations)}
        needed = ends | _ancestors(ends, self.tape.operations)
        trunk = [operation for operation in self.tape.operations if needed & {*operation.outputs}]
        unchanged = all(self._head[i]._version == self._marked(self._head[i]).version for i in ends)
        try:
            check_versions(trunk)
        except RefusedError:
            unchanged = False
        if unchanged and not self._opaque and any(operation.edge for operation in trunk):
            self.tape.operations, self.tape.ends = trunk, {i: self._head[i] for i in ends}
        else:
            self.tape.operations = []

    def _beside_tape(self, out: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Note what an operation takes that does not go on the tape; returns its result."""
        if any(tensor.requires_grad for tensor in tensors_in(out)):
            for tensor in tensors_in((args, kwargs)):
                if (mark := self._marked(tensor)) is not None and not mark.obstacle:
                    self._head[mark.index] = tensor
        return out

    def _refuse(self, refused: RefusedError) -> None:
        reason = str(refused)
        self._opaque |= isinstance(refused, OpaqueError)
        self.tape.refusal = reason if reason.endswith(")") else f"{reason} ({user_line()})"

    def _calls(self, function: Callable, args: tuple, kwargs: dict[str, Any]) -> tuple[Call | None, Call | None]:
        """A call that takes an activation, with `Activation`s and with tensors; None for any other."""
        tensors = list(tensors_in((args, kwargs)))
        if all(self._marked(tensor) is None for tensor in tensors):
            return None, None
        actual = canonical(function, args, kwargs)
        return Call(actual.name, function, *replaced((actual.args, actual.kwargs), self._placeholder)), actual

    def _note(self, call: Call, actual: Call, rule: Rule | None, out: Any, pattern: Any) -> None:
        # `x[i] = y` returns nothing.
        outputs = [actual.args[0]] if call.name == "setitem" else list(tensors_in(out))
        if not any(tensor.requires_grad for tensor in outputs):
            return
        if rule is None:
            raise RefusedError(f"{call.name} is not known to be piecewise linear")
        if isinstance(pattern, RefusedError):
            raise pattern
        for tensor in tensors_in((actual.args, actual.kwargs)):
            if (mark := self._marked(tensor)) and mark.obstacle:
                raise RefusedError(mark.obstacle)
        constants = list(tensors_in((call.args, call.kwargs)))
        for tensor in outputs:
            if any(tensor is constant for constant in constants):
                raise RefusedError(f"{call.name} changes a constant in place")
            if (mark := self._marked(tensor)) is not None:
                if mark.version == tensor._version:
                    return  # it returned its argument, as dropout does in evaluation
                if tensor._is_view():
                    raise RefusedError(f"{call.name} changes a view of another activation in place")
        if any(tensor.ndim == 0 or len(tensor) != self.tape.batch for tensor in outputs):
            # Nothing is lost while it is only looked at, as a statistic is.
            obstacle = (
                f"{call.name} gives {list(outputs[0].shape)} from a batch of {self.tape.batch}: "
                f"dimension 0 is no longer that of the samples ({user_line()})"
            )
            self._beside_tape(out, actual.args, actual.kwargs)
            for tensor in outputs:
                self._mark(tensor, -1, obstacle)
            return
        edge = get_gradient_edge(outputs[0]) if any(tensor.requires_grad for tensor in constants) else None
        indices = tuple(self._new(tensor) if tensor.requires_grad else None for tensor in outputs)
        versions, autocast = _versions(call, pattern), _autocast(self._device)
        self.tape.operations.append(
            Operation(
                call, rule, indices, pattern, versions, edge, user_line(),
                None if autocast == self._autocast else autocast,
            )
        )  # fmt: skip

    def _new(self, tensor: Tensor) -> int:
        index = self._activations
        self._activations += 1
        self.tape.dtypes.add(tensor.dtype)
        self._mark(tensor, index)
        return index

    def _mark(self, tensor: Tensor, index: int, obstacle: str = "") -> None:
        tensor._fastgan_mark = _Mark(self._number, index, tensor._version, obstacle)

    def _marked(self, tensor: Tensor) -> _Mark | None:
        mark = getattr(tensor, "_fastgan_mark", None)
        return mark if mark is not None and mark.recording == self._number else None

    def _placeholder(self, tensor: Tensor) -> Tensor | Activation:
        index = self._index(tensor)
        return tensor if index is None else Activation(index)

    def _index(self, tensor: Tensor) -> int | None:
        """Which activation a tensor is; None for a constant."""
        mark = self._marked(tensor)
        if mark is None:
            if tensor.requires_grad and self._leads_to_x(tensor.grad_fn):
                raise RefusedError(f"an activation comes out of {_culprit(tensor)}, whose inside cannot be seen")
            return None
        if mark.version != tensor._version:
            raise RefusedError("an activation was changed in place through another tensor that shares its memory")
        return mark.index

    def _leads_to_x(self, node: Any) -> bool:
        seen, stack = set(), [node]
        while stack:
            node = stack.pop()
            if node is self._x_node:
                return True
            if node is None or node in seen or node in self._independent:
                continue
            seen.add(node)
            stack += [following for following, _ in node.next_functions]
        self._independent |= seen
        return False


def _autocast(device: str) -> tuple[str, torch.dtype, bool]:
    return device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)


def _ancestors(indices: Iterable[int], operations: list[Operation]) -> set[int]:
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
        if operation.versions != _versions(operation.call, operation.pattern):
            raise RefusedError(f"what {operation.call.name} took or gave is changed in place later ({operation.line})")


def _versions(call: Call, pattern: Any) -> tuple[int, ...]:
    return tuple(_version(tensor) for tensor in tensors_in((call.args, call.kwargs, pattern)))


def _version(tensor: Tensor) -> int:
    # Tensors made in inference mode count no versions.
    return 0 if tensor.is_inference() else tensor._version


def _culprit(tensor: Tensor) -> str:
    """The first autograd.Function behind a tensor, which cannot be intercepted; else the tensor's last step."""
    stack, seen = [tensor.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            return node.name()
        seen.add(node)
        stack += [following for following, _ in node.next_functions]
    return tensor.grad_fn.name()


def activations_in(value: Any) -> list[Activation]:
    """Every `Activation` in nested arguments."""
    if isinstance(value, Activation):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [found for item in value for found in activations_in(item)] if isinstance(value, tuple | list) else []
