"""What calls of interpolation and pooling say, brought to one form."""

from collections.abc import Sequence
from math import inf, isfinite
from typing import Any

from torch import Tensor

from fastgan.intercept import Call


class UnfitError(Exception):
    """What torch refuses, or ours would: the call is left to torch."""


def each(value: Any, n: int, least: float = -inf, one_for_all: bool = True) -> tuple:
    """One finite number for each axis; a list of one may be for all of them."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * n
    values = values * n if len(values) == 1 and one_for_all else values
    if len(values) != n or not all(isinstance(v, (int, float)) and isfinite(v) and v >= least for v in values):
        raise UnfitError("its arguments do not fit")
    return values


def growth(x: Tensor, size: Any, factor: Any) -> tuple[int, ...] | None:
    """Whole numbers by which every axis grows; None if they are none."""
    n = x.ndim - 2
    if size is not None:
        sizes = each(size, n, least=1, one_for_all=False)
        if any(new % old for new, old in zip(sizes, x.shape[2:], strict=True)):
            return None
        scale = tuple(new // old for new, old in zip(sizes, x.shape[2:], strict=True))
    else:
        factors = each(factor, n, one_for_all=False)
        scale = tuple(int(f) for f in factors)
        if any(s != f for s, f in zip(scale, factors, strict=True)):
            return None
    return scale if min(scale) >= 1 else None


def shrinkage(call: Call, shape: Sequence[int]) -> tuple[int, ...] | str:
    """By how much a call averages; else why it does not fit, "" if it is no pooling at all."""
    n, a = len(shape) - 2, call.named() if call.name.endswith(f"avg_pool{len(shape) - 2}d") else {}
    if call.name == f"avg_pool{n}d":
        scale = each(a["kernel_size"], n, least=1)
        if (stride := a.get("stride")) not in (None, (), []) and each(stride, n) != scale:
            return "its windows overlap or leave pixels out"
        if any(each(a.get("padding", 0), n)) or a.get("divisor_override"):
            return "the pooling is padded or has a divisor of its own"
        if a.get("ceil_mode") and any(size % s for size, s in zip(shape[2:], scale, strict=True)):
            return "the pooling's last windows are cut off"
    elif call.name == f"adaptive_avg_pool{n}d":
        wanted = a["output_size"]
        if isinstance(wanted, (tuple, list)) and len(wanted) == n:
            wanted = [old if new is None else new for old, new in zip(shape[2:], wanted, strict=True)]
        sizes = each(wanted, n, least=1, one_for_all=False)
        if any(old % new for old, new in zip(shape[2:], sizes, strict=True)):
            return "the windows of the pooling differ"
        scale = tuple(old // new for old, new in zip(shape[2:], sizes, strict=True))
    else:
        return ""
    return "the pooling leaves nothing" if any(size < s for size, s in zip(shape[2:], scale, strict=True)) else scale
