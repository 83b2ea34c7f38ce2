"""What the ops on channels [N, C, ...] share: memory as it lies, gradients asked for, vmap as more channels."""

from typing import Any

import torch
from torch import Tensor

from fastgan.ops.memory_order import memory_order


def channel_order(x: Tensor) -> tuple[int, ...] | None:
    """The `memory_order` that x is computed in: None for its own, else one with the channels outermost or innermost."""
    order = memory_order(x)
    if order is None or 1 in (order[1], order[-1]):
        return order
    # Where a dimension of size 1 is in the order says nothing: a view may change its stride.
    sized = [dim for dim in order[1:] if x.shape[dim] != 1]
    return order if 1 not in sized or 1 in (sized[0], sized[-1]) else None


def as_computed(x: Tensor) -> Tensor:
    """x as it lies where it is computed so, else contiguous."""
    return x if channel_order(x) else x.contiguous()


def channel_dim(order: tuple[int, ...] | None) -> int:
    """Which dimension the channels are in memory."""
    return 1 if order is None or order[1] == 1 else -1


def empty(x: Tensor) -> Tensor:
    """What an op returns for x, empty: it has the strides of `as_computed(x)`."""
    return torch.empty_like(x) if channel_order(x) else torch.empty_like(x, memory_format=torch.contiguous_format)


def contiguous(*numbers: Tensor | None) -> list[Tensor | None]:
    """Numbers per channel for the kernels."""
    return [None if t is None else t.contiguous() for t in numbers]


def own_node(tensor: Tensor | None) -> Tensor | None:
    """The tensor as the output of a node of the graph, so that `wanted_now` can ask about it: a leaf has none."""
    if tensor is None or not (tensor.requires_grad and tensor.is_leaf):
        return tensor
    return tensor.view_as(tensor)


def wanted_now(ctx: Any) -> list[bool]:
    """Which tensors given to an autograd.Function the running backward needs a gradient of.

    `ctx.needs_input_grad` says which ever could: under `autograd.grad(y, x)` that is all of them.
    """
    if torch._C._current_graph_task_id() == -1:  # somebody calls the node by hand
        return [node is not None for node, _ in ctx.next_functions]
    return [node is not None and torch._C._will_engine_execute_node(node) for node, _ in ctx.next_functions]


def fold_channels(tensor: Tensor | None, dim: int | None, size: int, channels: int) -> Tensor | None:
    """A vmapped tensor of `size` batches at `dim` (None: one for all), its dimension `channels` counting for all."""
    if tensor is None:
        return None
    batches = tensor.unsqueeze(0).expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return batches.movedim(0, channels).flatten(channels, channels + 1)


def unfold_channels(tensor: Tensor, size: int, channels: int) -> Tensor:
    """The other way, the batches then being dimension `channels`."""
    return tensor.unflatten(channels, (size, tensor.shape[channels] // size))
