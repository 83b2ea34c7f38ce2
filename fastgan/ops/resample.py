"""Resampling by integers as a FIR filter: nearest and bilinear upsampling, and means of blocks of pixels.

torch brings contiguous images on a CPU into channels_last for it, and back; here they are filtered as they are stored.
Results are torch's to rounding, those of nearest upsampling its bits. Derivatives are `upfirdn2d`'s: any order.
"""

from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan import backends
from fastgan.filters import Resampling, channels_inside
from fastgan.ops.upfirdn2d import MOST_TAPS, resampled
from fastgan.reference import upfirdn2d as reference

LEAST = 2**15  # pixels of all channels of the larger image: for fewer the call takes longer than it saves


def is_faster(x: Tensor, scale: tuple[int, ...], up: bool) -> bool:
    """Whether this is faster than torch's for x [N, C, H, W], by the same s >= 2 along both axes."""
    larger = x.numel() * (prod(scale) if up else 1)
    return (
        x.is_cpu
        and x.ndim == 4
        and len(set(scale)) == 1
        and 2 <= scale[0] <= MOST_TAPS // 2
        and larger >= LEAST
        and not channels_inside(x)
        and backends.pick("upfirdn2d", x) is not reference
    )


def _unchecked(x: Tensor, f: Tensor, *how: Any) -> Tensor:
    return resampled(x, f, Resampling(*how))


def nearest(x: Tensor, s: int, by: Callable[..., Tensor] = _unchecked) -> Tensor:
    """Every pixel s times along both axes; `by` is the op, or the public function, which modes may see."""
    return by(x, box((s, s), x.device), (s, s), (1, 1), (s - 1, 0, s - 1, 0), False, 1.0)


def mean(x: Tensor, s: int, by: Callable[..., Tensor] = _unchecked) -> Tensor:
    """The mean of every block of s x s pixels; what fills no block is dropped."""
    return by(x, box((s, s), x.device), (1, 1), (s, s), (0, 0, 0, 0), False, 1 / s**2)


def bilinear(x: Tensor, s: int, by: Callable[..., Tensor] = _unchecked) -> Tensor:
    """Between the centres of pixels (`align_corners=False`), and the last pixels beyond them."""
    taps, gain = _tent(s, x.device)
    before = (len(taps) - s - 2) // 2
    around = (before, len(taps) - 2 * s - 1 - before) * 2
    return by(F.pad(x, (1, 1, 1, 1), mode="replicate"), taps, (s, s), (1, 1), around, False, gain)


@cache
def box(scale: tuple[int, int], device: torch.device) -> Tensor:
    """Ones, [s] or [sh, sw]."""
    with torch.inference_mode(False):  # it may be kept for a backward
        return torch.ones(scale[:1] if scale[0] == scale[1] else scale, dtype=torch.float32, device=device)


@cache
def _tent(s: int, device: torch.device) -> tuple[Tensor, float]:
    """Integers that fall off from the middle, and the gain that makes weights of them."""
    half = range(1, s + 1) if s % 2 else range(1, 2 * s, 2)
    taps = [*half, *reversed(half[: -1 if s % 2 else None])]
    with torch.inference_mode(False):
        return torch.tensor(taps, dtype=torch.float32, device=device), 1 / (s if s % 2 else 2 * s) ** 2
