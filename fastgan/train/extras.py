"""The packages of the extra `train`, imported only when training needs them."""

import importlib
from types import ModuleType


def require(module: str) -> ModuleType:
    """Import `module`, or raise an ImportError that names the extra which brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise ImportError(
            f"training needs the Python package {error.name!r}, which is not installed: pip install 'fastgan[train]'"
        ) from error
