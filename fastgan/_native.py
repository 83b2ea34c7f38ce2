"""The one file that hands torch tensors to compiled code: pointers, dtype codes, device guard, stream."""

from collections.abc import Sequence

import torch

from fastgan import _C

# The codes of `enum class DType` in csrc/dtype.h.
DTYPE_CODES = {torch.float64: 0, torch.float32: 1, torch.bfloat16: 2, torch.float16: 3}


def pointers(tensors: Sequence[torch.Tensor]) -> list[int]:
    """The addresses of tensors that the caller keeps alive until the launch has returned."""
    return [tensor.data_ptr() for tensor in tensors]


def launch(function: str, device: torch.device, *args: object) -> None:
    """Call `_C.<device type>.<function>(*args, stream)`, or `(*args, threads)` on the CPU; the launch is asynchronous on CUDA."""
    if device.type == "cpu":
        getattr(_C.cpu, function)(*args, torch.get_num_threads())
    else:
        with torch.cuda.device(device):
            getattr(_C.cuda, function)(*args, torch.cuda.current_stream(device).cuda_stream)


def query(function: str, device: torch.device, *args: object) -> int:
    """Call `_C.<device type>.<function>(*args)`, a function that computes a size and launches nothing."""
    return getattr(getattr(_C, device.type), function)(*args)
