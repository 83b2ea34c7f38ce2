"""Weights [C_out, C_in / groups, k...] that convolve and resample at once.

Along each axis, with resampling by s and K = k + s - 1 taps:

    up      T[m] = sum_r w[k - 1 - m + r]          of the transposed convolution with stride s and padding k - 1 - p
    down    S[m] = sum_r w[m - r] / s              of the convolution with stride s and padding p      r = 0 .. s - 1

So a folded weight is the weight times a small constant matrix [k, K] along each axis.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache, reduce
from typing import Any

import torch
from torch import Tensor

from fastgan.autocast import autocast_dtype
from fastgan.ops.op import is_traced


def transposed(weight: Tensor, scale: Sequence[int], groups: int) -> Tensor:
    """T [C_in, C_out / groups, K...] as `conv_transpose` takes it."""
    kernel = weight.shape[2:]
    taps = weight.contiguous().flatten(2).unflatten(0, (groups, -1)).transpose(1, 2)
    out = _times(taps, _matrix(_up, tuple(kernel), tuple(scale), weight))
    return out.reshape(-1, out.shape[2], *_sizes(kernel, scale))


def strided(weight: Tensor, scale: Sequence[int]) -> Tensor:
    """S [C_out, C_in / groups, K...] as `conv` takes it, in the weight's memory format."""
    kernel = weight.shape[2:]
    matrix = _matrix(_down, tuple(kernel), tuple(scale), weight)
    if weight.ndim == 4 and weight.stride(1) == 1 and not weight.is_contiguous():
        out = _times(weight.flatten(2).transpose(1, 2), matrix, taps_last=False)
        return out.unflatten(1, _sizes(kernel, scale)).permute(0, 3, 1, 2)
    return _times(weight.flatten(2), matrix).unflatten(2, _sizes(kernel, scale))


def polyphase(weight: Tensor, scale: Sequence[int]) -> Tensor:
    """T by phase of the output, [C_out * prod(s), C_in / groups, t...] with t = ceil(K / s), as `conv` takes it."""
    kernel = weight.shape[2:]
    out = _times(weight.flatten(2), _matrix(_phases, tuple(kernel), tuple(scale), weight))
    taps = [phase_taps(k, s) for k, s in zip(kernel, scale, strict=True)]
    # The columns of the matrix are (phase, tap) along each axis in turn.
    axes = [size for pair in zip(scale, taps, strict=True) for size in pair]
    out = out.unflatten(2, axes)
    n = len(scale)
    out = out.permute(0, *range(2, 2 + 2 * n, 2), 1, *range(3, 3 + 2 * n, 2))
    return out.reshape(-1, weight.shape[1], *taps)


def phase_taps(k: int, s: int) -> int:
    """How many pixels one output sees along an axis, at most."""
    return -(-(k + s - 1) // s)


def float32_is_exact() -> bool:
    """Whether matrix products of float32 are: torch may have been told to round their inputs."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # the newer settings, for each backend, were used
        return False


def _sizes(kernel: Sequence[int], scale: Sequence[int]) -> list[int]:
    return [k + s - 1 for k, s in zip(kernel, scale, strict=True)]


def _times(taps: Tensor, matrix: Tensor, *, taps_last: bool = True) -> Tensor:
    """taps [..., prod(k)] or [..., prod(k), C] times [prod(k), columns], rounded once to the dtype of the taps."""
    # Entered only where it has to be: it takes longer than a small product.
    autocast = autocast_dtype(taps.device.type)
    with torch.autocast(taps.device.type, enabled=False) if autocast else nullcontext():
        exact = taps.to(matrix.dtype)
        return (exact @ matrix if taps_last else matrix.mT @ exact).to(taps.dtype)


def _up(k: int, s: int) -> list[list[float]]:
    return [[1.0 if k - 1 <= a + m <= k + s - 2 else 0.0 for m in range(k + s - 1)] for a in range(k)]


def _down(k: int, s: int) -> list[list[float]]:
    return [[1 / s if 0 <= m - a < s else 0.0 for m in range(k + s - 1)] for a in range(k)]


def _phases(k: int, s: int) -> list[list[float]]:
    # Output s j + q sees input j - l by tap q + s l of T; a convolution meets the largest l first.
    t = phase_taps(k, s)
    taps = [q + s * (t - 1 - e) for q in range(s) for e in range(t)]
    return [[row[m] if m < k + s - 1 else 0.0 for m in taps] for row in _up(k, s)]


def _matrix(rule: Callable, kernel: tuple[int, ...], scale: tuple[int, ...], weight: Tensor) -> Tensor:
    # On a GPU float32 products may be taken in TF32, and a compiler cannot ask; those of float64 are what they are.
    if is_traced(weight):
        return _new_matrix(rule, kernel, scale, weight.device, torch.float64)
    exact = weight.device.type == "cpu" and weight.dtype != torch.float64 and float32_is_exact()
    return _kept_matrix(rule, kernel, scale, weight.device, torch.float32 if exact else torch.float64)


def _new_matrix(
    rule: Callable, kernel: tuple[int, ...], scale: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> Tensor:
    """The Kronecker product of the axes' matrices: taps that are flattened are folded along all axes at once."""
    axes = [rule(k, s) for k, s in zip(kernel, scale, strict=True)]
    return torch.tensor(reduce(_kron, axes), dtype=dtype, device=device)


@cache
def _kept_matrix(*arguments: Any) -> Tensor:
    # Not an inference tensor: it is saved for a backward.
    with torch.inference_mode(False):
        return _new_matrix(*arguments)


def _kron(a: list[list[float]], b: list[list[float]]) -> list[list[float]]:
    return [[x * y for x in row_a for y in row_b] for row_a in a for row_b in b]
