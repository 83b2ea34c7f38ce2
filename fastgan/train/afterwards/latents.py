"""Latent vectors: drawn from a seed, cut, and the way from one to another."""

import torch
from torch import Tensor


def draw(n: int, z_dim: int, seed: int, truncation: float | None = None) -> Tensor:
    """float64 [n, z_dim] on the CPU, a function of `seed` alone: the first ones are the same for every n.

    truncation: each value is drawn from the normal distribution cut at -truncation and truncation, as BigGAN has it
    (A. Brock et al., ICLR 2019, section 3.1); None cuts nothing. It is the inverse of the cut distribution function at
    the same uniform numbers, so a smaller truncation moves the same images towards the typical one.
    """
    uniform = torch.rand(n, z_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    limit = torch.tensor(torch.inf if truncation is None else truncation, dtype=torch.float64)
    below = torch.special.ndtr(-limit)
    # inside (0, 1), where the inverse is finite
    quantile = (below + uniform * (1 - 2 * below)).clamp(2.0**-53, 1 - 2.0**-53)
    return torch.special.ndtri(quantile).clamp(-limit, limit)


def between(start: Tensor, end: Tensor, frames: int) -> Tensor:
    """[frames, z_dim] on the great circle from `start` to `end`, both [z_dim] and included.

    Latents of many dimensions are all about as long: on the straight line between two, they would be shorter than any
    that G has seen. Where the two have one direction, or opposite ones, the line is straight.
    """
    t = torch.linspace(0, 1, frames, dtype=start.dtype).unsqueeze(1)
    angle = torch.arccos((start @ end / (start.norm() * end.norm())).clamp(-1, 1))
    if torch.sin(angle) < 1e-6:
        return (1 - t) * start + t * end
    return (torch.sin((1 - t) * angle) * start + torch.sin(t * angle) * end) / torch.sin(angle)
