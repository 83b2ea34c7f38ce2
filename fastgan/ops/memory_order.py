"""Dense tensors computed as they lie: the order of a tensor's dimensions in memory, there and back.

What treats all elements of a row or a sample alike need not know which of them it meets first: a channels_last tensor
is handed to the kernels as it lies, dimension 0 being outermost, and the result gets its strides.
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
    """A tensor as it lies where it has a `memory_order`, else contiguous."""
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


def empty(like: Tensor, dtype: torch.dtype) -> Tensor:
    """What `from_memory` and `dense` return, empty."""
    if memory_order(like) is None:
        return like.new_empty(like.shape, dtype=dtype)
    return like.new_empty_strided(like.shape, like.stride(), dtype=dtype)
