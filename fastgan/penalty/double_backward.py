"""Double backward without its waste: zeros are not computed, nor weight gradients as convolutions by feature maps."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.utils.checkpoint import CheckpointError

from fastgan import check
from fastgan.intercept.convolutions import EfficientConvolutions

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
        RuntimeError: torch has no second derivative of an operation between them; the message names it.

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
    try:
        dxs = torch.autograd.grad(y, xs, dy, create_graph=True, allow_unused=True)
    except CheckpointError as error:
        raise RuntimeError(
            "a checkpoint runs its operations again in another form than in the forward, which penalties put there: "
            "with attention inside, call this and the loss's backward within "
            "torch.nn.attention.sdpa_kernel(SDPBackend.MATH)"
        ) from error
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
    """Make the nodes of a graph return None where they would return zeros; raise where one will not run."""
    seen, stack = set(roots), list(roots)
    while stack:
        node = stack.pop()
        name = node.name()
        if hook := _HOOKS.get(name):
            node.register_hook(hook)
        elif name == "torch::autograd::NotImplemented":
            raise RuntimeError(_no_second_derivative(node))
        for below, _ in node.next_functions:
            if below is not None and below not in seen:
                seen.add(below)
                stack.append(below)


def _no_second_derivative(node: Node) -> str:
    try:
        node(*[None] * len(node._input_metadata))
    except RuntimeError as error:  # it says which operation
        said = str(error).partition("\n")[0].rstrip(".")
    return (
        f"torch cannot differentiate the critic twice, as a penalty on its gradient needs: {said}. Write this layer in "
        "operations whose backward has a derivative, or leave it out of what the penalty differentiates"
    )


# --- convolutions ---


def efficient_convolutions() -> EfficientConvolutions:
    """A context for a critic's forward, in which convolutions are `fastgan.functional`'s: see there.

    with efficient_convolutions():
        logits = critic(x)

    Operations whose fused form can be differentiated only once, such as attention, run in one that can be twice.
    """
    return EfficientConvolutions()
