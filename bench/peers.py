"""Other implementations of an op, from a checkout that the user points at; nothing of it is kept.

`fastgan bench run --peer stylegan3=DIR` measures the kernels of the repository in DIR beside fastgan's, wherever both
compute the same. What a peer needs in order to run, such as a compiler at run time, is its own affair: where it cannot
run, the report says why.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

# Where a repository keeps its ops: by the op's name, module and function, called as fastgan's is.
PEERS = {
    "stylegan3": {
        "bias_act": ("torch_utils.ops.bias_act", "bias_act"),
        "upfirdn2d": ("torch_utils.ops.upfirdn2d", "upfirdn2d"),
    }
}
_loaded: dict[str, dict[str, Callable]] = {}


def load(argument: str) -> None:
    """Import the ops of NAME=DIR; they take part from then on. Raises ValueError where that is not what was given."""
    name, _, folder = argument.partition("=")
    if name not in PEERS or not folder:
        raise ValueError(f"--peer {argument}: expected NAME=DIR with a name among {', '.join(PEERS)}")
    if not Path(folder).is_dir():
        raise ValueError(f"--peer {argument}: {folder} is not a folder")
    sys.path.insert(0, str(Path(folder).resolve()))
    try:
        _loaded[name] = {op: getattr(import_module(module), function) for op, (module, function) in PEERS[name].items()}
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--peer {argument}: no checkout of {name} that can be imported: {error}") from error
    finally:
        sys.path.pop(0)


def functions(op: str) -> dict[str, Callable]:
    """By the name of a loaded peer, its implementation of an op."""
    return {name: ops[op] for name, ops in _loaded.items() if op in ops}
