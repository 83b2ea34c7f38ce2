"""Operations that are affine piece by piece: slopes and choices are the forward's, as torch's backward has them."""

import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.utils import checkpoint

from fastgan.intercept import Call
from fastgan.penalty.replay import Replay
from fastgan.penalty.rules.table import Run, check_activations, check_one_activation, no_live_constants, rule
from fastgan.penalty.tape import Activation, OpaqueError, Operation, RefusedError, Rule

RULES: dict[str, Rule] = {}

# --- one slope per element: h -> s * h is torch's own backward, at ties and kinks too ---


def _slopes(actual: Call, run: Run) -> tuple[Any, Any]:
    """The result, and h -> s * h; None if the operation returned its argument."""
    _check_not_checkpointed(actual)
    x = actual.args[0] if actual.args else actual.kwargs["input"]
    before = get_gradient_edge(x)
    out = run()
    node = out.grad_fn
    if node is None or (out is x and node is before.node):
        return out, None
    following = node.next_functions
    if following and following[0] == (before.node, before.output_nr):
        # The graph's node itself: it is right for operations in place, and saves the engine's overhead.
        return out, lambda h: first(node(h))
    if out is x:
        return out, RefusedError("an operation in place is more than one step in the graph")
    return out, lambda h: torch.autograd.grad(out, x, h, retain_graph=True)[0]


def _check_not_checkpointed(call: Call) -> None:
    """Refuse what is inside a checkpoint: every use of its node would run all of that again."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == checkpoint.__file__:
            raise OpaqueError(f"{call.name} is inside a checkpoint")
        frame = frame.f_back


def first(result: Any) -> Tensor:
    """The first of a node's gradients."""
    return result[0] if isinstance(result, tuple) else result


def _record_homogeneous(call: Call, actual: Call, run: Run) -> tuple[Any, Any]:
    check_one_activation(call)
    no_live_constants(call)
    return _slopes(actual, run)


@rule(
    RULES,
    "relu leaky_relu rrelu abs hardshrink dropout dropout1d dropout2d dropout3d feature_dropout",
    _record_homogeneous,
)
def _homogeneous(op: Operation, at: Replay) -> Tensor:
    return op.pattern(_input(op, at))


def _input(op: Operation, at: Replay) -> Tensor:
    return at.activation(op.call.args[0] if op.call.args else op.call.kwargs["input"])


def affine(slope: Callable[[Tensor], Tensor], h: Tensor, result: Tensor, at: Replay) -> Tensor:
    """s * h + c * (y - s * x), for slopes s with s * x = s * y: the operation either passes x or gives a constant."""
    if at.scale is None:
        return slope(h)
    constant = at.constant(result, h)
    return constant + slope(h - constant)


def _record_clip(call: Call, actual: Call, run: Run) -> tuple[Any, Any]:
    check_one_activation(call)
    no_live_constants(call)
    out, slope = _slopes(actual, run)
    return out, slope if slope is None or isinstance(slope, RefusedError) else (slope, out.detach())


@rule(RULES, "hardtanh clamp clamp_min clamp_max threshold", _record_clip)
def _clip(op: Operation, at: Replay) -> Tensor:
    slope, result = op.pattern
    return affine(slope, _input(op, at), result, at)


def _record_prelu(call: Call, actual: Call, run: Run) -> tuple[Any, Any]:
    check_activations(call, "input")
    return run(), actual.named()["input"].detach() > 0


@rule(RULES, "prelu", _record_prelu)
def _prelu(op: Operation, at: Replay) -> Tensor:
    x, weight = at.activation(op.call.named()["input"]), op.call.named()["weight"]
    if weight.numel() > 1:
        weight = weight.view(-1, *[1] * (x.ndim - 2))
    return torch.where(op.pattern, x, weight * x)


# --- a choice among elements ---


def _record_extremum_of_two(call: Call, actual: Call, run: Run) -> tuple[Any, Any]:
    no_live_constants(call)
    _check_not_checkpointed(call)
    out = run()
    return out, (out.grad_fn, out.detach())


@rule(RULES, "maximum minimum", _record_extremum_of_two)
def _extremum_of_two(op: Operation, at: Replay) -> Tensor:
    node, result = op.pattern
    arguments = [op.call.named()[name] for name in ("input", "other")]
    shape = result.shape
    parts = [at.activation(a).expand(shape) if isinstance(a, Activation) else None for a in arguments]
    if None not in parts:
        return node(parts[0])[0] + node(parts[1])[1]
    side = parts.index(next(part for part in parts if part is not None))
    return affine(lambda h: node(h)[side], parts[side], result, at)


def _record_extremum(call: Call, actual: Call, run: Run) -> tuple[Any, Any]:
    out = run()
    # Over all dimensions it is a statistic, which the tape does not take.
    return out, out[1] if "dim" in call.named() else None


@rule(RULES, "max min", _record_extremum)
def _extremum(op: Operation, at: Replay) -> tuple[Tensor, None]:
    arguments = op.call.named()
    x, dim, keepdim = at.activation(arguments["input"]), arguments["dim"], arguments.get("keepdim", False)
    index = op.pattern if keepdim else op.pattern.unsqueeze(dim)
    chosen = x.gather(dim, index)
    return chosen if keepdim else chosen.squeeze(dim)


def _record_extremum_of_many(call: Call, actual: Call, run: Run) -> tuple[Any, Any]:
    out, arguments = run(), actual.named()
    if "dim" not in arguments:
        return out, None
    dim, x, y = arguments["dim"], arguments["input"].detach(), out.detach()
    if not arguments.get("keepdim", False):
        for d in sorted(d % x.ndim for d in ((dim,) if isinstance(dim, int) else dim)):
            y = y.unsqueeze(d)
    equal = x == y
    return out, (equal, equal.sum(dim, keepdim=True))


@rule(RULES, "amax amin", _record_extremum_of_many)
def _extremum_of_many(op: Operation, at: Replay) -> Tensor:
    arguments = op.call.named()
    equal, count = op.pattern
    # torch shares the gradient among equals.
    x = torch.where(equal, at.activation(arguments["input"]), 0) / count
    return x.sum(arguments["dim"], keepdim=arguments.get("keepdim", False))


def _record_max_pool(call: Call, actual: Call, run: Run) -> tuple[Any, Any]:
    arguments = actual.named()
    wanted = arguments.pop("return_indices", False)
    # The same kernel, which has computed the indices in any case.
    out = getattr(F, f"{actual.name}_with_indices")(**arguments)
    return (out if wanted else out[0]), out[1]


@rule(
    RULES,
    "max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d",
    _record_max_pool,
)
def _max_pool(op: Operation, at: Replay) -> Tensor:
    x, index = at.activation(op.call.named()["input"]), op.pattern
    space = int(op.call.name[-2])
    return x.flatten(-space).gather(-1, index.flatten(-space)).view(index.shape)
