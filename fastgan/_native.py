"""The one file that hands torch tensors to compiled code: pointers, dtype codes, device guard, stream."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from fastgan import _C

# The codes of `enum class DType` in csrc/dtype.h.
_DTYPE_CODES = {torch.float64: 0, torch.float32: 1, torch.bfloat16: 2, torch.float16: 3}
# The codes of `enum class Activation` in csrc/activations.h.
_ACTIVATION_CODES = {
    name: code
    for code, name in enumerate(
        ("linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish", "gelu")
    )
}


def launch(function: str, device: torch.device, *args: object) -> None:
    """Call a compiled function on the device's stream, or with torch's number of threads on the CPU.

    A tensor is passed as its address, None as a null pointer, a list of tensors as their addresses, a dtype and an
    activation's name as their codes, and numbers as they are. On CUDA the call returns before the kernels have run;
    torch's allocator keeps memory that is freed meanwhile for the same stream.
    """
    try:
        arguments = [arg if (convert := _CONVERT[type(arg)]) is None else convert(arg) for arg in args]
    except RuntimeError as error:
        raise NotImplementedError(
            f"fastgan {function}: a tensor has no memory of its own, as with is_grads_batched=True or vectorize=True: "
            f"use torch.func, or compute the gradients one by one ({error})"
        ) from error
    run = _compiled(function, device)
    if device == _CPU:
        run(*arguments, torch.get_num_threads())
    else:
        with torch.cuda.device(device):
            run(*arguments, torch.cuda.current_stream(device).cuda_stream)


def query(function: str, device: torch.device, *args: object) -> int:
    """Call a compiled function that computes a size and launches nothing."""
    return _compiled(function, device)(*args)


@cache
def _compiled(function: str, device: torch.device) -> Callable:
    return getattr(getattr(_C, device.type), function)


_CPU = torch.device("cpu")


def _address(tensor: Tensor) -> int:
    """Where its memory is. A null pointer is that of a tensor without values, or of none at all."""
    return tensor.data_ptr() or _no_address(tensor)


def _no_address(tensor: Tensor) -> int:
    if tensor.numel():
        shape = list(tensor.shape)
        raise ValueError(f"a {tensor.dtype} tensor {shape} has no memory: its storage is empty, as after `resize_(0)`")
    return 0


class _Conversions(dict[type, Callable | None]):
    """By type, what makes an argument of a compiled function of it; None for what is passed as it is."""

    def __missing__(self, kind: type) -> Callable | None:
        self[kind] = convert = _address if issubclass(kind, Tensor) else None
        return convert


_CONVERT = _Conversions(
    {
        list: lambda tensors: [_address(tensor) for tensor in tensors],
        torch.dtype: _DTYPE_CODES.__getitem__,
        str: _ACTIVATION_CODES.__getitem__,
        type(None): lambda _: 0,
    }
)
