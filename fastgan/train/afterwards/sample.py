"""`fastgan sample`: images of a trained generator, one by one or as a grid."""

import math
from argparse import ArgumentParser, Namespace
from pathlib import Path

import torch

from fastgan.train.afterwards.arguments import (
    add_generating,
    add_run,
    check_at_least,
    check_seeds,
    check_truncation,
)
from fastgan.train.afterwards.latents import draw
from fastgan.train.files import new_folder, write_whole
from fastgan.train.pixels import suffixes
from fastgan.train.sample import grid, in_batches, picture, png
from fastgan.train.terminal import finish
from fastgan.train.trained import read

GRID_SCALE = 2


def add_arguments(parser: ArgumentParser) -> None:
    """Add RUN and the options."""
    add_run(parser)
    parser.add_argument("--n", type=int, default=64, help="images (default: 64)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the latents: the same seed, the same images (default: 0)"
    )
    add_generating(parser)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="a new or empty folder for 000000.png and so on; or a file that ends in .png, for all in one grid",
    )


def run(args: Namespace) -> int:
    """Sample as the parsed arguments say. Returns the exit status."""
    names = ("run_path", "out", "n", "seed", "chosen", "truncation", "batch", "device")
    return finish("sample", lambda: sample(**{name: getattr(args, name) for name in names}))


def sample(
    run_path: Path,
    out: Path,
    *,
    n: int,
    seed: int,
    chosen: int | None,
    truncation: float | None,
    batch: int,
    device: str,
) -> str:
    """Write `n` images, of all classes or of one. Returns the line that says where they are.

    Raises as `fastgan.train.load`; ValueError for an argument that is not accepted; OSError for what cannot be written.
    """
    check_at_least(1, n=n, batch=batch)
    check_seeds(seed)
    check_truncation(truncation)
    _check_out(out)
    trained = read(run_path, device)
    given = trained.recipe.given(n, chosen)
    batches = in_batches(trained.G, draw(n, trained.recipe.settings.z_dim, seed, truncation), given, batch)
    if out.suffix.lower() == ".png":
        pixels = torch.cat(list(batches))
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, png(picture(grid(pixels, math.isqrt(n - 1) + 1), GRID_SCALE)))
        return f"grid of {n} images: {out}"
    with new_folder(out) as write:
        for number, image in enumerate(image for part in batches for image in part):
            write(f"{number:06d}.png", png(picture(image)))
    return f"{n} images: {out}"


def _check_out(out: Path) -> None:
    suffix = out.suffix.lower()
    if suffix == ".png" and out.is_dir():
        raise IsADirectoryError(
            f"out = {str(out)!r}: a folder: expected a file, or a folder whose name is no picture's"
        )
    if suffix != ".png" and suffix in suffixes():
        raise ValueError(f"out = {str(out)!r}: expected a folder, or a file that ends in .png")
