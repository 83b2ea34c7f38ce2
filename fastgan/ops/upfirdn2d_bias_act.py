"""FIR resampling, bias, activation, gain and clamp in one pass: y = clamp(gain f(upfirdn2d(x) + b)).

    dz = dy gain f'(z + b), 0 where |y| >= clamp          dx = adjoint of upfirdn2d (dz)          db_c = sum of dz[:, c]

One kernel where f is piecewise linear and y determines its slope: the gradient is then the gradient of `bias_act` at
y, and `upfirdn2d` of that, both ops that are differentiable to any order. Else the two ops run one after the other.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import has_torch_function

from fastgan import backends, filters
from fastgan.filters import Resampling
from fastgan.ops import bias_act as _bias_act
from fastgan.ops import upfirdn2d as _upfirdn2d
from fastgan.ops.bias_act import Spec
from fastgan.ops.layout import to_accumulation_dtype
from fastgan.ops.op import Op, is_differentiated, is_traced, raise_no_forward_mode
from fastgan.ops.sum_channels import expand_channels, sum_channels
from fastgan.reference import upfirdn2d as reference
from fastgan.reference.activations import FACTS


def upfirdn2d_bias_act(
    x: Tensor,
    f: Tensor | None,
    b: Tensor | None = None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    act: str = "linear",
    alpha: float | None = None,
    act_gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """Resample images, add a bias, apply an activation, scale and clamp, in one pass.

        bias_act(upfirdn2d(x, f, up, down, padding, flip_filter, gain), b, act=act, alpha=alpha, gain=act_gain,
                 clamp=clamp)

    without rounding between the two. linear, relu and lrelu are one kernel where `bias_act` takes their slope from y;
    others are these two calls, and so are all of them where a `TorchFunctionMode` or a tensor subclass looks on.

    Args:
        x: [N, C, H, W], as `upfirdn2d` has it, and so the filter and how it is used:
        f: float32 [fh, fw] or [k], or None.
        up: 1 or more, or [x, y].
        down: 1 or more, or [x, y].
        padding: an int, [x, y] or [x0, x1, y0, y1].
        flip_filter: False for a convolution, True for a correlation.
        gain: what the resampled image is multiplied by.
        b: [C] or None, as `bias_act` has it, and so the activation:
        act: its name.
        alpha: the slope of lrelu below 0; None for 0.2.
        act_gain: what f is multiplied by; None for sqrt(2) with relu, lrelu and swish, else 1.
        clamp: y is kept between -clamp and clamp; None for no clamp.

    Returns:
        As `upfirdn2d`.

    Raises:
        TypeError, ValueError, RuntimeError: as the two.

    Derivatives: as the two; y is kept for them, not the resampled image.
    """
    tensors = tuple(t for t in (x, f, b) if isinstance(t, Tensor))
    if has_torch_function(tensors):
        y = _upfirdn2d.upfirdn2d(x, f, up, down, padding, flip_filter, gain)
        return _bias_act.bias_act(y, b, 1, act, alpha, act_gain, clamp)
    f, how = _upfirdn2d.checked(x, f, up, down, padding, flip_filter, gain)
    spec = _bias_act.checked(x, b, 1, act, alpha, act_gain, clamp)
    return resampled_activated(x, f, how, b, spec)


def is_fused(spec: Spec) -> bool:
    """Whether one kernel computes it."""
    return FACTS[spec.act].piecewise_linear and (spec.at_value or spec.constant_slope)


def resampled_activated(x: Tensor, f: Tensor, how: Resampling, b: Tensor | None, spec: Spec) -> Tensor:
    """The op, for arguments that were checked; spec.dim is 1."""
    if not is_fused(spec) or torch._C._are_functorch_transforms_active():
        return _bias_act.activated(_upfirdn2d.resampled(x, f, how), b, spec)
    if is_traced(x, b, f):
        return _op.traced(x, f, b, *how, *_activation(spec))
    if not is_differentiated(x, b):
        return _op.run(x, f, b, *how, *_activation(spec))
    expanded = None
    if b is not None and is_differentiated(b):
        rows, columns = filters.axes(x.shape, f.shape, how.up, how.down, how.padding)
        expanded = expand_channels(b, x.new_empty(()).expand(*x.shape[:2], rows.out, columns.out), 1)
    return _Upfirdn2dBiasAct.apply(x, expanded, f, b, how, spec)


def _activation(spec: Spec) -> tuple[str, float, float, float | None]:
    return spec.act, spec.alpha, spec.gain, spec.clamp


_RESAMPLING = len(Resampling._fields)  # of the options that follow the tensors


def _run(x: Tensor, f: Tensor, b: Tensor | None, *options: Any) -> Tensor:
    dense = x if filters.channels_inside(x) else x.contiguous()
    b = None if b is None else to_accumulation_dtype(b, x).contiguous()
    run = backends.pick("upfirdn2d", x).forward_bias_act
    return run(dense, f.contiguous(), b, options[:_RESAMPLING], options[_RESAMPLING:])


def _fake(x: Tensor, f: Tensor, b: Tensor | None, *options: Any) -> Tensor:
    return _upfirdn2d.empty_resampled(x, f, Resampling(*options[:_RESAMPLING]))


def _plain(x: Tensor, f: Tensor, b: Tensor | None, *options: Any) -> Tensor:
    return reference.forward_bias_act(x, f, b, options[:_RESAMPLING], options[_RESAMPLING:])


class _Upfirdn2dBiasAct(torch.autograd.Function):
    """(x, b expanded or None, f, b, how, spec) -> y. b's gradient goes by way of the expanded one."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, expanded: Tensor | None, f: Tensor, b: Tensor | None, how: Resampling, spec: Spec
    ) -> Tensor:
        y = _op.run(x, f, b, *how, *_activation(spec))
        ctx.set_materialize_grads(False)
        _keep_output(ctx, x, f, y, how, spec)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 6
        dx, dz = _gradients(ctx, ctx.needs_input_grad[0], dy)
        return dx, dz if ctx.needs_input_grad[1] else None, *(None,) * 4

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> None:
        raise_no_forward_mode("upfirdn2d_bias_act")


