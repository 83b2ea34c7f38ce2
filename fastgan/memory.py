"""Memory for outputs: on the CPU, pages that were touched before and that nobody holds any more.

The first touch of a fresh page costs more than the arithmetic of a memory-bound kernel. A large output on the CPU is
therefore placed in a mapping of its own, and the mapping is used again once the last tensor on it (view, saved tensor,
gradient) is gone.
"""

import mmap
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from math import prod

import torch

# Below this, malloc hands out warm memory anyway.
SMALLEST_BLOCK = 1 << 20

_lock = threading.RLock()
_free: OrderedDict[int, mmap.mmap] = OrderedDict()  # id(block) -> block, the longest unused first
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
    storage = torch.frombuffer(_view(size), dtype=torch.uint8).untyped_storage()
    # `set_` and not `view`: an output of an autograd.Function must not be a view.
    return torch.empty(0, dtype=dtype).set_(storage, 0, torch.Size(shape))


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
        # The one used last: it may still be in the cache.
        block = next((b for b in reversed(_free.values()) if len(b) == size), None)
        if block is None:
            # What is kept for nothing stays below what is in use.
            _drop_until(_bytes["used"])
            block = mmap.mmap(-1, size)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                block.madvise(mmap.MADV_HUGEPAGE)
        else:
            del _free[id(block)]
            _bytes["free"] -= size
        _bytes["used"] += size
        view = memoryview(block)
        weakref.finalize(view, _release, block).atexit = False
        return view


def _release(block: mmap.mmap) -> None:
    with _lock:
        _free[id(block)] = block
        _bytes["used"] -= len(block)
        _bytes["free"] += len(block)


def _drop_until(limit: int) -> None:
    while _bytes["free"] > limit:
        _, block = _free.popitem(last=False)
        _bytes["free"] -= len(block)
