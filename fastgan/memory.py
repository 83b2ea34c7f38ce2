"""Memory for outputs: on the CPU, pages that were touched before and that nothing holds any more.

The first touch of a fresh page costs more than the arithmetic of a memory-bound kernel. A large output on the CPU is
therefore placed in a block of its own, and the block's pages are used again once the last tensor on it (view, saved
tensor, gradient) is gone. Such a tensor's storage cannot be resized. Blocks are compiled code: without it, memory is
torch's.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch.utils.dlpack import from_dlpack

from fastgan import _build_info

if not _build_info.REASON_CPU:
    from fastgan._C import cpu as _blocks
else:
    _blocks = None

# From this size on malloc may map fresh pages for every tensor, and give them back with it.
SMALLEST_BLOCK = 128 << 10
# DLPack's code and the bits of a dtype.
_TYPES = {torch.float64: (2, 64), torch.float32: (2, 32), torch.float16: (2, 16), torch.bfloat16: (4, 16)}


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """An uninitialised contiguous tensor that shares its storage with no other.

    Args:
        shape: any shape.
        dtype: float64, float32, bfloat16 or float16.
        device: any device; memory is reused by fastgan on the CPU alone, elsewhere torch's allocator does it.
    """
    size = prod(shape) * dtype.itemsize
    if size < SMALLEST_BLOCK or device.type != "cpu" or _blocks is None:
        return torch.empty(shape, dtype=dtype, device=device)
    return from_dlpack(_blocks.empty_block(shape, (), *_TYPES[dtype], size))


def empty_strided(
    shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """The same with these strides, those of a dense tensor in any order of its dimensions."""
    size = prod(shape) * dtype.itemsize
    if size < SMALLEST_BLOCK or device.type != "cpu" or _blocks is None:
        return torch.empty_strided(shape, strides, dtype=dtype, device=device)
    return from_dlpack(_blocks.empty_block(shape, strides, *_TYPES[dtype], size))


def empty_like(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The same with the shape, the strides and the device of a dense tensor."""
    size = tensor.numel() * dtype.itemsize
    if size < SMALLEST_BLOCK or not tensor.is_cpu or _blocks is None:
        return torch.empty_like(tensor, dtype=dtype)  # several times faster than a shape, a dtype and a device
    return from_dlpack(_blocks.empty_block(tensor.shape, tensor.stride(), *_TYPES[dtype], size))


def empty_cache() -> None:
    """Return the pages that are kept for reuse to the system; tensors in use are not touched."""
    if _blocks is not None:
        _blocks.forget_free_blocks()


def kept_bytes() -> dict[str, int]:
    """How many bytes are mapped: `used` by living tensors, and `free`, kept for reuse."""
    return {"free": 0, "used": 0} if _blocks is None else _blocks.block_bytes()
