"""Double backward without its waste: zeros are not computed, and weight gradients of convolutions are computed as such.

With y = conv(x, w), `a` all else that a convolution takes, and g the gradient of y:
    dx = I(g, w)    dw = W(g, x)           by aten.convolution_backward
    I(g, w), given h:  dg = conv(h, w)     dw = W(g, h)
    W(g, x), given h:  dg = conv(x, h)     dx = I(g, h)
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from fastgan import check

__all__ = ["efficient_convolutions", "input_gradient"]


def input_gradient(logits: Tensor, x: Tensor) -> Tensor:
    """The gradient of the sum of all logits with respect to x, ready to be differentiated again.

    It is what `torch.autograd.grad(logits.sum(), x, create_graph=True)` returns. A backward through it leaves out the
    second derivatives with respect to the input of piecewise linear and linear operations (activations, pooling,
    padding), which torch computes as tensors of zeros and sends through the whole forward graph. What remains is bit
    for bit the same; a tensor on which the result does not depend otherwise, such as a bias, gets None instead of 0.

    Args:
        logits: the critic's output, of any shape, that depends on x.
        x: a tensor [N, ...] that requires grad.

    Returns:
        The gradient, of x's shape and dtype; differentiable to any order with respect to x and all parameters.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.

    Derivatives and layers in other forms (a user's autograd.Function, C++) are left as they are.
    """
    for value, name in ((logits, "logits"), (x, "x")):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor, got {check.describe(value)}")
        if not value.requires_grad:
            raise ValueError(f"{name} must require grad, got {check.describe(value)} that does not")
    (dx,) = vector_jacobian_products(logits, [x], torch.ones_like(logits))
    if dx is None:
        raise ValueError("logits must depend on x: there is no path between them in the graph")
    return dx


def vector_jacobian_products(y: Tensor, xs: Sequence[Tensor], dy: Tensor) -> list[Tensor | None]:
    """The gradients of <y, dy> with respect to xs, as `input_gradient` has them; None where y does not."""
    dxs = torch.autograd.grad(y, xs, dy, create_graph=True, allow_unused=True)
    _leave_out_zeros([dx.grad_fn for dx in dxs if dx is not None and dx.grad_fn is not None])
    return list(dxs)


# --- zeros ---

# The derivatives of these backward operations with respect to the primal input, their second argument, are zero
# wherever they exist, and torch's are zeros everywhere (its derivatives.yaml). A test computes each.
_PIECEWISE_LINEAR = frozenset(
    f"{name}BackwardBackward0"
    for name in (
        *("LeakyRelu", "Threshold", "Hardtanh", "RreluWithNoise", "Hardshrink", "Softshrink"),
        *("AvgPool2D", "AvgPool3D", "AdaptiveAvgPool2D", "AdaptiveAvgPool3D"),
        *("MaxPool2D", "MaxPool2DWithIndices", "MaxPool3DWithIndices", "AdaptiveMaxPool2D", "AdaptiveMaxPool3D"),
        *("FractionalMaxPool2D", "FractionalMaxPool3D"),
        *("ReflectionPad1D", "ReflectionPad2D", "ReflectionPad3D"),
        *("ReplicationPad1D", "ReplicationPad2D", "ReplicationPad3D"),
    )
)


def _no_primal(grad_inputs: tuple[Tensor | None, ...], grad_outputs: tuple[Tensor | None, ...]) -> tuple:
    return (grad_inputs[0], None, *grad_inputs[2:])


def _no_primal_of_prelu(grad_inputs: tuple[Tensor | None, ...], grad_outputs: tuple[Tensor | None, ...]) -> tuple:
    # The weight's gradient, output 1, is not constant in the primal input.
    return grad_inputs if grad_outputs[1] is not None else _no_primal(grad_inputs, grad_outputs)


def _no_primal_of_sign(grad_inputs: tuple[Tensor | None, ...], grad_outputs: tuple[Tensor | None, ...]) -> tuple:
    # A complex sign is not piecewise constant.
    return grad_inputs if grad_inputs[0] is None or grad_inputs[0].is_complex() else (None,)


_HOOKS = dict.fromkeys(_PIECEWISE_LINEAR, _no_primal) | {
    "PreluKernelBackwardBackward0": _no_primal_of_prelu,
    "SgnBackward0": _no_primal_of_sign,  # abs: its backward is grad * sgn(x)
}


def _leave_out_zeros(roots: list[Node]) -> None:
    """Make the nodes of a graph return None where they would return zeros."""
    seen, stack = set(roots), list(roots)
    while stack:
        node = stack.pop()
        if hook := _HOOKS.get(node.name()):
            node.register_hook(hook)
        for below, _ in node.next_functions:
            if below is not None and below not in seen:
                seen.add(below)
                stack.append(below)


# --- convolutions ---


def efficient_convolutions() -> TorchFunctionMode:
    """A context for a critic's forward, in which convolutions get an efficient double backward.

    torch computes the weight's gradient in a convolution's double backward as a convolution whose kernel is a whole
    feature map. Here it is a weight gradient like any other. Results equal torch's to rounding, to any order in reverse
    mode; forward mode raises.

    Plain torch runs for samples without a batch dimension, for `padding="same"`, for subclasses of Tensor and where
    nothing requires grad.

        with efficient_convolutions():
            logits = critic(x)
    """
    return _EfficientConvolutions()


class _EfficientConvolutions(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in _CONVOLUTIONS and torch.is_grad_enabled():
            dims, arguments = _CONVOLUTIONS[func]
            *tensors, options = arguments(dims, *args, **kwargs)
            if options and tensors[0].ndim == dims + 2 and _are_plain(tensors):
                return _Convolution.apply(*map(_autocast, tensors), options)
        return func(*args, **kwargs)


def _convolution_arguments(
    dims: int,
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> tuple:
    padding = 0 if padding == "valid" else padding
    if isinstance(padding, str):
        return input, weight, bias, None
    return input, weight, bias, (*_per_dim(dims, stride, padding, dilation), False, [0] * dims, groups)


def _transposed_arguments(
    dims: int,
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> tuple:
    stride, padding, dilation, output_padding = _per_dim(dims, stride, padding, dilation, output_padding)
    return input, weight, bias, (stride, padding, dilation, True, output_padding, groups)


# Number of spatial dimensions, and the arguments in the form of aten.convolution: x, weight, bias, the others.
_CONVOLUTIONS = {
    F.conv1d: (1, _convolution_arguments),
    F.conv2d: (2, _convolution_arguments),
    F.conv3d: (3, _convolution_arguments),
    F.conv_transpose1d: (1, _transposed_arguments),
    F.conv_transpose2d: (2, _transposed_arguments),
    F.conv_transpose3d: (3, _transposed_arguments),
}


def _per_dim(dims: int, *values: Any) -> list[list[int]]:
    out = []
    for value in values:
        items = [value] if isinstance(value, int) else list(value)
        out.append(items * dims if len(items) == 1 else items)
    return out


def _are_plain(tensors: list[Tensor | None]) -> bool:
    tensors = [t for t in tensors if t is not None]
    return all(type(t) in (Tensor, torch.nn.Parameter) for t in tensors) and any(t.requires_grad for t in tensors)


def _autocast(tensor: Tensor | None) -> Tensor | None:
    """The tensor as autocast would hand it to a convolution: the rule is on F.conv*, which is not called."""
    if tensor is None or tensor.dtype == torch.float64 or not torch.is_autocast_enabled(tensor.device.type):
        return tensor
    return tensor.to(torch.get_autocast_dtype(tensor.device.type))


class _Convolution(torch.autograd.Function):
    """y = conv(x, weight) + bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, options: tuple) -> Tensor:
        _save(ctx, options, x, weight)
        return torch.ops.aten.convolution.default(x, weight, bias, *options)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
        dx = dw = db = None
        if g is not None:
            x, weight = ctx.saved_tensors
            if _is_wanted(ctx, 0):
                dx = _InputGradient.apply(g, weight, x.detach(), ctx.options)
            if _is_wanted(ctx, 1):
                dw = _WeightGradient.apply(g, x, weight.detach(), ctx.options)
            if _is_wanted(ctx, 2):
                db = g.sum([d for d in range(g.ndim) if d != 1])
        return dx, dw, db, None


