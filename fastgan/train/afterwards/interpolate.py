"""`fastgan interpolate`: the way from one image to another, as a strip of images or as a film."""

import io
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from fastgan.train.afterwards.arguments import (
    add_generating,
    add_run,
    check_at_least,
    check_seeds,
    check_truncation,
)
from fastgan.train.afterwards.latents import between, draw
from fastgan.train.extras import require
from fastgan.train.files import write_whole
from fastgan.train.sample import grid, in_batches, picture, png
from fastgan.train.terminal import finish
from fastgan.train.trained import read

FILMS = {".gif": "GIF", ".webp": "WEBP"}
MAX_FPS = 50  # viewers show a GIF that is faster more slowly


def add_arguments(parser: ArgumentParser) -> None:
    """Add RUN and the options."""
    add_run(parser)
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        required=True,
        metavar="SEED",
        help="two or more: the way leads through the first image that `fastgan sample --seed SEED` makes of each",
    )
    parser.add_argument(
        "--frames", type=int, default=30, help="images from each seed to the next, with both (default: 30)"
    )
    parser.add_argument("--fps", type=int, default=20, help="images per second of a film (default: 20)")
    parser.add_argument("--scale", type=int, default=2, help="how many times images are magnified (default: 2)")
    add_generating(parser)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="a file that ends in .png, with a row of images for every two seeds; .gif or .webp (lossless) for a film",
    )


def run(args: Namespace) -> int:
    """Interpolate as the parsed arguments say. Returns the exit status."""
    names = ("run_path", "out", "seeds", "frames", "fps", "scale", "chosen", "truncation", "batch", "device")
    return finish("interpolate", lambda: interpolate(**{name: getattr(args, name) for name in names}))


def interpolate(
    run_path: Path,
    out: Path,
    *,
    seeds: Sequence[int],
    frames: int,
    fps: int,
    scale: int,
    chosen: int | None,
    truncation: float | None,
    batch: int,
    device: str,
) -> str:
    """Write the strip or the film. Returns the line that says where it is.

    Raises as `fastgan.train.load`; ValueError for an argument that is not accepted; OSError for what cannot be written.
    """
    check_at_least(2, seeds=len(seeds), frames=frames)
    check_at_least(1, scale=scale, batch=batch, fps=fps)
    if fps > MAX_FPS:
        raise ValueError(f"fps = {fps}: expected at most {MAX_FPS}")
    check_seeds(*seeds)
    check_truncation(truncation)
    suffix = out.suffix.lower()
    if suffix not in (".png", *FILMS) or out.is_dir():
        raise ValueError(f"out = {str(out)!r}: expected a file that ends in .png, {' or '.join(FILMS)}")
    trained = read(run_path, device)
    if chosen is None and trained.recipe.classes:
        raise ValueError(f"class is missing: expected 0 to {trained.recipe.classes - 1}")
    stops = [draw(1, trained.recipe.settings.z_dim, seed, truncation)[0] for seed in seeds]
    z = torch.cat([between(*pair, frames) for pair in pairwise(stops)])
    pixels = torch.cat(list(in_batches(trained.G, z, trained.recipe.given(len(z), chosen), batch)))
    out.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".png":
        write_whole(out, png(picture(grid(pixels, frames), scale)))
        return f"strip of {len(pixels)} images: {out}"
    # where two rows of the strip meet, the same image stands twice
    shown = [i for i in range(len(pixels)) if i == 0 or i % frames]
    write_whole(out, _film(pixels[shown], FILMS[suffix], fps, scale))
    return f"film of {len(shown)} images: {out}"


def _film(pixels: Tensor, kind: str, fps: int, scale: int) -> bytes:
    """The content of an endless animation of uint8 [N, C, H, W]."""
    if kind == "WEBP" and not require("PIL.features").check("webp"):
        raise ValueError("this build of Pillow writes no WebP: expected a file that ends in .gif")
    first, *others = (picture(image, scale) for image in pixels)
    content = io.BytesIO()
    duration = 10 * round(100 / fps) if kind == "GIF" else round(1000 / fps)  # ms; a GIF counts in hundredths
    more = {"lossless": True} if kind == "WEBP" else {}
    first.save(content, format=kind, save_all=True, append_images=others, duration=duration, loop=0, **more)
    return content.getvalue()
