"""Bias, activation, gain and clamp in one pass: y = clamp(gain f(x + b)), b [C] along one dimension.

    dx = dy gain f'(x + b), 0 where |y| >= clamp          db_c = sum of dx[:, c]

f' is taken from y where y determines it, so that x is not kept; y is what the following operation keeps anyway, a
packed mask of signs would be memory on top. Else it is taken from x and b. Where y may be changed in place, x and b are
kept and y is computed again. The gradient is an op whose own gradients are itself (with respect to dy) and a second
derivative kernel; beyond that it is the reference, plain torch: so every order is right.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fastgan import backends, check
from fastgan.ops.layout import dense, empty_dense, in_order_of, to_accumulation_dtype
from fastgan.ops.op import Op, is_differentiated, is_traced, overridable, raise_no_forward_mode, refuse_forward_mode
from fastgan.ops.sum_channels import expand_channels, sum_channels
from fastgan.reference import bias_act as reference
from fastgan.reference.activations import FACTS


@overridable
def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    *,
    keep: Literal["output", "input"] = "output",
) -> Tensor:
    """Add a bias, apply an activation, scale and clamp, in one pass forward and one pass backward.

        y = clamp(gain f(x + b))

        linear z        relu max(z, 0)        lrelu max(z, 0) + alpha min(z, 0)        tanh        sigmoid
        elu z > 0 ? z : exp(z) - 1            selu 1.0507... (z > 0 ? z : 1.6732... (exp(z) - 1))
        softplus log(1 + exp(z)), z beyond 20            swish z sigmoid(z)            gelu z Phi(z), the exact one

    Args:
        x: one dimension or more, any of which may be 0; float64, float32, bfloat16 or float16, any strides. Tensors
            that are dense with dimension 0 outermost, channels_last too, keep their layout. Autocast does not cast.
        b: [C], as long as dimension `dim` of x, of any of these dtypes and on x's device; None for no bias. It is
            added in float32 or better: a float32 bias of a bfloat16 x is not rounded first.
        dim: the dimension of x that b runs along; without b it says nothing.
        act: the activation f, by the name above.
        alpha: the slope of lrelu below 0; None for 0.2. Other activations do not read it.
        gain: what f is multiplied by; None for sqrt(2) with relu, lrelu and swish, which keeps the variance of a
            normal distribution about as it is, and for 1 with the others. 1 for none.
        clamp: y is kept between -clamp and clamp, 0 or more and rounded to x's dtype; None for no clamp.
        keep: what is kept for the backward. "output": y wherever slopes can be taken from it, so that x may be freed;
            y must not be changed in place before the backward. "input": x and b, and y may be changed.

    Returns:
        A new tensor of x's shape and dtype and, where x is dense with dimension 0 outermost, its strides. Computed in
        float32 or better and rounded once. A NaN stays one.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.
        RuntimeError: the backend that was asked for cannot run here.

    Derivatives: with respect to x and b, reverse mode to any order; first and second ones by kernels, higher ones in
    plain torch. At a kink they are torch's: 0 for relu at 0, alpha for lrelu; and 0 where |y| = clamp, where torch's
    is 1. Slopes cannot be taken from y, and are taken from x and b, for swish and gelu, for alpha < 0 and for
    |gain| <= 0.5 or > 256. Linear without clamp keeps nothing. The gradient of b is computed only where it is asked
    for, its sum always in the same order. Second derivatives of linear, relu and lrelu are None, not zeros. torch.func
    differentiates the plain formula. Forward mode raises NotImplementedError.

    Source: the arguments are those of T. Karras et al., Analyzing and Improving the Image Quality of StyleGAN, CVPR
    2020, and the code that came with it; gain: K. He et al., Delving Deep into Rectifiers, ICCV 2015.
    """
    spec = checked(x, b, dim, act, alpha, gain, clamp)
    if not isinstance(keep, str) or keep not in ("output", "input"):
        raise ValueError(f'keep must be "output" or "input", got {check.short(keep)}')
    return activated(x, b, spec, keep == "input")


class Spec(NamedTuple):
    """What is computed: all but the tensors."""

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


def checked(x: Any, b: Any, dim: Any, act: Any, alpha: Any, gain: Any, clamp: Any) -> Spec:
    """The defaults filled in; TypeError or ValueError for what the op does not take."""
    check.samples(x, "x")
    check.activation(act, alpha, FACTS)
    if gain is not None:
        check.finite(gain, "gain")
    if clamp is not None:
        check.finite(clamp, "clamp", least=0)
    if b is not None:
        check.along(b, "b", x, "x", dim)
    return make_spec(0 if b is None else dim % x.ndim, act, alpha, gain, clamp)


def make_spec(dim: int, act: str, alpha: float | None, gain: float | None, clamp: float | None) -> Spec:
    """The defaults filled in."""
    facts = FACTS[act]
    return Spec(
        dim,
        act,
        facts.alpha if alpha is None else float(alpha),
        facts.gain if gain is None else float(gain),
        None if clamp is None else float(clamp),
    )


# --- forward ---


def activated(x: Tensor, b: Tensor | None, spec: Spec, keep_input: bool = False) -> Tensor:
    """The op, for arguments that were checked; keep_input: x is kept and y is not, so that it may be changed."""
    if is_traced(x, b):
        refuse_forward_mode("bias_act")
        # The registered op keeps y.
        return (reference.forward if keep_input else _forward.traced)(x, b, *spec)
    if torch._C._are_functorch_transforms_active():
        refuse_forward_mode("bias_act")
        return reference.forward(x, b, *spec)
    if not is_differentiated(x, b):
        return _forward.run(x, b, *spec)
    expanded = None if b is None or not is_differentiated(b) else expand_channels(b, x, spec.dim)
    return _BiasAct.apply(x, expanded, b, spec, keep_input)


def _run(x: Tensor, b: Tensor | None, *spec: Any) -> Tensor:
    return backends.pick("bias_act", x).forward(dense(x), _as_computed(b, x), *spec)


def _fake(x: Tensor, b: Tensor | None, *spec: Any) -> Tensor:
    return empty_dense(x, x.dtype)


def _as_computed(b: Tensor | None, x: Tensor) -> Tensor | None:
    return None if b is None else to_accumulation_dtype(b, x).contiguous()


class _BiasAct(torch.autograd.Function):
    """(x, b expanded or None, b, spec, keep_input) -> y. b's gradient goes by way of the expanded one, or nowhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, expanded: Tensor | None, b: Tensor | None, spec: Spec, keep_input: bool) -> Tensor:
        y = _forward.run(x, b, *spec)
        ctx.set_materialize_grads(False)
        ctx.spec = spec
        ctx.again = keep_input and spec.at_value and not spec.constant_slope
        from_x = ctx.again or not (spec.at_value or spec.constant_slope)
        saved = x if ctx.again else spec.saved(x, y)
        ctx.save_for_backward(saved, expanded if from_x else None, b if from_x else None)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 5
        saved, expanded, b = ctx.saved_tensors
        if ctx.again:
            saved, expanded, b = activated(saved, b, ctx.spec), None, None
        dx = _differentiable_gradient(dy, saved, expanded, b, ctx.spec)
        return dx, dx if ctx.needs_input_grad[1] else None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        raise_no_forward_mode("bias_act")