def _keep_output(ctx: Any, x: Tensor, f: Tensor, y: Tensor, how: Resampling, spec: Spec) -> None:
    ctx.how, ctx.spec = how, spec
    ctx.size, ctx.channels_last = x.shape[:1:-1], filters.channels_inside(x)
    ctx.save_for_backward(None if spec.constant_slope else y, f)


def _gradients(ctx: Any, want_dx: bool, dy: Tensor) -> tuple[Tensor | None, Tensor]:
    y, f = ctx.saved_tensors
    dz = _bias_act.gradient(dy, y, None, ctx.spec)
    return _upfirdn2d.adjoint(dz, f, ctx.how, ctx.size, ctx.channels_last) if want_dx else None, dz


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, f, b, *options = inputs
    ctx.b_dtype = None if b is None else b.dtype
    _keep_output(ctx, x, f, output, Resampling(*options[:_RESAMPLING]), Spec(1, *options[_RESAMPLING:]))


def _gradient(ctx: Any, wanted: Sequence[bool], dy: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
    dx, dz = _gradients(ctx, wanted[0], dy)
    return dx, None, sum_channels(dz, 1).to(ctx.b_dtype) if wanted[2] else None


_op = Op(
    "upfirdn2d_bias_act(Tensor x, Tensor f, Tensor? b, int[] up, int[] down, SymInt[] padding, bool flip_filter, "
    "float gain, bool? channels_last, str act, float alpha, float act_gain, float? clamp) -> Tensor",
    _run,
    _fake,
    _plain,
    _keep,
    _gradient,
)
