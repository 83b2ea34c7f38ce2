"""Checkouts that the user points at: other implementations of an op, and whole codebases; nothing of them is kept.

`fastgan bench run --peer stylegan3=DIR` measures the kernels of the repository in DIR beside fastgan's, wherever both
compute the same, and in the suite "codebases" its networks with and without fastgan. What a peer needs in order to run,
such as a compiler at run time, is its own affair: where it cannot run, the report says why.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from fastgan.bench.checkouts import importable
from fastgan.bench.programs import CODEBASES

# Where a repository keeps its ops: by the op's name, module and function, called as fastgan's is.
PEERS = {
    "stylegan3": {
        "bias_act": ("torch_utils.ops.bias_act", "bias_act"),
        "upfirdn2d": ("torch_utils.ops.upfirdn2d", "upfirdn2d"),
    }
}
_loaded: dict[str, dict[str, Callable]] = {}
_folders: dict[str, Path] = {}


def load(argument: str) -> None:
    """Know NAME=DIR from then on, its ops imported. Raises ValueError where that is not what was given."""
    name, _, folder = argument.partition("=")
    if name not in CODEBASES or not folder:
        raise ValueError(f"--peer {argument}: expected NAME=DIR with a name among {', '.join(CODEBASES)}")
    if not Path(folder).is_dir():
        raise ValueError(f"--peer {argument}: {folder} is not a folder")
    _folders[name] = Path(folder).resolve()
    ops = PEERS.get(name, {})
    try:
        with importable(_folders[name], absent=CODEBASES[name].absent):
            _loaded[name] = {op: getattr(import_module(module), function) for op, (module, function) in ops.items()}
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--peer {argument}: no checkout of {name} that can be imported: {error}") from error


def functions(op: str) -> dict[str, Callable]:
    """By the name of a loaded peer, its implementation of an op."""
    return {name: ops[op] for name, ops in _loaded.items() if op in ops}


def folder(name: str) -> Path | None:
    """The checkout of a loaded peer."""
    return _folders.get(name)
