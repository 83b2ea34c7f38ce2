"""Published codebases' own networks and steps, on random images: one file each, found by its name.

Every `CODEBASE` is built from a checkout. Networks, losses and penalties are the codebase's; the loop around them,
optimizers and data are not used. Parameters that a codebase starts at zero, such as the last layer of a residual
branch, get random values: a gradient that is zero shows nothing.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch

import fastgan
from fastgan.bench.checkouts import importable
from fastgan.bench.program import Codebase, Program

CODEBASES: dict[str, Codebase] = {
    file.stem.replace("_", "-"): import_module(f"{__name__}.{file.stem}").CODEBASE
    for file in sorted(Path(__file__).parent.glob("[!_]*.py"))
}


def program(
    name: str, folder: Path, dtype: torch.dtype = torch.float32, patched: bool = False, **sizes: Any
) -> Program:
    """Build from a checkout.

    Args:
        name: of `CODEBASES`.
        folder: the checkout.
        dtype: of parameters and images.
        patched: import the codebase under `fastgan.patch`.
        sizes: what its function below takes.
    """
    codebase = CODEBASES[name]
    family = codebase.family if patched else None
    if family:
        fastgan.patch(family)
    try:
        torch.manual_seed(0)
        with importable(folder, codebase.packages, codebase.absent) as modules:
            networks, steps = codebase.build(dtype, **sizes)
    finally:
        if family:
            fastgan.unpatch(family)
    return Program(networks, steps, modules, family)
