"""Memory for outputs: on the CPU, pages that were touched before and that nobody holds any more.

The first touch of a fresh page costs more than the arithmetic of a memory-bound kernel. A large output on the CPU is
therefore placed in a block of its own, and the block's pages are used again once the last tensor on it (view, saved
tensor, gradient) is gone. Blocks are compiled code: without it, memory is torch's.
"""

from collections.abc import Sequence
from math import prod

import torch

from fastgan import _build_info

if not _build_info.REASON_CPU:
    from fastgan._C import cpu as _blocks
else:
    _blocks = None

# From this size on malloc may map fresh pages for every tensor, and give them back with it.
SMALLEST_BLOCK = 128 << 10


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """An uninitialised contiguous tensor that shares its storage with no other.

    Args:
        shape: any shape.
        dtype: any dtype.
        device: any device; memory is reused by fastgan on the CPU alone, elsewhere torch's allocator does it.
    """
    size = prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < SMALLEST_BLOCK or _blocks is None:
        return torch.empty(shape, dtype=dtype, device=device)
    # `resize_` and not `view`: an output of an autograd.Function must not be a view.
    return torch.frombuffer(_blocks.Block(size), dtype=dtype).resize_(shape)


def empty_like(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """An uninitialised tensor of a contiguous tensor's shape, on its device."""
    size = tensor.numel() * dtype.itemsize
    if size < SMALLEST_BLOCK or not tensor.is_cpu or _blocks is None:
        return torch.empty_like(tensor, dtype=dtype)  # several times faster than a shape, a dtype and a device
    return torch.frombuffer(_blocks.Block(size), dtype=dtype).resize_as_(tensor)


def empty_cache() -> None:
    """Return the pages that are kept for reuse to the system; tensors in use are not touched."""
    if _blocks is not None:
        _blocks.forget_free_blocks()


def kept_bytes() -> dict[str, int]:
    """How many bytes are mapped: `used` by living tensors, and `free`, kept for reuse."""
    return {"free": 0, "used": 0} if _blocks is None else _blocks.block_bytes()
