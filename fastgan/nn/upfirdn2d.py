"""Modules that resample images with a fixed FIR filter."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fastgan import functional
from fastgan.nn.filter_buffer import FilterBuffer


class _Resample(FilterBuffer):
    """A filter as the buffer `resample_filter`, and the arguments that go with it."""

    _buffer_name = "resample_filter"
    resample_filter: Tensor

    def __init__(self, f: Any, padding: int | Sequence[int], flip_filter: bool, gain: float) -> None:
        super().__init__()
        self._register_filter((1,) if f is None else f)
        self.padding, self.flip_filter, self.gain = padding, flip_filter, gain

    def extra_repr(self) -> str:
        """Taps and arguments."""
        return f"taps={list(self.resample_filter.shape)}, padding={self.padding}, gain={self.gain}"


class Filter2d(_Resample):
    """Filter images and keep their size, see `fastgan.functional.filter2d`.

    Args:
        f: taps, as `fastgan.functional.setup_filter` takes them; they are normalised.
        padding: added to the padding that keeps the size.
        flip_filter: correlate instead of convolve.
        gain: what the result is multiplied by.
    """

    def __init__(
        self, f: Any = (1, 3, 3, 1), padding: int | Sequence[int] = 0, flip_filter: bool = False, gain: float = 1
    ) -> None:
        super().__init__(f, padding, flip_filter, gain)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        return functional.filter2d(x, self.resample_filter, self.padding, self.flip_filter, self.gain)


class Upsample2d(_Resample):
    """Upsample images with a filter, see `fastgan.functional.upsample2d`.

    Args:
        f: taps, as `fastgan.functional.setup_filter` takes them; they are normalised.
        up: 1 or more, or [x, y].
        padding: added to the padding that makes the size up times as large.
        flip_filter: correlate instead of convolve.
        gain: what the result is multiplied by.
    """

    def __init__(
        self,
        f: Any = (1, 3, 3, 1),
        up: int | Sequence[int] = 2,
        padding: int | Sequence[int] = 0,
        flip_filter: bool = False,
        gain: float = 1,
    ) -> None:
        super().__init__(f, padding, flip_filter, gain)
        self.up = up

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, up H, up W]."""
        return functional.upsample2d(x, self.resample_filter, self.up, self.padding, self.flip_filter, self.gain)


class Downsample2d(_Resample):
    """Downsample images with a filter, see `fastgan.functional.downsample2d`.

    Args:
        f: taps, as `fastgan.functional.setup_filter` takes them; they are normalised.
        down: 1 or more, or [x, y].
        padding: added to the padding that makes the size down times as small.
        flip_filter: correlate instead of convolve.
        gain: what the result is multiplied by.
    """

    def __init__(
        self,
        f: Any = (1, 3, 3, 1),
        down: int | Sequence[int] = 2,
        padding: int | Sequence[int] = 0,
        flip_filter: bool = False,
        gain: float = 1,
    ) -> None:
        super().__init__(f, padding, flip_filter, gain)
        self.down = down

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H // down, W // down]."""
        return functional.downsample2d(x, self.resample_filter, self.down, self.padding, self.flip_filter, self.gain)
