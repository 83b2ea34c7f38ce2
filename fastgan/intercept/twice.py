"""Operations that torch differentiates once, run in a form that can be differentiated twice.

Those of which no such form is known are named by `fastgan.penalty.double_backward`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.intercept.nested import tensors_in
from fastgan.intercept.process_wide import ProcessWide


class Form(NamedTuple):
    """Another way to run a call: (function, args, kwargs) -> its result; and why."""

    run: Callable[[Callable, tuple, dict[str, Any]], Any]
    reason: str


def form(function: Callable, args: tuple, kwargs: dict[str, Any]) -> Form | None:
    """The form for a call of torch; None where torch's own can be differentiated twice."""
    name = getattr(function, "__name__", "").partition(".")[0].rstrip("_")  # an overload's is "name.default"
    if name in _IN_CUDNN and _on_cuda(args, kwargs):
        return Form(_without_cudnn, f"{name} runs without cuDNN, whose form has no second derivative")
    return _FORMS.get(name)


# --- another of torch's own forms ---


def _within(context: ProcessWide) -> Callable[[Callable, tuple, dict[str, Any]], Any]:
    return lambda function, args, kwargs: context.run(lambda: function(*args, **kwargs))


_ATTENTION_KERNELS = (
    (torch.backends.cuda.math_sdp_enabled, torch.backends.cuda.enable_math_sdp),
    (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp),
    (torch.backends.cuda.mem_efficient_sdp_enabled, torch.backends.cuda.enable_mem_efficient_sdp),
    (torch.backends.cuda.cudnn_sdp_enabled, torch.backends.cuda.enable_cudnn_sdp),
)


def _enabled_kernels() -> tuple[bool, ...]:
    return tuple(enabled() for enabled, _ in _ATTENTION_KERNELS)


def _enable_kernels(values: tuple[bool, ...]) -> None:
    for (_, enable), value in zip(_ATTENTION_KERNELS, values, strict=True):
        enable(value)


_math_attention = _within(ProcessWide(_enabled_kernels, _enable_kernels, (True, False, False, False)))
_without_cudnn = _within(ProcessWide(torch._C._get_cudnn_enabled, torch._C._set_cudnn_enabled, False))
_IN_CUDNN = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu", "grid_sample", "grid_sampler", "grid_sampler_2d"})


def _on_cuda(args: tuple, kwargs: dict[str, Any]) -> bool:
    return any(tensor.is_cuda for tensor in tensors_in((args, kwargs)))


# --- the same in other operations ---


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:  # noqa: A002
    y = F.relu6(input + 3) / 6
    return input.copy_(y) if inplace else y


def _cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: Any = None) -> Tensor:
    return _norms(x1.unsqueeze(-2) - x2.unsqueeze(-3), p)


def _pdist(input: Tensor, p: float = 2.0) -> Tensor:  # noqa: A002
    i, j = torch.triu_indices(len(input), len(input), 1, device=input.device)
    return _norms(input[i] - input[j], p)


def _norms(x: Tensor, p: float) -> Tensor:
    """Of the last dimension; all derivatives of a norm of zero are zero."""
    zero = (x == 0).all(-1)
    return torch.linalg.vector_norm(x.masked_fill(zero.unsqueeze(-1), 1), p, -1).masked_fill(zero, 0)


def _instead(other: Callable) -> Callable[[Callable, tuple, dict[str, Any]], Any]:
    return lambda function, args, kwargs: other(*args, **kwargs)


# What runs attention in C++ where no gradient is asked for calls one of the first two where one is.
_FORMS = dict.fromkeys(
    ("scaled_dot_product_attention", "multi_head_attention_forward"),
    Form(
        _math_attention,
        "attention runs in its math form: the fused ones have no second derivative",
    ),
) | {
    name: Form(_instead(other), f"{name} runs in several operations: the fused one has no second derivative")
    for name, other in (("hardsigmoid", _hardsigmoid), ("cdist", _cdist), ("pdist", _pdist))
}
