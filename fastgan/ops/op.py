"""An op, registered with torch once: called eagerly, traced, transformed by torch.func, differentiated to any order.

In eager mode an autograd.Function calls the backend: it is faster than a registered op. Where something traces,
`torch.ops.fastgan.<name>` is called. torch.func takes a Function in a form that torch takes longer to call.

`Op` makes all of these from a few functions. An op that needs another way of its own calls `op.run` and `op.traced`
itself, and has Functions of its own.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch._C import _get_tracing_state
from torch._C._dynamo.eval_frame import get_eval_frame_callback
from torch._ops import OpOverload
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.overrides import handle_torch_function, has_torch_function
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

_DECOMPOSITIONS: dict[OpOverload, Callable] = {}


class Op:
    """What computes an op, in the ways that torch may ask for it. Its tensors are its first arguments.

    Args:
        schema: as of `torch.library.define`, with the name: "name(Tensor x, ...) -> Tensor".
        run: the op on a backend, for tensors of any strides; tracers do not look inside.
        fake: an empty result.
        plain: the op in torch's own operations.
        keep: keep(ctx, inputs, output) saves what `gradient` needs. None: the op has no derivative of its own.
        gradient: gradient(ctx, wanted, dy) returns the gradients of the first inputs, None for those not wanted; made
            of ops and, where gradients are enabled, of what can be differentiated again.
        vmap: the rule of `torch.autograd.Function.vmap`. None: torch.func gets `plain`.
        needed_now: `wanted` are the gradients that the running backward needs, and not those that any could.
    """

    def __init__(
        self,
        schema: str,
        run: Callable,
        fake: Callable,
        plain: Callable,
        keep: Callable | None = None,
        gradient: Callable | None = None,
        vmap: Callable | None = None,
        needed_now: bool = False,
    ) -> None:
        self.name, _, rest = schema.partition("(")
        self.tensors = rest[: rest.index(")")].count("Tensor")
        self.run, self.plain = untraced(run), plain
        self.vmapped, self.needed_now = vmap is not None, needed_now
        qualified = f"fastgan::{self.name}"
        torch.library.define(qualified, f"({rest}")
        torch.library.impl(qualified, "default", self.run)
        torch.library.register_fake(qualified, fake)
        self.registered = getattr(torch.ops.fastgan, self.name)
        _DECOMPOSITIONS[self.registered.default] = plain
        self.inputs = len(self.registered.default._schema.arguments)
        self.function = self.transformed = None
        if keep is not None:
            self.function, self.transformed = _functions(self, keep, gradient, vmap)
            torch.library.register_autograd(qualified, _backward(self, gradient), setup_context=_setup(keep))

    def __call__(self, *args: Any) -> Any:
        """The op, for arguments that were checked."""
        way = _way_of(args[: self.tensors])
        if way is _PLAIN or (way is _DIFFERENTIATED and self.function is None):
            return self.run(*args)
        if way is _DIFFERENTIATED:
            if self.needed_now:
                args = (*map(as_non_leaf, args[: self.tensors]), *args[self.tensors :])
            return self.function.apply(*args)
        if way is _TRACED:
            return self.traced(*args)
        if self.vmapped:
            return self.transformed.apply(*args)
        refuse_forward_mode(self.name)
        return self.plain(*args)

    def traced(self, *args: Any) -> Any:
        """The registered op. In torch.jit.trace the plain form: a trace is loaded where there may be no fastgan."""
        refuse_forward_mode(self.name)
        return (self.registered if is_compiling() or _get_tracing_state() is None else self.plain)(*args)


def _setup(keep: Callable) -> Callable:
    def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
        ctx.set_materialize_grads(False)
        keep(ctx, inputs, output)

    return setup_context


def _needed_ever(ctx: Any) -> Sequence[bool]:
    return ctx.needs_input_grad


def _backward(op: Op, gradient: Callable, wanted: Callable = _needed_ever) -> Callable:
    def backward(ctx: Any, dy: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * op.inputs
        gradients = gradient(ctx, wanted(ctx), dy)
        return *gradients, *(None,) * (op.inputs - len(gradients))

    return backward


def _functions(op: Op, keep: Callable, gradient: Callable, vmap_rule: Callable | None) -> tuple[type, type]:
    """The Function of eager mode and that of torch.func."""
    eager = _backward(op, gradient, _needed_now if op.needed_now else _needed_ever)
    transformed_backward = _backward(op, gradient)

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            output = op.run(*args)
            ctx.set_materialize_grads(False)
            if op.needed_now:
                ctx.given = [t is not None for t in args[: op.tensors]]
            keep(ctx, args, output)
            return output

        backward = staticmethod(eager)

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> None:
            raise_no_forward_mode(op.name)

    class Transformed(Function):
        @staticmethod
        def forward(*args: Any) -> Any:
            return op.run(*args)

        setup_context = staticmethod(_setup(keep))
        vmap = staticmethod(vmap_rule)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
            with torch.enable_grad():  # the plain formula, whose tensors may be transformed
                return transformed_backward(ctx, *grads)

    for function in (Function, Transformed):
        function.__name__ = function.__qualname__ = "".join(word.title() for word in op.name.split("_"))
    return Function, Transformed


# --- what a call is for ---

_TENSORS = frozenset({Tensor, torch.nn.Parameter})
_PLAIN, _DIFFERENTIATED, _TRANSFORMED, _TRACED = range(4)


def _way_of(tensors: Sequence[Tensor | None]) -> int:
    # Every op passes through this: a loop, since a generator takes longer.
    if is_compiling() or is_in_torch_dispatch_mode() or _get_tracing_state() is not None:
        return _TRACED
    differentiated, enabled = forward_ad._current_level >= 0, torch.is_grad_enabled()
    for tensor in tensors:
        if tensor is not None:
            if type(tensor) not in _TENSORS or tensor.is_meta:
                return _TRACED
            if enabled and tensor.requires_grad:
                differentiated = True
    if torch._C._are_functorch_transforms_active():
        return _TRANSFORMED
    return _DIFFERENTIATED if differentiated else _PLAIN


def is_traced(*tensors: Tensor | None) -> bool:
    """Whether the op is to be seen: by a compiler, a dispatch mode, torch.jit.trace, a tensor subclass.

    Or it is to have no values: on the meta device a registered op has a shape.
    """
    return _way_of(tensors) is _TRACED


def is_differentiated(*tensors: Tensor | None) -> bool:
    """Whether an autograd.Function is needed: to call one may take longer than to call the kernel."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                return True
    return forward_ad._current_level >= 0


