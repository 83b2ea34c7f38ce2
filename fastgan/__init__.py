"""fastgan: GAN training in PyTorch, faster, with the same results."""

try:
    from fastgan import _build_info
except ImportError as error:
    raise ImportError(
        "this is fastgan's source tree and it is not installed: run `pip install -e .` in it, or leave the folder to "
        "import the installed package"
    ) from error

import torch  # noqa: F401 - before the compiled part, which uses the OpenMP that torch brings

if not _build_info.REASON_CPU:
    try:
        from fastgan import _C  # noqa: F401
    except ImportError as error:
        raise ImportError(f"fastgan's compiled part cannot be loaded: {error}; install fastgan again") from error

from fastgan import functional, nn, optim
from fastgan.backends import backend
from fastgan.compat.patching import patch, unpatch
from fastgan.convolution.choice import autotune
from fastgan.fusion import accelerate, restore
from fastgan.memory import empty_cache
from fastgan.ops.op import decompositions

__all__ = [
    "accelerate",
    "autotune",
    "backend",
    "decompositions",
    "empty_cache",
    "functional",
    "nn",
    "optim",
    "patch",
    "restore",
    "unpatch",
]
__version__ = "0.1.0"
