"""Sample grids as PNG."""

import io
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from fastgan.train.extras import require
from fastgan.train.files import write_whole


@torch.no_grad()
def generate(G: nn.Module, z: Tensor) -> Tensor:
    """Images [N, C, H, W] from latents [N, z_dim], in eval mode; G's mode is left as it was."""
    training = G.training
    G.eval()
    try:
        return G(z)
    finally:
        G.train(training)


def save_grid(images: Tensor, path: Path, scale: int = 2, gap: int = 2) -> None:
    """Write images [N, C, H, W] in [-1, 1] as one near-square grid, `gap` pixels apart, magnified `scale` times."""
    n, c, h, w = images.shape
    columns = math.isqrt(n - 1) + 1
    rows = -(-n // columns)
    pixels = images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).cpu()
    grid = torch.full((c, rows * (h + gap) + gap, columns * (w + gap) + gap), 255, dtype=torch.uint8)
    for i, image in enumerate(pixels):
        y, x = gap + i // columns * (h + gap), gap + i % columns * (w + gap)
        grid[:, y : y + h, x : x + w] = image
    array = grid.permute(1, 2, 0).squeeze(2).contiguous().numpy()
    picture, png = require("PIL.Image").fromarray(array), io.BytesIO()
    picture.resize((picture.width * scale, picture.height * scale), resample=0).save(png, format="PNG")
    write_whole(path, png.getvalue())
