"""What the commands share: their arguments, and what is accepted."""

import math
from argparse import ArgumentParser
from pathlib import Path


def add_run(parser: ArgumentParser) -> None:
    """Add RUN."""
    parser.add_argument("run_path", type=Path, metavar="RUN", help="the folder of a run, or a checkpoint")


def add_generating(parser: ArgumentParser) -> None:
    """Add what says how images are made."""
    parser.add_argument(
        "--truncation",
        type=float,
        metavar="T",
        help="cut the normal distribution of latents at -T and T: less varied images, more typical ones (default: no)",
    )
    parser.add_argument(
        "--class", type=int, dest="chosen", metavar="N", help="the class of all, where a run has classes"
    )
    parser.add_argument("--batch", type=int, default=64, help="images that are made at a time (default: 64)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... or auto (default: auto)")


def check_at_least(minimum: int, **values: int) -> None:
    """Raise ValueError naming the first of `values` that is less than `minimum`."""
    for name, value in values.items():
        if value < minimum:
            raise ValueError(f"{name} = {value}: expected at least {minimum}")


def check_seeds(*seeds: int) -> None:
    """Raise ValueError for one that torch does not take."""
    for seed in seeds:
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed = {seed}: expected at least 0 and less than 2**63")


def check_truncation(truncation: float | None) -> None:
    """Raise ValueError unless it is None or positive and finite."""
    if truncation is not None and not 0 < truncation < math.inf:
        raise ValueError(f"truncation = {truncation}: expected a number above 0")
