"""How kernels take a tensor with channels: its sizes, and the numbers per channel that go with it."""

from torch import Tensor


def sizes(x: Tensor) -> tuple[int, int, int, bool]:
    """Samples, channels, positions, and whether the channels are taken to be innermost, of a dense x [N, C, ...].

    They are outermost or innermost in memory; the positions, in whatever order they lie.
    """
    shape = x.shape
    count, channels = shape[0], shape[1]
    positions = x.numel() // (count * channels or 1)
    # The stride of a dimension of size 1 says nothing.
    return count, channels, positions, positions == 1 or (channels > 1 and x.stride(1) == 1)


def along(x: Tensor, dim: int) -> tuple[int, int, int]:
    """A dense x as [outer, channels, inner] in memory; the channels are its dimension `dim`."""
    count, channels = x.numel(), x.shape[dim]
    # The stride of a dimension of size 1 says nothing.
    inner = x.stride(dim) if channels > 1 else count // max(x.shape[0], 1)
    return count // max(channels * inner, 1), channels, inner


def strided(*numbers: Tensor | None) -> list[Tensor | int | None]:
    """Numbers [C] or [N, C], each with its stride from sample to sample."""
    return [item for t in numbers for item in (t, t.shape[1] if t is not None and t.ndim == 2 else 0)]


def own_numbers(*numbers: Tensor | None) -> bool:
    """Whether any of these is [N, C], so that samples have numbers of their own, and not [C]."""
    return 2 in [t.ndim for t in numbers if t is not None]


def image_sizes(x: Tensor, dim: int) -> tuple[int, int, int, int]:
    """Samples, channels, height, width of an image as it lies; the channels are dimension `dim`."""
    return x.shape if dim == 1 else (x.shape[0], x.shape[3], x.shape[1], x.shape[2])


def image_shape(count: int, channels: int, height: int, width: int, dim: int) -> tuple[int, int, int, int]:
    """The shape of such an image."""
    return (count, channels, height, width) if dim == 1 else (count, height, width, channels)
