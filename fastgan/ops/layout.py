"""What kernels take: how a dense tensor is stored, its sizes, and the dtype that is computed in.

What treats all values of a row or a sample alike need not know which of them it meets first: a channels_last tensor is
given to the kernels as it is stored, dimension 0 being outermost, and the result gets its strides. Ops on channels
[N, C, ...] take tensors whose channels are outermost or innermost in memory.
"""

import torch
from torch import Tensor

_CHANNELS_LAST = (0, 2, 3, 1)


def memory_order(tensor: Tensor) -> tuple[int, ...] | None:
    """The order of the dimensions in memory, where it is dense in another order with dimension 0 outermost, or None."""
    if tensor.is_contiguous():
        return None
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return _CHANNELS_LAST  # what the general rule below finds, several times as fast
    order = (0, *sorted(range(1, tensor.ndim), key=tensor.stride, reverse=True))
    return order if tensor.permute(order).is_contiguous() else None


def dense(tensor: Tensor) -> Tensor:
    """The tensor itself where it has a `memory_order`, else contiguous."""
    return tensor if memory_order(tensor) else tensor.contiguous()


def to_memory(tensor: Tensor, order: tuple[int, ...] | None) -> Tensor:
    """Contiguous, with its dimensions in this order; None is their own."""
    return (tensor if order is None else tensor.permute(order)).contiguous()


def from_memory(out: Tensor, like: Tensor, order: tuple[int, ...] | None) -> Tensor:
    """A result that was computed in this order, with the shape and the strides of `like`."""
    # In place: an output of an autograd.Function must not be a view.
    return out if order is None else out.as_strided_(like.shape, like.stride())


def in_order_of(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor of the shape of `like`, which is dense, with its dtype and its order of the dimensions in memory."""
    if tensor.stride() == like.stride() and tensor.dtype is like.dtype:
        return tensor
    order = memory_order(like)
    tensor = tensor.to(like.dtype)
    if order is None:
        return tensor.contiguous()
    return tensor if tensor.permute(order).is_contiguous() else torch.empty_like(like).copy_(tensor)


def empty_dense(like: Tensor, dtype: torch.dtype) -> Tensor:
    """What `from_memory` and `dense` return, empty."""
    if memory_order(like) is None:
        return like.new_empty(like.shape, dtype=dtype)
    return like.new_empty_strided(like.shape, like.stride(), dtype=dtype)


# --- channels ---


def channel_order(x: Tensor) -> tuple[int, ...] | None:
    """The `memory_order` that x is computed in: None for its own, else one with the channels at one of its ends."""
    order = memory_order(x)
    if order is None or 1 in (order[1], order[-1]):
        return order
    # Where a dimension of size 1 is in the order says nothing: a view may change its stride.
    sized = [dim for dim in order[1:] if x.shape[dim] != 1]
    positions = [dim for dim in order[1:] if dim != 1]
    if 1 not in sized or sized[0] == 1:
        return (0, 1, *positions)
    return (0, *positions, 1) if sized[-1] == 1 else None


def as_computed(x: Tensor) -> Tensor:
    """x itself where it has a `channel_order`, else contiguous."""
    return x if channel_order(x) else x.contiguous()


def channel_dim(order: tuple[int, ...] | None) -> int:
    """Which dimension the channels are in memory."""
    return 1 if order is None or order[1] == 1 else -1


def empty_channels(x: Tensor) -> Tensor:
    """What an op returns for x, empty: it has the strides of `as_computed(x)`."""
    return torch.empty_like(x) if channel_order(x) else torch.empty_like(x, memory_format=torch.contiguous_format)


def with_channels(x: Tensor, channels: int) -> tuple[list[int], list[int]]:
    """Shape and strides of a tensor with other channels than x, in the order that x is computed in."""
    shape = [x.shape[0], channels, *x.shape[2:]]
    strides, step = [0] * x.ndim, 1
    for dim in reversed(channel_order(x) or range(x.ndim)):
        strides[dim] = step
        step *= shape[dim]
    return shape, strides


# --- sizes, as kernels take them ---


def sizes(x: Tensor) -> tuple[int, int, int, bool]:
    """Samples, channels, positions, and whether the channels are taken to be innermost, of a dense x [N, C, ...].

    They are outermost or innermost in memory; the positions, in any order.
    """
    shape = x.shape
    count, channels = shape[0], shape[1]
    positions = x.numel() // (count * channels or 1)
    # The stride of a dimension of size 1 says nothing.
    return count, channels, positions, positions == 1 or (channels > 1 and x.stride(1) == 1)


def along(x: Tensor, dim: int) -> tuple[int, int, int]:
    """A dense x as [outer, channels, inner] in memory; the channels are its dimension `dim`."""
    count, channels = x.numel(), x.shape[dim]
    # The stride of a dimension of size 1 says nothing.
    inner = x.stride(dim) if channels > 1 else count // max(x.shape[0], 1)
    return count // max(channels * inner, 1), channels, inner


def strided(*values: Tensor | None) -> list[Tensor | int | None]:
    """Numbers [C] or [N, C], each with its stride from sample to sample."""
    return [item for t in values for item in (t, t.shape[1] if t is not None and t.ndim == 2 else 0)]


def has_per_sample_values(*values: Tensor | None) -> bool:
    """Whether any of these is [N, C], so that samples have values of their own, and not [C]."""
    return 2 in [t.ndim for t in values if t is not None]


def image_sizes(x: Tensor, dim: int) -> tuple[int, int, int, int]:
    """Samples, channels, height, width of an image as it is stored; the channels are dimension `dim`."""
    return x.shape if dim == 1 else (x.shape[0], x.shape[3], x.shape[1], x.shape[2])


def image_shape(count: int, channels: int, height: int, width: int, dim: int) -> tuple[int, int, int, int]:
    """The shape of such an image."""
    return (count, channels, height, width) if dim == 1 else (count, height, width, channels)


def contiguous(*values: Tensor | None) -> list[Tensor | None]:
    """Values per channel, for the kernels."""
    return [None if t is None else t.contiguous() for t in values]


# --- dtypes ---


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """What a dtype is accumulated in, and the dtype of values per sample."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def promoted(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the dtype that torch's arithmetic gives them: a generator under autocast makes half precision."""
    if a.dtype is b.dtype:
        return a, b
    dtype = torch.promote_types(a.dtype, b.dtype)
    return a.to(dtype), b.to(dtype)


def to_accumulation_dtype(values: Tensor, x: Tensor) -> Tensor:
    """Values for x's samples, or its channels, in the dtype that these are computed in."""
    dtype = accumulation_dtype(x.dtype)
    return values if values.dtype is dtype else values.to(dtype)  # a `to` for nothing takes longer than a kernel
