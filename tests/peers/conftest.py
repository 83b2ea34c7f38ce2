"""Tests on codebases as they are published: they run where FASTGAN_PEERS names a folder of checkouts.

A checkout is known by a short name or by its repository's own. None of its code is in this repository.
"""

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

# By short name: the repositories' own names, in any case, and a file that only this codebase has.
PEERS = {
    "biggan": (("biggan-pytorch",), "BigGANdeep.py"),
    "stylegan2-ada": (("stylegan2-ada-pytorch",), "training/augment.py"),
    "stylegan3": (("stylegan3",), "torch_utils/ops/filtered_lrelu.py"),
    "r3gan": (("r3gan",), "R3GAN/Networks.py"),
    "rosinality": (("stylegan2-pytorch", "rosinality-stylegan2"), "op/fused_act.py"),
    "basicsr": (("basicsr",), "basicsr/ops/upfirdn2d/upfirdn2d.py"),
    "stylenerf": (("stylenerf",), "training/stylenerf.py"),
    "psp": (("pixel2style2pixel",), "models/psp.py"),
    "styleclip": (("styleclip",), "models/stylegan2/op/fused_act.py"),
    "lightweight-gan": (("lightweight-gan",), "lightweight_gan/lightweight_gan.py"),
    "mimicry": (("mimicry",), "torch_mimicry/modules/spectral_norm.py"),
}


def checkout(name: str) -> Path | str:
    """Where it is, or why it cannot be used."""
    root = os.environ.get("FASTGAN_PEERS")
    if not root:
        return "FASTGAN_PEERS is not set to a folder of checkouts"
    if not Path(root).is_dir():
        raise NotADirectoryError(f"FASTGAN_PEERS must be a folder of checkouts, got {root!r}")
    own, file = PEERS[name]
    for path in sorted(Path(root).iterdir()):
        if path.name.lower() in (name, *own) and (path / file).is_file():
            return path.resolve()
    return f"no checkout of {name} in FASTGAN_PEERS"


@pytest.fixture
def peer(monkeypatch):
    """Puts a checkout on the path, and forgets it and the modules that came with it afterwards."""
    before = set(sys.modules)

    def use(name: str, without: tuple[str, ...] = ()) -> Path:
        """`without`: packages whose own __init__ is passed over, since it imports all there is."""
        path = checkout(name)
        if isinstance(path, str):
            pytest.skip(path)
        monkeypatch.syspath_prepend(str(path))
        for package in without:
            module = ModuleType(package)
            module.__path__ = [str(path / package.replace(".", "/"))]
            monkeypatch.setitem(sys.modules, package, module)
        return path

    paths = list(sys.path)
    yield use
    roots = tuple(path for path in sys.path if path not in paths)
    for name in set(sys.modules) - before:
        origin = getattr(sys.modules[name], "__file__", None) or ""
        if roots and origin.startswith(roots):
            del sys.modules[name]
