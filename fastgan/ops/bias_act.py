"""Bias, activation, gain and clamp in one pass: y = clamp(gain f(x + b)), b [C] along one dimension.

    dx = dy gain f'(x + b), 0 where |y| >= clamp          db_c = sum of dx[:, c]

f' is taken from y where y determines it, so that x is not kept; y is what the following operation keeps anyway, a
packed mask of signs would be memory on top. Else it is taken from x and b. Where y may be changed in place, x and b are
kept and y is computed again. The gradient is an op whose own gradients are itself (with respect to dy) and a second
derivative kernel; beyond that it is the reference, plain torch: so every order is right. In eager mode
autograd.Functions call the backend; where something traces, `torch.ops.fastgan` is.
"""

from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastgan import backends, check
from fastgan.ops.activations import alpha_of, check_activation
from fastgan.ops.decompositions import register_decomposition, registered
from fastgan.ops.layout import dense, empty_dense, in_order_of
from fastgan.ops.samples import to_accumulation_dtype
from fastgan.ops.sum_channels import expand_channels, sum_channels
from fastgan.ops.tracing import is_differentiated, is_traced, raise_no_forward_mode, refuse_forward_mode, untraced
from fastgan.reference import bias_act as reference
from fastgan.reference.activations import FACTS

SPEC = "int dim, str act, float alpha, float gain, float? clamp"
torch.library.define("fastgan::bias_act", f"(Tensor x, Tensor? b, {SPEC}) -> Tensor")
torch.library.define(
    "fastgan::bias_act_gradient", f"(Tensor dy, Tensor? saved, Tensor? b, bool at_value, {SPEC}) -> Tensor"
)
torch.library.define(
    "fastgan::bias_act_second", f"(Tensor ddx, Tensor dy, Tensor saved, Tensor? b, bool at_value, {SPEC}) -> Tensor"
)


class Spec(NamedTuple):
    """What is computed: all but the tensors; `make_spec` makes it."""

    dim: int
    act: str
    alpha: float
    gain: float
    clamp: float | None

    @property
    def constant_slope(self) -> bool:
        """Whether the gradient needs neither x nor y."""
        return self.act == "linear" and self.clamp is None

    @property
    def at_value(self) -> bool:
        """Whether the gradient is taken from y.

        A negative alpha makes lrelu fall; a small gain lets y vanish in float16 where x + b does not, a large one makes
        it infinite.
        """
        facts = FACTS[self.act]
        return facts.slope_at_value and self.alpha >= 0 and 0.5 < abs(self.gain) <= 256

    def saved(self, x: Tensor, y: Tensor) -> Tensor | None:
        """What the gradient needs to be kept."""
        if self.constant_slope:
            return None
        return y if self.at_value else x


class SpecOfInput(Spec):
    """One of which x is kept and y is not: the gradient computes y again, so that it may be changed in place."""

    __slots__ = ()


def check_arguments(
    x: Any, b: Any, dim: Any, act: Any, alpha: Any, gain: Any, clamp: Any, keep: Any = "output"
) -> None:
    """Raise TypeError or ValueError for what the op does not take."""
    check.samples(x, "x")
    if not isinstance(keep, str) or keep not in ("output", "input"):
        raise ValueError(f'keep must be "output" or "input", got {check.short(keep)}')
    check_activation(act, alpha)
    if gain is not None:
        check.finite(gain, "gain")
    if clamp is not None:
        check.finite(clamp, "clamp", least=0)
    if b is not None:
        check.along(b, "b", x, "x", dim)


def make_spec(
    dim: int, act: str, alpha: Real | None, gain: Real | None, clamp: Real | None, keep: str = "output"
) -> Spec:
    """Fill in the defaults."""
    facts = FACTS[act]
    return (Spec if keep == "output" else SpecOfInput)(
        dim,
        act,
        alpha_of(act, alpha),
        facts.gain if gain is None else float(gain),
        None if clamp is None else float(clamp),
    )


# --- forward ---


def bias_act(x: Tensor, b: Tensor | None, spec: Spec) -> Tensor:
    """The op, for arguments that were checked."""
    tensors = (x,) if b is None else (x, b)
    if is_traced(*tensors):
        refuse_forward_mode("bias_act")
        # The registered op keeps y.
        call = reference.forward if isinstance(spec, SpecOfInput) else registered("bias_act")
        return call(x, b, *spec)
    if torch._C._are_functorch_transforms_active():
        refuse_forward_mode("bias_act")
        return reference.forward(x, b, *spec)
    if not is_differentiated(*tensors):
        return _forward(x, b, *spec)
    expanded = None if b is None or not is_differentiated(b) else expand_channels(b, x, spec.dim)
    return _BiasAct.apply(x, expanded, b, spec)


