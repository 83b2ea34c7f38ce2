"""torch's convolutions, with a double backward that is as fast as it can be, each product in the fastest form.

With y = conv(x, w), `options` all else that a convolution takes, and g the gradient of y:

    dx = I(g, w)    dw = W(g, x)           by aten.convolution_backward
    I(g, w), given h:  dg = conv(h, w)     dw = W(g, h)
    W(g, x), given h:  dg = conv(x, h)     dx = I(g, h)

torch computes the dw of the second line as a convolution whose kernel is a whole feature map, group by group. Results
are torch's to rounding; forward and first backward are torch's own where forms.py knows of nothing better.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from fastgan.autocast import autocast_dtype
from fastgan.convolution import forms as form
from fastgan.convolution.forms import Options, has_faster_form
from fastgan.ops.tracing import is_differentiated


def _convolve(
    n: int,
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """torch's conv1d, conv2d and conv3d, n being 1, 2 and 3."""
    amounts = _each(n, stride, 0 if padding == "valid" else padding, dilation)
    if amounts is None or not _is_ours(n, input, weight, bias):
        return _CONVOLUTIONS[n](input, weight, bias, stride, padding, dilation, groups)
    return _as_autocast(input, weight, bias, Options(*amounts, False, [0] * n, groups))


def _convolve_transposed(
    n: int,
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """torch's conv_transpose1d, conv_transpose2d and conv_transpose3d."""
    amounts = _each(n, stride, padding, dilation, output_padding)
    if amounts is None or not _is_ours(n, input, weight, bias):
        return _TRANSPOSED[n](input, weight, bias, stride, padding, output_padding, groups, dilation)
    return _as_autocast(input, weight, bias, Options(*amounts[:3], True, amounts[3], groups))


_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
conv1d, conv2d, conv3d = (partial(_convolve, n) for n in _CONVOLUTIONS)
conv_transpose1d, conv_transpose2d, conv_transpose3d = (partial(_convolve_transposed, n) for n in _TRANSPOSED)


def _is_ours(n: int, x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Not where something traces or transforms, and where there is no batch."""
    plain = type(x) in _PLAIN and type(weight) in _PLAIN and (bias is None or type(bias) in _PLAIN)
    return (
        plain
        and x.ndim == weight.ndim == n + 2
        and not torch.compiler.is_compiling()
        and torch._C._get_tracing_state() is None
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )


_PLAIN = frozenset({Tensor, torch.nn.Parameter})


def _each(n: int, *values: Any) -> list[list[int]] | None:
    """One for each axis; None for what torch is left to compute or to refuse, as it does `padding="same"`."""
    lists = []
    for value in values:
        items = list(value) if isinstance(value, (list, tuple)) else [value]
        if len(items) not in (1, n) or not all(isinstance(item, int) for item in items):
            return None
        lists.append(items * n if len(items) == 1 else items)
    return lists


def _as_autocast(x: Tensor, weight: Tensor, bias: Tensor | None, options: Options) -> Tensor:
    """`convolution` of what autocast makes of the tensors: its rule is on F.conv*, which is not called."""
    dtype = None if x.dtype == torch.float64 else autocast_dtype(x.device.type)
    if dtype is not None:
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    return convolution(x, weight, bias, options)


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
