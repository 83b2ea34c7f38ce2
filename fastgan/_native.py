"""The one file that hands torch tensors to compiled code: pointers, dtype codes, device guard, stream."""

import torch
from torch import Tensor

from fastgan import _C

# The codes of `enum class DType` in csrc/dtype.h.
_DTYPE_CODES = {torch.float64: 0, torch.float32: 1, torch.bfloat16: 2, torch.float16: 3}


def launch(function: str, device: torch.device, *args: object) -> None:
    """Call a compiled function on the device's stream, or with torch's number of threads on the CPU.

    A tensor is passed as its address, None as a null pointer, a list of tensors as their addresses, a dtype as its
    code, and numbers as they are. On CUDA the call returns before the kernels have run; torch's allocator keeps memory
    that is freed meanwhile for the same stream.
    """
    arguments = [_argument(arg) for arg in args]
    if device.type == "cpu":
        getattr(_C.cpu, function)(*arguments, torch.get_num_threads())
    else:
        with torch.cuda.device(device):
            getattr(_C.cuda, function)(*arguments, torch.cuda.current_stream(device).cuda_stream)


def query(function: str, device: torch.device, *args: object) -> int:
    """Call a compiled function that computes a size and launches nothing."""
    return getattr(getattr(_C, device.type), function)(*args)


def _argument(value: object) -> object:
    if isinstance(value, Tensor):
        return value.data_ptr()
    if isinstance(value, list):
        return [tensor.data_ptr() for tensor in value]
    if isinstance(value, torch.dtype):
        return _DTYPE_CODES[value]
    return 0 if value is None else value