@untraced
def _forward(x: Tensor, b: Tensor | None, *spec: Any) -> Tensor:
    return backends.pick("bias_act", x).forward(dense(x), _exact(b, x), *spec)


def _fake(x: Tensor, b: Tensor | None, *spec: Any) -> Tensor:
    return empty_dense(x, x.dtype)


def _exact(b: Tensor | None, x: Tensor) -> Tensor | None:
    return None if b is None else to_accumulation_dtype(b, x).contiguous()


class _BiasAct(torch.autograd.Function):
    """(x, b expanded or None, b, spec) -> y. The gradient of b goes by way of the expanded one, or nowhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, expanded: Tensor | None, b: Tensor | None, spec: Spec) -> Tensor:
        y = _forward(x, b, *spec)
        ctx.set_materialize_grads(False)
        ctx.spec = spec
        ctx.again = isinstance(spec, SpecOfInput) and spec.at_value and not spec.constant_slope
        from_x = ctx.again or not (spec.at_value or spec.constant_slope)
        saved = x if ctx.again else spec.saved(x, y)
        ctx.save_for_backward(saved, expanded if from_x else None, b if from_x else None)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return None, None, None, None
        saved, expanded, b = ctx.saved_tensors
        if ctx.again:
            saved, expanded, b = bias_act(saved, b, Spec(*ctx.spec)), None, None
        dx = _gradient(dy, saved, expanded, b, ctx.spec)
        return dx, dx if ctx.needs_input_grad[1] else None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        raise_no_forward_mode("bias_act")


# --- gradient ---


def gradient(dy: Tensor, saved: Tensor | None, b: Tensor | None, spec: Spec) -> Tensor:
    """Return dx = dy gain f'(x + b), differentiable to any order.

    Args:
        dy: the gradient of y.
        saved: what `spec.saved(x, y)` returned; with x, or with y as an output of the op, second derivatives reach x.
        b: the bias, read where saved is x.
        spec: what was computed.
    """
    if spec.at_value or spec.constant_slope:
        b = None
    expanded = None
    if b is not None and not is_traced(dy, b) and is_differentiated(b):
        expanded = expand_channels(b, dy, spec.dim)
    return _gradient(dy, saved, expanded, b, spec)


def _gradient(dy: Tensor, saved: Tensor | None, expanded: Tensor | None, b: Tensor | None, spec: Spec) -> Tensor:
    if FACTS[spec.act].piecewise_linear:
        # The slope is a constant of x: only dy has a derivative here.
        saved, expanded, b = (None if t is None else t.detach() for t in (saved, None, b))
    tensors = tuple(t for t in (dy, saved, expanded, b) if t is not None)
    if is_traced(*tensors):
        return registered("bias_act_gradient")(dy, saved, b, spec.at_value, *spec)
    if torch._C._are_functorch_transforms_active():
        return reference.gradient(dy, saved, b, spec.at_value, *spec)
    if not is_differentiated(*tensors):
        return _run_gradient(dy, saved, b, spec.at_value, *spec)
    return _Gradient.apply(dy, saved, expanded, b, spec)


@untraced
def _run_gradient(dy: Tensor, saved: Tensor | None, b: Tensor | None, at_value: bool, *spec: Any) -> Tensor:
    if saved is None:
        dy = dense(dy)
    else:
        saved = dense(saved)
        dy = in_order_of(dy, saved)
    return backends.pick("bias_act", dy).gradient(dy, saved, _exact(b, dy), at_value, *spec)


def _fake_gradient(dy: Tensor, saved: Tensor | None, *rest: Any) -> Tensor:
    return empty_dense(dy if saved is None else saved, dy.dtype)


class _Gradient(torch.autograd.Function):
    """(dy, saved, b expanded or None, b, spec) -> dx."""

    @staticmethod
    def forward(
        ctx: Any, dy: Tensor, saved: Tensor | None, expanded: Tensor | None, b: Tensor | None, spec: Spec
    ) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.spec = spec
        ctx.save_for_backward(dy if any(ctx.needs_input_grad[1:3]) else None, saved, expanded, b)
        return _run_gradient(dy, saved, b, spec.at_value, *spec)

    @staticmethod
    def backward(ctx: Any, ddx: Tensor | None) -> tuple[Tensor | None, ...]:
        if ddx is None:
            return None, None, None, None, None
        dy, saved, expanded, b = ctx.saved_tensors
        d_dy = _gradient(ddx, saved, expanded, b, ctx.spec) if ctx.needs_input_grad[0] else None
        d_saved = _second(ddx, dy, saved, b, ctx.spec) if dy is not None else None
        return d_dy, d_saved, d_saved if ctx.needs_input_grad[2] else None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        raise_no_forward_mode("bias_act")


# --- second derivative ---


def _second(ddx: Tensor, dy: Tensor, saved: Tensor, b: Tensor | None, spec: Spec) -> Tensor:
    arguments = (ddx, dy, saved, b, spec.at_value, *spec)
    # Under create_graph it is differentiated again.
    if torch.is_grad_enabled():
        return reference.second(*arguments)
    tensors = tuple(t for t in (ddx, dy, saved, b) if t is not None)
    return registered("bias_act_second")(*arguments) if is_traced(*tensors) else _run_second(*arguments)


@untraced
def _run_second(ddx: Tensor, dy: Tensor, saved: Tensor, b: Tensor | None, at_value: bool, *spec: Any) -> Tensor:
    saved = dense(saved)
    tensors = in_order_of(ddx, saved), in_order_of(dy, saved), saved
    return backends.pick("bias_act", saved).second(*tensors, _exact(b, saved), at_value, *spec)


def _fake_second(ddx: Tensor, dy: Tensor, saved: Tensor, *rest: Any) -> Tensor:
    return empty_dense(saved, saved.dtype)


# --- where something traces ---


def _setup_traced(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, b, *spec = inputs
    ctx.spec = Spec(*spec)
    ctx.b_dtype = b.dtype if b is not None and b.requires_grad else None
    from_x = not (ctx.spec.at_value or ctx.spec.constant_slope)
    ctx.save_for_backward(ctx.spec.saved(x, output), b if from_x else None)


def _backward_traced(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
    nothing = (None,) * len(ctx.spec)
    if dy is None:
        return None, None, *nothing
    dx = gradient(dy, *ctx.saved_tensors, ctx.spec)
    return dx, _sum(dx, ctx.b_dtype, ctx.spec), *nothing


def _setup_traced_gradient(ctx: Any, inputs: tuple, output: Tensor) -> None:
    dy, saved, b, _, *spec = inputs
    ctx.spec = Spec(*spec)
    ctx.b_dtype = b.dtype if b is not None and b.requires_grad else None
    ctx.wanted = dy.requires_grad, (saved is not None and saved.requires_grad) or ctx.b_dtype is not None
    ctx.save_for_backward(dy if ctx.wanted[1] else None, saved, b)


def _backward_traced_gradient(ctx: Any, ddx: Tensor | None) -> tuple[Tensor | None, ...]:
    nothing = (None,) * (1 + len(ctx.spec))
    if ddx is None:
        return None, None, None, *nothing
    dy, saved, b = ctx.saved_tensors
    d_dy = gradient(ddx, saved, b, ctx.spec) if ctx.wanted[0] else None
    if not ctx.wanted[1]:
        return d_dy, None, None, *nothing
    d_saved = _second(ddx, dy, saved, b, ctx.spec)
    return d_dy, d_saved, _sum(d_saved, ctx.b_dtype, ctx.spec), *nothing


def _sum(dx: Tensor, dtype: torch.dtype | None, spec: Spec) -> Tensor | None:
    return None if dtype is None else sum_channels(dx, spec.dim).to(dtype)


torch.library.impl("fastgan::bias_act", "default", _forward)
torch.library.register_fake("fastgan::bias_act", _fake)
torch.library.register_autograd("fastgan::bias_act", _backward_traced, setup_context=_setup_traced)
register_decomposition("bias_act", reference.forward)
torch.library.impl("fastgan::bias_act_gradient", "default", _run_gradient)
torch.library.register_fake("fastgan::bias_act_gradient", _fake_gradient)
torch.library.register_autograd(
    "fastgan::bias_act_gradient", _backward_traced_gradient, setup_context=_setup_traced_gradient
)
register_decomposition("bias_act_gradient", reference.gradient)
torch.library.impl("fastgan::bias_act_second", "default", _run_second)
torch.library.register_fake("fastgan::bias_act_second", _fake_second)
register_decomposition("bias_act_second", reference.second)
