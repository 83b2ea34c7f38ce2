"""What the ops on a batch of samples [N, ...] share: the dtype they compute in, and vmap as a longer batch."""

import torch
from torch import Tensor


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """What a dtype is accumulated in, and the dtype of numbers per sample."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def promoted(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the dtype that torch's arithmetic gives them: a generator under autocast makes half precision."""
    if a.dtype is b.dtype:
        return a, b
    dtype = torch.promote_types(a.dtype, b.dtype)
    return a.to(dtype), b.to(dtype)


def to_accumulation_dtype(numbers: Tensor, x: Tensor) -> Tensor:
    """Numbers for x's samples, or its channels, in the dtype that these are computed in."""
    dtype = accumulation_dtype(x.dtype)
    return numbers if numbers.dtype is dtype else numbers.to(dtype)  # a `to` for nothing takes longer than a kernel


def fold(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """A vmapped tensor [N, ...] of `size` batches at `dim` (None: one for all of them) as [size * N, ...]."""
    batches = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return batches.reshape(size * batches.shape[1], *batches.shape[2:])


def unfold(tensor: Tensor, size: int) -> Tensor:
    """[size * N, ...] as [size, N, ...]."""
    return tensor.view(size, tensor.shape[0] // size, *tensor.shape[1:])
