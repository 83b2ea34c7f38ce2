"""How Triton programs share out a batch of samples [N, ...], taken as [count, size].

A program takes a tile of ROWS samples times BLOCK of their values: all of several small samples, or a part of one
large one.
"""

import torch
import triton
import triton.language as tl

TILE, WARPS = 4096, 8
SUM_PROGRAMS = 1024  # of a sum: enough for every GPU, so that the parts are large


def tile(size: int) -> dict[str, int]:
    """The constants ROWS and BLOCK for samples of this size, and the warps."""
    block = min(triton.next_power_of_2(max(size, 1)), TILE)
    return {"ROWS": TILE // block, "BLOCK": block, "num_warps": WARPS}


def sample_size(x: torch.Tensor) -> int:
    """Values per sample; 0 where there is no sample."""
    return x.numel() // max(x.shape[0], 1)


@triton.jit
def rows_and_part(parts, ROWS: tl.constexpr):
    """The samples [ROWS] of this program, and the number of its part."""
    program = tl.program_id(0).to(tl.int64)
    return program // parts * ROWS + tl.arange(0, ROWS), program % parts
