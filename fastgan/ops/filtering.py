"""What is made of `upfirdn2d`: filters of sequences and images, and the taps that they are given."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan import check
from fastgan.ops.op import is_traced
from fastgan.ops.upfirdn2d import MOST_STEP, MOST_TAPS, four, pair, upfirdn2d

_SEPARABLE_FROM = 8


def upfirdn1d(
    x: Tensor,
    f: Tensor | None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Upsample, filter and downsample sequences: `upfirdn2d` along one axis.

    Args:
        x: [N, C, L], N or C may be 0; dtypes as there.
        f: float32 [k], 1 to 64 taps, on x's device, a constant; None for the identity.
        up: 1 or more.
        down: 1 or more.
        padding: an int or [before, after]; negative to crop.
        flip_filter: False for a convolution, True for a correlation.
        gain: what y is multiplied by.

    Returns:
        [N, C, (L up + p0 + p1 - k) // down + 1] of x's dtype.

    Raises:
        TypeError, ValueError: an argument that is not as above, or an output without a value.

    Derivatives: as `upfirdn2d`.
    """
    if not isinstance(x, Tensor) or x.ndim != 3:
        raise ValueError(f"x must be [N, C, L], got {check.describe(x)}")
    if f is not None and (not isinstance(f, Tensor) or f.ndim != 1):
        raise ValueError(f"f must be [k] or None, got {check.describe(f)}")
    check.integers(up, "up", (1,), 1, MOST_STEP)
    check.integers(down, "down", (1,), 1, MOST_STEP)
    check.integers(padding, "padding", (2,))
    up, down = (value[0] if isinstance(value, (list, tuple)) else value for value in (up, down))
    before, after = padding if isinstance(padding, (list, tuple)) else (padding, padding)
    f = None if f is None else f[None]
    return upfirdn2d(x[:, :, None], f, [up, 1], [down, 1], [before, after, 0, 0], flip_filter, gain)[:, :, 0]


def setup_filter(
    f: Any,
    device: torch.device | str = "cpu",
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> Tensor:
    """Make a filter for `upfirdn2d` of its taps.

    Args:
        f: a list, array or tensor of taps: [k], [fh, fw], a number, or None for the identity.
        device: where the filter is to be.
        normalize: divide by the sum, so that a constant image stays what it is (but for the borders).
        flip_filter: flip every axis.
        gain: what an image is multiplied by; a filter that is applied along both axes gets the root of it.
        separable: keep taps [k] as they are, to be applied along both axes, rather than make [k, k] of them. None: from
            8 taps on. Both give the same results in the same time, see `upfirdn2d`.

    Returns:
        float32 [k] or [fh, fw].

    Raises:
        ValueError: taps of other dimensions or none at all, or [fh, fw] with separable=True; taps whose sum is 0 with
            normalize=True; a negative gain, which has no root, where taps [k] stay as they are.
    """
    taps = torch.as_tensor(1 if f is None else f, dtype=torch.float32, device="cpu").detach()
    if taps.ndim > 2 or taps.numel() == 0:
        raise ValueError(f"f must be taps [k] or [fh, fw], a number or None, got {check.describe(taps)}")
    taps = taps.reshape(1) if taps.ndim == 0 else taps
    if separable and taps.ndim == 2:
        raise ValueError(f"separable=True needs an f of taps [k], got {check.describe(taps)}")
    if separable is None:
        separable = taps.ndim == 1 and taps.numel() >= _SEPARABLE_FROM
    if taps.ndim == 1 and not separable:
        taps = torch.outer(taps, taps)
    check.finite(gain, "gain")
    if gain < 0 and taps.ndim == 1:
        raise ValueError(f"gain must be 0 or more for a filter [k] along both axes, got {check.short(gain)}")
    if normalize:
        if not is_traced(taps) and not taps.sum():
            raise ValueError("normalize=True needs an f of taps whose sum is not 0")
        taps = taps / taps.sum()
    if flip_filter:
        taps = taps.flip(list(range(taps.ndim)))
    return (taps * gain ** (taps.ndim / 2)).to(device)


def filter2d(
    x: Tensor, f: Tensor | None, padding: int | Sequence[int] = 0, flip_filter: bool = False, gain: float = 1
) -> Tensor:
    """Filter images and keep their size: `upfirdn2d` with k // 2 zeros before and (k - 1) // 2 after.

    Args:
        x: [N, C, H, W], as in `upfirdn2d`.
        f: as in `upfirdn2d`.
        padding: what is added to that padding, as in `upfirdn2d`; negative to crop.
        flip_filter: as in `upfirdn2d`.
        gain: as in `upfirdn2d`.

    Returns:
        [N, C, H, W], or larger or smaller by `padding`.

    Raises:
        TypeError, ValueError: as `upfirdn2d`.

    Derivatives: as `upfirdn2d`.
    """
    around = [[k // 2, (k - 1) // 2] for k in _taps(f)]
    return upfirdn2d(x, f, 1, 1, _around(around, padding), flip_filter, gain)


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Upsample images: `upfirdn2d` with (k + up - 1) // 2 zeros before and (k - up) // 2 after, cropped if negative.

    The gain is multiplied by up along each axis, so that with a filter whose sum is 1 a constant image stays what it is
    (but for the borders).

    Args:
        x: [N, C, H, W], as in `upfirdn2d`.
        f: as in `upfirdn2d`.
        up: 1 or more, or [x, y].
        padding: what is added to that padding, as in `upfirdn2d`; negative to crop.
        flip_filter: as in `upfirdn2d`.
        gain: as in `upfirdn2d`.

    Returns:
        [N, C, up H, up W], or larger or smaller by `padding`.

    Raises:
        TypeError, ValueError: as `upfirdn2d`.

    Derivatives: as `upfirdn2d`.
    """
    up = pair(up, "up")
    around = [[(k + u - 1) // 2, (k - u) // 2] for k, u in zip(_taps(f), up, strict=True)]
    return upfirdn2d(x, f, up, 1, _around(around, padding), flip_filter, gain * up[0] * up[1])


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    down: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Downsample images: `upfirdn2d` with (k - down + 1) // 2 zeros before and (k - down) // 2 after.

    Where that is negative, so many pixels are cropped.

    Args:
        x: [N, C, H, W], as in `upfirdn2d`.
        f: as in `upfirdn2d`.
        down: 1 or more, or [x, y].
        padding: what is added to that padding, as in `upfirdn2d`; negative to crop.
        flip_filter: as in `upfirdn2d`.
        gain: as in `upfirdn2d`.

    Returns:
        [N, C, H // down, W // down], or larger or smaller by `padding`.

    Raises:
        TypeError, ValueError: as `upfirdn2d`.

    Derivatives: as `upfirdn2d`.
    """
    down = pair(down, "down")
    around = [[(k - d + 1) // 2, (k - d) // 2] for k, d in zip(_taps(f), down, strict=True)]
    return upfirdn2d(x, f, 1, down, _around(around, padding), flip_filter, gain)


def _around(around: list[list[int]], padding: int | Sequence[int]) -> list[int]:
    """Padding of x and y, plus what the caller wants more."""
    return [own + more for own, more in zip((*around[0], *around[1]), four(padding), strict=True)]


def _taps(f: Tensor | None) -> tuple[int, int]:
    """Taps along x and y."""
    if f is None:
        return 1, 1
    check.fir_filter(f, "f", MOST_TAPS)
    # Numbers where torch.jit traces, to which sizes are tensors.
    return int(f.shape[-1]), int(f.shape[0])
