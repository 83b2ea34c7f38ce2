"""Tensors of small calls of the GPU kernels, for compute-sanitizer: every dtype, odd, tiny and misaligned."""

from collections.abc import Sequence
from math import prod

import torch

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Samples for one thread, for a warp, for a block, and for several blocks.
BATCHES = ((300, 3), (9, 8, 5, 5), (3, 2000), (2, 5, 41, 41))
# Channels outermost or innermost: of a packet and not, of a part of the positions and more.
IMAGES = ((3, 8, 2, 8), (2, 4, 5, 3), (2, 12, 41, 41), (3, 520, 3, 4))


def values(shape: Sequence[int], dtype: torch.dtype, offset: int, channels_last: bool = False) -> torch.Tensor:
    """Random values on the GPU, `offset` elements into their storage."""
    # Made on the host: initcheck sees a copy write them, but not a kernel that it was told to leave out.
    stored = torch.randn(offset + prod(shape)).to(dtype).cuda()[offset:]
    return stored.view(shape[0], *shape[2:], shape[1]).movedim(-1, 1) if channels_last else stored.view(tuple(shape))
