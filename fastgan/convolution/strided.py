"""A convolution with a stride and its transpose on channels_last images, and the weight's gradient in matrix products.

    small[o, i] = sum over c, k of weight[o, c, k] large[c, s i + k]        along both axes, s the stride

is linear in either of its two tensors: the gradients, and theirs, are the three sums that leave one of the three open.
Those for `small` and `large` are torch's convolutions, of which oneDNN's for channels_last are the fast ones. Its
gradient of the weight is not: with the pixels of `large` dealt by their places modulo s, what a tap meets are pixels
side by side, and its gradient is one product of matrices. Between the rows of an image there are zeros for what the
shifted pixels reach over the border.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan import memory
from fastgan.ops.op import as_non_leaf, gradients_needed_now


class Spec(NamedTuple):
    """What is known besides the tensors: along both axes, and the memory format of the weight's gradient."""

    stride: tuple[int, int]
    kernel: tuple[int, int]
    weight_format: torch.memory_format


SMALL, LARGE, WEIGHT = range(3)
# By what is computed, what it is computed of.
_OF = {SMALL: (LARGE, WEIGHT), LARGE: (SMALL, WEIGHT), WEIGHT: (SMALL, LARGE)}


def convolve(large: Tensor, weight: Tensor, stride: tuple[int, int]) -> Tensor:
    """Small images [N, C_out, H, W] of large ones [N, C_in, s (H - 1) + k, ...]; weight [C_out, C_in, k, k]."""
    return _contract(SMALL, large, weight, _spec(weight, stride))


def transposed(small: Tensor, weight: Tensor, stride: tuple[int, int]) -> Tensor:
    """The other way, large images of small ones, with a weight [C of small, C of large, k, k]."""
    return _contract(LARGE, small, weight, _spec(weight, stride))


def _spec(weight: Tensor, stride: tuple[int, int]) -> Spec:
    inside = weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    return Spec(stride, tuple(weight.shape[2:]), torch.channels_last if inside else torch.contiguous_format)


def _contract(role: int, a: Tensor, b: Tensor, spec: Spec) -> Tensor:
    return _Contraction.apply(as_non_leaf(a), as_non_leaf(b), role, spec)


class _Contraction(torch.autograd.Function):
    """(a, b, role, spec) -> the tensor of this role; a and b are those of `_OF`. Differentiable to any order."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, role: int, spec: Spec) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.role, ctx.spec = role, spec
        ctx.save_for_backward(a, b)
        return _COMPUTE[role](a, b, spec)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 4
        given = dict(zip(_OF[ctx.role], ctx.saved_tensors, strict=True)) | {ctx.role: grad}
        gradients: list[Tensor | None] = [None, None]
        for i, (role, wanted) in enumerate(zip(_OF[ctx.role], gradients_needed_now(ctx), strict=True)):
            if wanted:
                gradients[i] = _contract(role, *(given[other] for other in _OF[role]), ctx.spec)
        return *gradients, None, None


def _small(large: Tensor, weight: Tensor, spec: Spec) -> Tensor:
    return F.conv2d(large.contiguous(memory_format=torch.channels_last), weight, stride=spec.stride)


def _large(small: Tensor, weight: Tensor, spec: Spec) -> Tensor:
    return F.conv_transpose2d(small.contiguous(memory_format=torch.channels_last), weight, stride=spec.stride)


def _weight(small: Tensor, large: Tensor, spec: Spec) -> Tensor:
    (n, c_small, *size), (sy, sx), (ky, kx) = small.shape, spec.stride, spec.kernel
    # With room for the pixels of the same place modulo s that taps reach beyond.
    rows, columns = size[0] + (ky - 1) // sy, size[1] + (kx - 1) // sx
    pixels = n * rows * columns - (ky - 1) // sy * columns - (kx - 1) // sx  # those after it are beyond the last image
    left = _padded(small, rows, columns)[:pixels].t()
    dealt = {
        (y, x): _padded(large[:, :, y::sy, x::sx], rows, columns)
        for y in range(min(sy, ky))
        for x in range(min(sx, kx))
    }
    out = small.new_empty(c_small, ky, kx, large.shape[1])
    for y, x in _taps(ky, kx):
        first = y // sy * columns + x // sx
        torch.mm(left, dealt[y % sy, x % sx][first : first + pixels], out=out[:, y, x])
    return out.permute(0, 3, 1, 2).contiguous(memory_format=spec.weight_format)


def _taps(ky: int, kx: int) -> Iterator[tuple[int, int]]:
    return ((y, x) for y in range(ky) for x in range(kx))


def _padded(images: Tensor, rows: int, columns: int) -> Tensor:
    """[N rows columns, C]: images [N, C, H, W] with zeros after their rows and below."""
    n, c, h, w = images.shape
    out = memory.empty((n, rows, columns, c), images.dtype, images.device)
    out[:, :h, :w] = images.permute(0, 2, 3, 1)
    out[:, h:] = 0
    out[:, :h, w:] = 0
    return out.view(-1, c)


_COMPUTE = {SMALL: _small, LARGE: _large, WEIGHT: _weight}