def _keep_traced(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, b, *spec = inputs
    ctx.spec = Spec(*spec)
    ctx.b_dtype = None if b is None else b.dtype
    from_x = not (ctx.spec.at_value or ctx.spec.constant_slope)
    ctx.save_for_backward(ctx.spec.saved(x, output), b if from_x else None)


def _gradient_traced(ctx: Any, wanted: Any, dy: Tensor) -> tuple[Tensor, Tensor | None]:
    dx = gradient(dy, *ctx.saved_tensors, ctx.spec)
    return dx, _sum(dx, ctx.b_dtype, ctx.spec) if wanted[1] else None


def _sum(dx: Tensor, dtype: torch.dtype, spec: Spec) -> Tensor:
    return sum_channels(dx, spec.dim).to(dtype)


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
    return _differentiable_gradient(dy, saved, expanded, b, spec)


def _differentiable_gradient(
    dy: Tensor, saved: Tensor | None, expanded: Tensor | None, b: Tensor | None, spec: Spec
) -> Tensor:
    if FACTS[spec.act].piecewise_linear:
        # The slope is a constant of x: only dy has a derivative here.
        saved, expanded, b = (None if t is None else t.detach() for t in (saved, None, b))
    arguments = dy, saved, b, spec.at_value, *spec
    if is_traced(dy, saved, expanded, b):
        return _gradient.traced(*arguments)
    if torch._C._are_functorch_transforms_active():
        return reference.gradient(*arguments)
    if not is_differentiated(dy, saved, expanded, b):
        return _gradient.run(*arguments)
    return _Gradient.apply(dy, saved, expanded, b, spec)


def _run_gradient(dy: Tensor, saved: Tensor | None, b: Tensor | None, at_value: bool, *spec: Any) -> Tensor:
    if saved is None:
        dy = dense(dy)
    else:
        saved = dense(saved)
        dy = in_order_of(dy, saved)
    return backends.pick("bias_act", dy).gradient(dy, saved, _as_computed(b, dy), at_value, *spec)


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
        return _gradient.run(dy, saved, b, spec.at_value, *spec)

    @staticmethod
    def backward(ctx: Any, ddx: Tensor | None) -> tuple[Tensor | None, ...]:
        if ddx is None:
            return None, None, None, None, None
        dy, saved, expanded, b = ctx.saved_tensors
        d_dy = _differentiable_gradient(ddx, saved, expanded, b, ctx.spec) if ctx.needs_input_grad[0] else None
        d_saved = _second_derivative(ddx, dy, saved, b, ctx.spec) if dy is not None else None
        return d_dy, d_saved, d_saved if ctx.needs_input_grad[2] else None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        raise_no_forward_mode("bias_act")


def _keep_traced_gradient(ctx: Any, inputs: tuple, output: Tensor) -> None:
    dy, saved, b, _, *spec = inputs
    ctx.spec = Spec(*spec)
    ctx.b_dtype = None if b is None else b.dtype
    ctx.save_for_backward(dy if any(ctx.needs_input_grad[1:3]) else None, saved, b)


def _gradient_of_traced_gradient(ctx: Any, wanted: Any, ddx: Tensor) -> tuple[Tensor | None, ...]:
    dy, saved, b = ctx.saved_tensors
    d_dy = gradient(ddx, saved, b, ctx.spec) if wanted[0] else None
    if dy is None:
        return d_dy, None, None
    d_saved = _second_derivative(ddx, dy, saved, b, ctx.spec)
    return d_dy, d_saved, _sum(d_saved, ctx.b_dtype, ctx.spec) if wanted[2] else None


# --- second derivative ---


def _second_derivative(ddx: Tensor, dy: Tensor, saved: Tensor, b: Tensor | None, spec: Spec) -> Tensor:
    # Under create_graph it is differentiated again.
    run: Callable = reference.second if torch.is_grad_enabled() else _second
    return run(ddx, dy, saved, b, spec.at_value, *spec)


def _run_second(ddx: Tensor, dy: Tensor, saved: Tensor, b: Tensor | None, at_value: bool, *spec: Any) -> Tensor:
    saved = dense(saved)
    tensors = in_order_of(ddx, saved), in_order_of(dy, saved), saved
    return backends.pick("bias_act", saved).second(*tensors, _as_computed(b, saved), at_value, *spec)


def _fake_second(ddx: Tensor, dy: Tensor, saved: Tensor, *rest: Any) -> Tensor:
    return empty_dense(saved, saved.dtype)


_SPEC = "int dim, str act, float alpha, float gain, float? clamp"
_forward = Op(
    f"bias_act(Tensor x, Tensor? b, {_SPEC}) -> Tensor", _run, _fake, reference.forward, _keep_traced, _gradient_traced
)
_gradient = Op(
    f"bias_act_gradient(Tensor dy, Tensor? saved, Tensor? b, bool at_value, {_SPEC}) -> Tensor",
    _run_gradient,
    _fake_gradient,
    reference.gradient,
    _keep_traced_gradient,
    _gradient_of_traced_gradient,
)
_second = Op(
    f"bias_act_second(Tensor ddx, Tensor dy, Tensor saved, Tensor? b, bool at_value, {_SPEC}) -> Tensor",
    _run_second,
    _fake_second,
    reference.second,
)
