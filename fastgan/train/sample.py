"""Images that a generator makes, and pictures of them."""

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.train.extras import require
from fastgan.train.files import write_whole
from fastgan.train.terminal import Stderr


@torch.no_grad()
def generate(G: nn.Module, z: Tensor, *given: Tensor) -> Tensor:
    """Images [N, C, H, W] from latents [N, z_dim] and what else G takes, in eval mode; its mode is left as it was."""
    training = G.training
    G.eval()
    try:
        return G(z, *given)
    finally:
        G.train(training)


def in_batches(G: nn.Module, z: Tensor, given: tuple[Tensor, ...], batch: int) -> Iterator[Tensor]:
    """uint8 [n, C, H, W] on the CPU, n at most `batch`, from latents [N, z_dim] and what else G takes, [N, ...].

    A terminal shows how far it is.

    Raises FloatingPointError for images that are not finite.
    """
    like = next(G.parameters())
    with require("tqdm").tqdm(total=len(z), unit="image", disable=None, file=Stderr()) as bar:
        for part, *told in zip(z.split(batch), *(t.split(batch) for t in given), strict=True):
            images = generate(G, part.to(like.device, like.dtype), *(t.to(like.device) for t in told))
            if not images.isfinite().all():
                raise FloatingPointError("images are not finite")
            yield to_pixels(images)
            bar.update(len(part))


def to_pixels(images: Tensor) -> Tensor:
    """[N, C, H, W] in [-1, 1] -> uint8 on the CPU."""
    return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).cpu()


def grid(pixels: Tensor, columns: int, gap: int = 2) -> Tensor:
    """uint8 [N, C, H, W] -> uint8 [C, height, width]: row after row, with white lines of `gap` pixels."""
    n, c, h, w = pixels.shape
    rows = -(-n // columns)
    sheet = torch.full((c, rows * (h + gap) + gap, columns * (w + gap) + gap), 255, dtype=torch.uint8)
    for i, image in enumerate(pixels):
        y, x = gap + i // columns * (h + gap), gap + i % columns * (w + gap)
        sheet[:, y : y + h, x : x + w] = image
    return sheet


def picture(pixels: Tensor, scale: int = 1) -> Any:
    """uint8 [C, H, W] -> Pillow's image, grey or RGB, every pixel a square of `scale` times `scale`."""
    image = require("PIL.Image").fromarray(pixels.permute(1, 2, 0).squeeze(2).contiguous().numpy())
    return image.resize((image.width * scale, image.height * scale), resample=0)


def png(image: Any) -> bytes:
    """The content of a PNG file."""
    content = io.BytesIO()
    image.save(content, format="PNG")
    return content.getvalue()


def save_grid(images: Tensor, path: Path, scale: int = 2, gap: int = 2) -> None:
    """Write images [N, C, H, W] in [-1, 1] as one near-square grid, `gap` pixels apart, magnified `scale` times."""
    columns = math.isqrt(len(images) - 1) + 1
    write_whole(path, png(picture(grid(to_pixels(images), columns, gap), scale)))
