"""What the ops on channels [N, C, ...] share: gradients asked for, vmap as more channels."""

from typing import Any

import torch
from torch import Tensor


def contiguous(*numbers: Tensor | None) -> list[Tensor | None]:
    """Numbers per channel for the kernels."""
    return [None if t is None else t.contiguous() for t in numbers]


def as_non_leaf(tensor: Tensor | None) -> Tensor | None:
    """The tensor as the output of a node of the graph, for `gradients_needed_now`: a leaf has none."""
    if tensor is None or not (tensor.requires_grad and tensor.is_leaf):
        return tensor
    return tensor.view_as(tensor)


def gradients_needed_now(ctx: Any) -> list[bool]:
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
