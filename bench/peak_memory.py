"""The most memory that one call holds beyond what was there before it."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch

from fastgan import memory

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")


def peak_bytes(run: Callable[[], object], device: torch.device) -> int | None:
    """Peak of one call, in bytes: torch's allocator on CUDA, the process's resident pages on the CPU (Linux alone).

    Returns None where the peak cannot be read.
    """
    gc.collect()
    memory.empty_cache()
    if device.type == "cuda":
        return _cuda_peak(run, device)
    try:
        # What malloc keeps would hide what the call takes.
        ctypes.CDLL(None).malloc_trim(0)
        # Resets the peak to what is resident now.
        CLEAR_REFS.write_text("5")
    except (AttributeError, OSError):
        return None
    before = _status_bytes("VmRSS")
    run()
    return max(_status_bytes("VmHWM") - before, 0)


def _cuda_peak(run: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _status_bytes(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