def is_plain(*tensors: Tensor | None) -> bool:
    """Whether a backend may be called as it is: nothing traces, transforms or differentiates."""
    return _way_of(tensors) is _PLAIN


def untraced(function: Callable) -> Callable:
    """Dynamo must not look inside a backend: it would drop a tensor as soon as its address was read.

    To go through `torch.compiler.disable` takes as long as a small kernel, and the first time it imports Dynamo: it is
    left out where Dynamo does not run.
    """
    disabled = torch._disable_dynamo(function)

    @wraps(function)
    def run(*args: Any) -> Any:
        if is_compiling() or get_eval_frame_callback() is not None:
            return disabled(*args)
        return function(*args)

    return run


def refuse_forward_mode(op: str) -> None:
    """Raise where forward-mode derivatives are taken: a registered op has no rule, and torch takes that for zero."""
    if forward_ad._current_level >= 0:
        raise_no_forward_mode(op)


def raise_no_forward_mode(op: str) -> None:
    """What an op's autograd.Function does in its `jvp`."""
    raise NotImplementedError(f"fastgan {op}: forward-mode derivatives are not supported; use reverse mode")


def overridable(function: Callable) -> Callable:
    """Offer every call to the active `TorchFunctionMode`s and to tensor subclasses first, by `__torch_function__`.

    So gradient penalties see one operation with a known rule, not the autograd.Function inside it.
    """

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        arguments = (*args, *kwargs.values()) if kwargs else args
        if has_torch_function(arguments):
            return handle_torch_function(call, arguments, *args, **kwargs)
        return function(*args, **kwargs)

    # Code of its own: torch.compile counts how often it has compiled the same code, and gives up.
    call.__code__ = call.__code__.replace(co_name=function.__name__)
    return call


# --- gradients that are needed ---


def as_non_leaf(tensor: Tensor | None) -> Tensor | None:
    """The tensor as the output of a node of the graph, for `gradients_needed_now`: a leaf has none."""
    if tensor is None or not (tensor.requires_grad and tensor.is_leaf):
        return tensor
    return tensor.view_as(tensor)


def gradients_needed_now(ctx: Any) -> list[bool]:
    """Which tensors given to an autograd.Function the running backward needs a gradient of.

    `ctx.needs_input_grad` says which ever could: under `autograd.grad(y, x)` that is all of them.
    """
    if torch._C._current_graph_task_id() == -1:  # the caller calls the node by hand
        return [node is not None for node, _ in ctx.next_functions]
    return [node is not None and torch._C._will_engine_execute_node(node) for node, _ in ctx.next_functions]


def _needed_now(ctx: Any) -> Sequence[bool]:
    needed = iter(gradients_needed_now(ctx))
    return [given and next(needed) for given in ctx.given]


# --- plain forms ---


def decompositions() -> dict[OpOverload, Callable]:
    """A new table of every registered op and its plain form.

    For `exported_program.run_decompositions(table)` and, through that, `torch.onnx.export`.
    """
    return dict(_DECOMPOSITIONS)
