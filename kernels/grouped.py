"""The way from a program to its tensor, for kernels that take a list of tensors in one launch, and exact arithmetic.

A grouped kernel gets two tables: which tensor and which part of it each program works on (shapes alone decide), and the
addresses of the tensors, which are uploaded at every call.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl

TRITON_DTYPES = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}
SUM_BLOCK = tl.constexpr(256)


@triton.jit
def program_entry(programs):
    """The index of the tensor that this program works on, and of its part there."""
    entry = programs + 2 * tl.program_id(0)
    return tl.load(entry).to(tl.int64), tl.load(entry + 1).to(tl.int64)


@triton.jit
def pointer(address, DTYPE: tl.constexpr, VECTOR: tl.constexpr):
    """VECTOR > 1 promises the compiler that the address is a multiple of 16 bytes."""
    x = address.to(tl.pointer_type(DTYPE))
    return tl.multiple_of(x, 16) if VECTOR > 1 else x


@triton.jit
def cast(x, DTYPE: tl.constexpr):
    """Round as torch does: to half precision by way of float32."""
    if DTYPE == tl.float64:  # noqa: SIM300
        return x.to(DTYPE)
    return x.to(tl.float32).to(DTYPE)


@triton.jit
def div(x, y):
    """Quotient x / y, correctly rounded; plain `/` of float32 is an approximation."""
    return x / y if x.dtype.is_fp64() else tl.div_rn(x, y)


@triton.jit
def sqrt(x):
    """Square root, correctly rounded."""
    return tl.sqrt(x) if x.dtype.is_fp64() else tl.sqrt_rn(x)


@triton.jit
def parts_of(size, PART: tl.constexpr):
    """How many parts of PART, or less, make a size of 1 or more; `tl.cdiv` overflows where size is almost 2^31.

    So does the last step of a loop over a size: what may be as large is looped over by its parts.
    """
    return (size - 1) // PART + 1


@triton.jit
def total(x, count):
    """Sum of `count` elements at x, always in the same order."""
    index = tl.arange(0, SUM_BLOCK)
    sums = tl.zeros([SUM_BLOCK], x.dtype.element_ty)
    for block in range(parts_of(count, SUM_BLOCK)):
        at = block * SUM_BLOCK + index
        sums += tl.load(x + at, mask=at < count, other=0.0)
    return tl.sum(sums, 0)


def program_table(order: Sequence[int], parts: Sequence[int], device: torch.device) -> torch.Tensor:
    """The tensor and the part of each program [number of programs, 2] int32; tensor i has parts[i] parts."""
    return torch.tensor([(i, part) for i in order for part in range(parts[i])], dtype=torch.int32, device=device)


def pointer_table(op: str, device: torch.device, *roles: Sequence[torch.Tensor]) -> torch.Tensor:
    """Addresses [number of tensors, number of roles] int64 on the device, in one copy that does not wait.

    Raises:
        RuntimeError: a CUDA graph is being captured; it would replay the copy from host memory that is gone by then.
    """
    on_cuda = device.type == "cuda"
    if on_cuda and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"{op}: the triton backend uploads a table of pointers at every call, which a CUDA graph cannot capture; "
            'use fastgan.backend("cuda"), which passes the table by value'
        )
    addresses = [[tensor.data_ptr() for tensor in tensors] for tensors in zip(*roles, strict=True)]
    return torch.tensor(addresses, dtype=torch.int64, pin_memory=on_cuda).to(device, non_blocking=True)


def device_guard(device: torch.device) -> AbstractContextManager:
    """Triton launches on torch's current device, whatever device the tensors are on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
