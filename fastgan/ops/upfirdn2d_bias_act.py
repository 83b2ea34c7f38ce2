"""FIR resampling, bias, activation, gain and clamp in one pass: y = clamp(gain f(upfirdn2d(x) + b)).

    dz = dy gain f'(z + b), 0 where |y| >= clamp          dx = adjoint of upfirdn2d (dz)          db_c = sum of dz[:, c]

One kernel where f is piecewise linear and y determines its slope: the gradient is then the gradient of `bias_act` at
y, and `upfirdn2d` of that, both ops that are differentiable to any order. Else the two ops run one after the other.
"""

from typing import Any

import torch
from torch import Tensor

from fastgan import backends, filters
from fastgan.ops.bias_act import Spec, bias_act, gradient
from fastgan.ops.decompositions import register_decomposition, registered
from fastgan.ops.samples import accumulation_dtype
from fastgan.ops.sum_channels import expand_channels, sum_channels
from fastgan.ops.tracing import is_differentiated, is_traced, raise_no_forward_mode, refuse_forward_mode, untraced
from fastgan.ops.upfirdn2d import adjoint_padding, upfirdn2d
from fastgan.reference import upfirdn2d as reference
from fastgan.reference.activations import FACTS

torch.library.define(
    "fastgan::upfirdn2d_bias_act",
    "(Tensor x, Tensor f, int[] up, int[] down, SymInt[] padding, bool flip_filter, float gain, Tensor? b, "
    "str act, float alpha, float act_gain, float? clamp, bool? channels_last=None) -> Tensor",
)
_RESAMPLING = 5  # options of upfirdn2d behind x and f


def is_fused(spec: Spec) -> bool:
    """Whether one kernel computes it."""
    return FACTS[spec.act].piecewise_linear and (spec.at_value or spec.constant_slope)


def upfirdn2d_bias_act(
    x: Tensor, f: Tensor, options: tuple, b: Tensor | None, spec: Spec, channels_last: bool | None = None
) -> Tensor:
    """The op, for arguments that were checked; options are those of `upfirdn2d` from f to gain, spec.dim is 1."""
    if not is_fused(spec) or torch._C._are_functorch_transforms_active():
        return bias_act(upfirdn2d(x, f, *options, channels_last), b, spec)
    tensors = (x,) if b is None else (x, b)
    if is_traced(*tensors, f):
        refuse_forward_mode("upfirdn2d_bias_act")
        return registered("upfirdn2d_bias_act")(x, f, *options, b, *spec[1:], channels_last)
    if not is_differentiated(*tensors):
        return _forward(x, f, *options, b, *spec[1:], channels_last)
    expanded = None
    if b is not None and is_differentiated(b):
        rows, columns = filters.axes(x.shape, f.shape, *options[:3])
        expanded = expand_channels(b, x.new_empty(()).expand(*x.shape[:2], rows.out, columns.out), 1)
    return _Upfirdn2dBiasAct.apply(x, expanded, f, options, b, spec, channels_last)


@untraced
def _forward(x: Tensor, f: Tensor, *rest: Any) -> Tensor:
    options, b, spec = rest[:_RESAMPLING], rest[_RESAMPLING], rest[_RESAMPLING + 1 :]
    dense = x if filters.channels_inside(x) else x.contiguous()
    exact = None if b is None else b.to(accumulation_dtype(x.dtype)).contiguous()
    return backends.pick("upfirdn2d", x).forward_bias_act(dense, f.contiguous(), *options, exact, *spec)


def _fake(
    x: Tensor,
    f: Tensor,
    up: list[int],
    down: list[int],
    padding: list[int],
    flip_filter: bool,
    gain: float,
    b: Tensor | None,
    act: str,
    alpha: float,
    act_gain: float,
    clamp: float | None,
    channels_last: bool | None = None,
) -> Tensor:
    rows, columns = filters.axes(x.shape, f.shape, up, down, padding)
    layout = filters.memory_format(filters.output_inside(x, channels_last))
    return torch.empty((*x.shape[:2], rows.out, columns.out), dtype=x.dtype, device=x.device, memory_format=layout)


class _Upfirdn2dBiasAct(torch.autograd.Function):
    """(x, b expanded or None, f, options, b, spec, channels_last) -> y. b's gradient: by way of the expanded one."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        expanded: Tensor | None,
        f: Tensor,
        options: tuple,
        b: Tensor | None,
        spec: Spec,
        channels_last: bool | None,
    ) -> Tensor:
        y = _forward(x, f, *options, b, *spec[1:], channels_last)
        ctx.set_materialize_grads(False)
        ctx.size, ctx.options, ctx.spec = x.shape[:1:-1], options, spec
        ctx.as_x = _order_of_gradient(x, channels_last)
        ctx.save_for_backward(None if spec.constant_slope else y, f)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 7
        y, f = ctx.saved_tensors
        dz = gradient(dy, y, None, ctx.spec)
        dx = _adjoint(dz, f, ctx.size, ctx.options, ctx.as_x) if ctx.needs_input_grad[0] else None
        return dx, dz if ctx.needs_input_grad[1] else None, *(None,) * 5

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> None:
        raise_no_forward_mode("upfirdn2d_bias_act")


def _order_of_gradient(x: Tensor, channels_last: bool | None) -> bool | None:
    return None if channels_last is None else filters.channels_inside(x)


def _adjoint(dz: Tensor, f: Tensor, size: Any, options: tuple, as_x: bool | None) -> Tensor:
    up, down, padding, flip_filter, gain = options
    back = adjoint_padding(size, dz.shape[:1:-1], (f.shape[-1], f.shape[0]), up, down, padding)
    return upfirdn2d(dz, f, down, up, back, not flip_filter, gain, as_x)


def _setup_traced(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, f, *rest = inputs
    ctx.options, b = rest[:_RESAMPLING], rest[_RESAMPLING]
    *spec, channels_last = rest[_RESAMPLING + 1 :]
    ctx.spec, ctx.as_x = Spec(1, *spec), _order_of_gradient(x, channels_last)
    ctx.size, ctx.b_dtype = x.shape[:1:-1], b.dtype if b is not None and b.requires_grad else None
    ctx.needs_x = x.requires_grad
    ctx.save_for_backward(None if ctx.spec.constant_slope else output, f)


def _backward_traced(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
    if dy is None:
        return (None,) * 13
    y, f = ctx.saved_tensors
    dz = gradient(dy, y, None, ctx.spec)
    db = None if ctx.b_dtype is None else sum_channels(dz, 1).to(ctx.b_dtype)
    dx = _adjoint(dz, f, ctx.size, ctx.options, ctx.as_x) if ctx.needs_x else None
    return dx, *(None,) * 6, db, *(None,) * 5


torch.library.impl("fastgan::upfirdn2d_bias_act", "default", _forward)
torch.library.register_fake("fastgan::upfirdn2d_bias_act", _fake)
torch.library.register_autograd("fastgan::upfirdn2d_bias_act", _backward_traced, setup_context=_setup_traced)
register_decomposition("upfirdn2d_bias_act", reference.forward_bias_act)
