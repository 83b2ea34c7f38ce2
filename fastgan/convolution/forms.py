"""The three products of a convolution, y, dx = I(g, w) and dw = W(g, x), each in the form that is fastest.

torch's own is one form. On a CPU it brings images into blocks of channels and back, and there are two others:

"matmul": a 1x1 kernel is a matrix, and pixels are multiplied by it in the order in which they are stored.
"mirrored": a convolution is the input gradient of another, that with weights transposed and flipped. For groups of few
channels oneDNN's kernel for input gradients is up to twice as fast as that for convolutions.

All give the same numbers but for rounding. Which one runs is a rule, from times in float32 on AVX2 cores; on a GPU it
is always torch's. What is returned is never a view, which an autograd.Function must not return.
"""

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from fastgan import memory
from fastgan.autocast import autocast_dtype
from fastgan.convolution.folded_weight import float32_is_exact
from fastgan.ops.op import is_traced


class Options(NamedTuple):
    """What aten.convolution takes besides its tensors."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    transposed: bool
    output_padding: list[int]
    groups: int


# In every sample's product the weights are read again: that pays for so many pixels, or for small weights.
MATMUL_PIXELS = {"y": 64, "dx": 256}
MATMUL_WEIGHTS = 2**16
# For fewer pixels the weight's gradient is one product, of samples side by side.
SIDE_BY_SIDE_PIXELS = 256
# In a group.
MIRRORED_CHANNELS = (8, 16)


def has_faster_form(x: Tensor, weight: Tensor, options: Options) -> bool:
    """Whether a convolution, or its derivatives, may run in a form that is not torch's."""
    return _is_pointwise(x, weight, options) or _is_mirrored(x, weight, options)


def is_product(x: Tensor, weight: Tensor, options: Options) -> bool:
    """Whether the convolution runs as a product of matrices."""
    return _is_pointwise(x, weight, options) and _pays("y", x, weight)


def _is_pointwise(x: Tensor, weight: Tensor, options: Options) -> bool:
    """Whether it is a matrix times the pixels of every image, which are stored one after the other."""
    if options.transposed or options.groups > 1 or prod(weight.shape[2:]) > 1:
        return False
    if max(options.stride) > 1 or any(options.padding):
        return False
    return _is_exact(x, weight)


def _is_mirrored(x: Tensor, weight: Tensor, options: Options) -> bool:
    """Whether it runs as an input gradient."""
    kernel, groups = weight.shape[2:], options.groups
    if options.transposed or groups == 1 or len(kernel) != 2 or prod(kernel) == 1:
        return False
    if max(*options.stride, *options.dilation) > 1 or any(p >= k for p, k in zip(options.padding, kernel, strict=True)):
        return False
    few = weight.shape[0] // groups in MIRRORED_CHANNELS and weight.shape[1] in MIRRORED_CHANNELS
    return few and _is_exact(x, weight)


def _is_exact(*tensors: Tensor) -> bool:
    """Whether these are dense, and nothing rounds what is multiplied or watches."""
    x = tensors[0]
    if not x.is_cpu or x.dtype not in (torch.float32, torch.float64) or autocast_dtype("cpu"):
        return False
    if any(t.dtype != x.dtype or not t.numel() or not t.is_contiguous() for t in tensors):
        return False
    return (x.dtype == torch.float64 or float32_is_exact()) and not is_traced(*tensors)


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, options: Options) -> Tensor:
    """y = conv(x, weight) + bias, without derivatives."""
    if is_product(x, weight, options):
        y = _product(weight.flatten(1), x)
        return y if bias is None else y.add_(bias.view(-1, *[1] * (x.ndim - 2)))
    if _is_mirrored(x, weight, options):
        around = [k - 1 - p for k, p in zip(weight.shape[2:], options.padding, strict=True)]
        return torch.convolution(
            x, _mirrored(weight, options.groups), bias, *options._replace(padding=around, transposed=True)
        )
    return torch.convolution(x, weight, bias, *options)


def gradients(
    g: Tensor, x: Tensor, weight: Tensor, options: Options, wanted: list[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of x, weight and bias, those that are wanted, in torch's form: together they take less time."""
    channels = [g.shape[1]] if wanted[2] else None
    return _torchs_gradients(g, x, weight, channels, options, wanted)


def input_gradient(g: Tensor, weight: Tensor, x: Tensor, options: Options) -> Tensor:
    """dx = I(g, weight), of the shape of x."""
    if _is_pointwise(g, weight, options) and _pays("dx", g, weight):
        return _product(weight.flatten(1).t(), g)
    return _torchs_gradients(g, x, weight, None, options, [True, False, False])[0]


def weight_gradient(g: Tensor, x: Tensor, weight: Tensor, options: Options) -> Tensor:
    """dw = W(g, x), of the shape of weight."""
    if _is_pointwise(g, weight, options) and x.is_contiguous():
        dw = torch.empty_like(weight)
        if prod(x.shape[2:]) < SIDE_BY_SIDE_PIXELS:
            torch.mm(_side_by_side(g), _side_by_side(x).t(), out=dw.flatten(1))
            return dw
        # A product for each sample, and their sum: if it takes no more memory than a pass over the images.
        if len(x) * weight.numel() <= x.numel() + g.numel():
            torch.sum(torch.bmm(g.flatten(2), x.flatten(2).transpose(1, 2)), 0, out=dw.flatten(1))
            return dw
    return _torchs_gradients(g, x, weight, None, options, [False, True, False])[1]


def _torchs_gradients(
    g: Tensor, x: Tensor, weight: Tensor, channels: list[int] | None, options: Options, wanted: list[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    if weight.is_cpu:
        weight = weight.contiguous() if weight.ndim != 4 or 1 in weight.shape else weight
        g, x, weight = map(_with_strides_of_a_new_tensor, (g, x, weight))
    return torch.ops.aten.convolution_backward.default(g, x, weight, channels, *options, wanted)


def _with_strides_of_a_new_tensor(t: Tensor) -> Tensor:
    """Dimensions of size 1 may have any stride, and convolutions in 1d add one.

    For some strides torch 2.13 raises "grad_weight must be contiguous" or returns memory that it has not written.
    """
    return t.flatten().view(t.shape) if 1 in t.shape and t.is_contiguous() else t


def _pays(product: str, x: Tensor, weight: Tensor) -> bool:
    return prod(x.shape[2:]) >= MATMUL_PIXELS[product] or weight.numel() <= MATMUL_WEIGHTS


def _product(matrix: Tensor, x: Tensor) -> Tensor:
    """[C_out, C_in] times every pixel of x [N, C_in, ...]."""
    y = memory.empty((len(x), len(matrix), *x.shape[2:]), x.dtype, x.device)
    torch.bmm(matrix.expand(len(x), -1, -1), x.flatten(2), out=y.flatten(2))
    return y


def _side_by_side(x: Tensor) -> Tensor:
    """[N, C, ...] -> [C, N ...]."""
    return x.transpose(0, 1).flatten(1)


def _mirrored(weight: Tensor, groups: int) -> Tensor:
    """Input and output channels of every group exchanged, kernels flipped."""
    w = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    return w.flip(list(range(2, w.ndim)))