class _InputGradient(torch.autograd.Function):
    """I(g, weight), of the shape of x."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, weight: Tensor, x: Tensor, options: tuple) -> Tensor:
        _save(ctx, options, g, weight)
        return torch.ops.aten.convolution_backward.default(g, x, weight, None, *options, [True, False, False])[0]

    @staticmethod
    def backward(ctx: Any, h: Tensor | None) -> tuple[Tensor | None, ...]:
        dg = dw = None
        if h is not None:
            g, weight = ctx.saved_tensors
            if _is_wanted(ctx, 0):
                dg = _Convolution.apply(h, weight, None, ctx.options)
            if _is_wanted(ctx, 1):
                dw = _WeightGradient.apply(g, h, weight.detach(), ctx.options)
        return dg, dw, None, None


class _WeightGradient(torch.autograd.Function):
    """W(g, x), of the shape of weight."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, weight: Tensor, options: tuple) -> Tensor:
        _save(ctx, options, g, x)
        return torch.ops.aten.convolution_backward.default(g, x, weight, None, *options, [False, True, False])[1]

    @staticmethod
    def backward(ctx: Any, h: Tensor | None) -> tuple[Tensor | None, ...]:
        dg = dx = None
        if h is not None:
            g, x = ctx.saved_tensors
            if _is_wanted(ctx, 0):
                dg = _Convolution.apply(x, h, None, ctx.options)
            if _is_wanted(ctx, 1):
                dx = _InputGradient.apply(g, h, x.detach(), ctx.options)
        return dg, dx, None, None


def _save(ctx: Any, options: tuple, *tensors: Tensor) -> None:
    ctx.save_for_backward(*tensors)
    ctx.options = options
    ctx.set_materialize_grads(False)


def _is_wanted(ctx: Any, i: int) -> bool:
    """Whether this backward pass leads anywhere from input i: autograd tells a Function only that i requires grad."""
    if not ctx.needs_input_grad[i]:
        return False
    try:
        return torch._C._will_engine_execute_node(ctx.next_functions[i][0])
    except RuntimeError:
        # That is how it answers for a leaf that autograd.grad was asked for.
        return True
