"""torch's convolutions, with a double backward that is as fast as it can be, each product in the fastest form.

With y = conv(x, w), `options` all else that a convolution takes, and g the gradient of y:

    dx = I(g, w)    dw = W(g, x)           by aten.convolution_backward
    I(g, w), given h:  dg = conv(h, w)     dw = W(g, h)
    W(g, x), given h:  dg = conv(x, h)     dx = I(g, h)

torch computes the dw of the second line as a convolution whose kernel is a whole feature map, group by group. Results
are torch's to rounding; forward and first backward are torch's own where forms.py knows of nothing better.
"""

from typing import Any

import torch
from torch import Tensor

from fastgan.convolution import forms as form
from fastgan.convolution.forms import Options, has_faster_form
from fastgan.ops.op import is_differentiated


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, options: Options) -> Tensor:
    """conv(x, weight) + bias, for plain tensors with a batch dimension; derivatives of any order in reverse mode."""
    if is_differentiated(x, weight) or (bias is not None and is_differentiated(bias)):
        return _Convolution.apply(x, weight, bias, options)
    return form.convolution(x, weight, bias, options)


def _input_gradient(g: Tensor, weight: Tensor, x: Tensor, options: Options) -> Tensor:
    """I(g, weight), of the shape of x."""
    return (_InputGradient.apply if torch.is_grad_enabled() else form.input_gradient)(g, weight, x.detach(), options)


def _weight_gradient(g: Tensor, x: Tensor, weight: Tensor, options: Options) -> Tensor:
    """W(g, x), of the shape of weight."""
    return (_WeightGradient.apply if torch.is_grad_enabled() else form.weight_gradient)(g, x, weight.detach(), options)


class _Convolution(torch.autograd.Function):
    """y = conv(x, weight) + bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, options: Options) -> Tensor:
        _save(ctx, options, x, weight)
        return form.convolution(x, weight, bias, options)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
        if g is None:
            return None, None, None, None
        x, weight = ctx.saved_tensors
        wanted = [_is_wanted(ctx, 0), _is_wanted(ctx, 1), _is_wanted(ctx, 2)]
        if not torch.is_grad_enabled() and not has_faster_form(x, weight, ctx.options):
            return *form.gradients(g, x, weight, ctx.options, wanted), None
        dx = _input_gradient(g, weight, x, ctx.options) if wanted[0] else None
        dw = _weight_gradient(g, x, weight, ctx.options) if wanted[1] else None
        db = g.sum([d for d in range(g.ndim) if d != 1]) if wanted[2] else None
        return dx, dw, db, None


class _InputGradient(torch.autograd.Function):
    """I(g, weight), of the shape of x."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, weight: Tensor, x: Tensor, options: Options) -> Tensor:
        _save(ctx, options, g, weight)
        return form.input_gradient(g, weight, x, options)

    @staticmethod
    def backward(ctx: Any, h: Tensor | None) -> tuple[Tensor | None, ...]:
        dg = dw = None
        if h is not None:
            g, weight = ctx.saved_tensors
            if _is_wanted(ctx, 0):
                dg = convolution(h, weight, None, ctx.options)
            if _is_wanted(ctx, 1):
                dw = _weight_gradient(g, h, weight, ctx.options)
        return dg, dw, None, None


class _WeightGradient(torch.autograd.Function):
    """W(g, x), of the shape of weight."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, weight: Tensor, options: Options) -> Tensor:
        _save(ctx, options, g, x)
        return form.weight_gradient(g, x, weight, options)

    @staticmethod
    def backward(ctx: Any, h: Tensor | None) -> tuple[Tensor | None, ...]:
        dg = dx = None
        if h is not None:
            g, x = ctx.saved_tensors
            if _is_wanted(ctx, 0):
                dg = convolution(x, h, None, ctx.options)
            if _is_wanted(ctx, 1):
                dx = _input_gradient(g, h, x, ctx.options)
        return dg, dx, None, None


def no_more_gradients(x: Tensor) -> None:
    """Of a leaf: convolutions that took it compute its gradient only under create_graph from now on."""
    x._fastgan_is_data = True


def _save(ctx: Any, options: Options, *tensors: Tensor) -> None:
    ctx.save_for_backward(*tensors)
    ctx.options = options
    ctx.set_materialize_grads(False)


def _is_wanted(ctx: Any, i: int) -> bool:
    """Whether this backward pass leads anywhere from input i: autograd tells a Function only that i requires grad."""
    if not ctx.needs_input_grad[i]:
        return False
    node = ctx.next_functions[i][0]
    if not torch.is_grad_enabled() and getattr(getattr(node, "variable", None), "_fastgan_is_data", False):
        return False
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:
        # That is how it answers for a leaf that autograd.grad was asked for.
        return True
