"""The packages of the extra `train`, imported only when training needs them."""

import importlib
from types import ModuleType


def require(module: str) -> ModuleType:
    """Import `module`, or raise an ImportError that names the extra which brings it."""
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise ImportError(
            f"training needs the Python package {package!r}, which is not installed: pip install 'fastgan[train]'"
        ) from error
