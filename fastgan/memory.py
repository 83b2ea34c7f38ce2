"""Memory for outputs: on the CPU, pages that were touched before and that nobody holds any more.

The first touch of a fresh page costs more than the arithmetic of a memory-bound kernel. A large output on the CPU is
therefore placed in a mapping of its own, and the mapping is used again once the last tensor on it (view, saved tensor,
gradient) is gone.
"""

import mmap
import threading
import weakref
from collections import defaultdict
from collections.abc import Sequence
from math import prod

import torch

# From this size on malloc may map fresh pages for every tensor, and give them back with it.
SMALLEST_BLOCK = 128 << 10

_lock = threading.RLock()
_free: defaultdict[int, list[mmap.mmap]] = defaultdict(list)  # size -> blocks, the one used last at the end
_used: dict[int, tuple[weakref.ref, mmap.mmap]] = {}  # id of the reference -> a reference to the view, the block
_bytes = {"free": 0, "used": 0}


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """An uninitialised contiguous tensor that shares its storage with no other.

    Args:
        shape: any shape.
        dtype: any dtype.
        device: any device; memory is reused by fastgan on the CPU alone, elsewhere torch's allocator does it.
    """
    size = prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < SMALLEST_BLOCK:
        return torch.empty(shape, dtype=dtype, device=device)
    # `resize_` and not `view`: an output of an autograd.Function must not be a view.
    return torch.frombuffer(_view(size), dtype=dtype).resize_(shape)


def empty_like(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """An uninitialised tensor of a contiguous tensor's shape, on its device."""
    if tensor.numel() * dtype.itemsize < SMALLEST_BLOCK:
        return torch.empty_like(tensor, dtype=dtype)  # several times faster than a shape, a dtype and a device
    return empty(tensor.shape, dtype, tensor.device)


def empty_cache() -> None:
    """Return the pages that are kept for reuse to the system; tensors in use are not touched."""
    with _lock:
        _drop_until(0)


def kept_bytes() -> dict[str, int]:
    """How many bytes are mapped: `used` by living tensors, and `free`, kept for reuse."""
    return dict(_bytes)


def _view(size: int) -> memoryview:
    """A view of a block; when the last tensor on it dies the view dies, and the block is free again."""
    with _lock:
        if blocks := _free[size]:
            block = blocks.pop()
            _bytes["free"] -= size
        else:
            # What is kept for nothing stays below what is in use.
            _drop_until(_bytes["used"])
            block = _map(size)
        _bytes["used"] += size
        view = memoryview(block)
        reference = weakref.ref(view, _release)
        _used[id(reference)] = (reference, block)
        return view


def _map(size: int) -> mmap.mmap:
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size)
    # Python's default is MAP_SHARED: a forked process would write into these pages.
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        block.madvise(mmap.MADV_HUGEPAGE)
    return block


def _release(reference: weakref.ref) -> None:
    with _lock:
        _, block = _used.pop(id(reference))
        _free[len(block)].append(block)
        _bytes["used"] -= len(block)
        _bytes["free"] += len(block)


def _drop_until(limit: int) -> None:
    for size in list(_free):
        while _bytes["free"] > limit and _free[size]:
            _free[size].pop(0)
            _bytes["free"] -= size
        if not _free[size]:
            del _free[size]
