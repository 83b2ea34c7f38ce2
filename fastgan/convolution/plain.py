"""torch's convolutions, for code that differentiates twice: their arguments, and when torch's own run."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from fastgan.autocast import autocast_dtype
from fastgan.convolution.double_backward import convolution
from fastgan.convolution.forms import Options
from fastgan.ops.op import overridable

Size = int | tuple[int, ...]


def convolve(
    n: int,
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """torch's conv1d, conv2d and conv3d, n being 1, 2 and 3."""
    ours = _is_ours(n, input, weight, bias)
    amounts = _each(n, stride, 0 if padding == "valid" else padding, dilation) if ours else None
    if amounts is None:
        return _CONVOLUTIONS[n](input, weight, bias, stride, padding, dilation, groups)
    return _as_autocast(input, weight, bias, Options(*amounts, False, [0] * n, groups))


def convolve_transposed(
    n: int,
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """torch's conv_transpose1d, conv_transpose2d and conv_transpose3d."""
    ours = _is_ours(n, input, weight, bias)
    amounts = _each(n, stride, padding, dilation, output_padding) if ours else None
    if amounts is None:
        return _TRANSPOSED[n](input, weight, bias, stride, padding, output_padding, groups, dilation)
    return _as_autocast(input, weight, bias, Options(*amounts[:3], True, amounts[3], groups))


_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _is_ours(n: int, x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Not where something traces or transforms, and where there is no batch."""
    if torch.compiler.is_compiling():  # before all else: torch 2.6 traces no question after a type
        return False
    plain = type(x) in _PLAIN and type(weight) in _PLAIN and (bias is None or type(bias) in _PLAIN)
    return (
        plain
        and x.ndim == weight.ndim == n + 2
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


# --- the public functions ---

_DOC = """`torch.nn.functional.{name}`, whose double backward is several times as fast for groups.

    Outputs and first derivatives are torch's; those of higher order, in reverse mode, are torch's to rounding. In the
    backward of a gradient penalty torch computes the weight's gradient as a convolution whose kernel is a whole feature
    map, group by group; here it is a weight gradient like any other.

    Plain torch runs for samples without a batch dimension, for `padding="same"`, for subclasses of Tensor, where
    nothing requires grad, in forward mode and where something traces or transforms the call.

    Args, returns and errors: those of `torch.nn.functional.{name}`.

    Derivatives: any order.
    """


def _conv(n: int) -> Callable[..., Tensor]:
    def function(
        input: Tensor,  # noqa: A002
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
    ) -> Tensor:
        return convolve(n, input, weight, bias, stride, padding, dilation, groups)

    return _named(f"conv{n}d", function)


def _conv_transpose(n: int) -> Callable[..., Tensor]:
    def function(
        input: Tensor,  # noqa: A002
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        dilation: Size = 1,
    ) -> Tensor:
        return convolve_transposed(n, input, weight, bias, stride, padding, output_padding, groups, dilation)

    return _named(f"conv_transpose{n}d", function)


def _named(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = _DOC.format(name=name)
    return overridable(function)


conv1d, conv2d, conv3d = map(_conv, (1, 2, 3))
conv_transpose1d, conv_transpose2d, conv_transpose3d = map(_conv_transpose, (1, 2, 3))
