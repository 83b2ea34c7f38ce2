"""The packages of the extra `train`, imported only when training needs them."""

import importlib
from types import ModuleType

# Package -> the module that it brings.
PACKAGES = {"pillow": "PIL", "safetensors": "safetensors", "scikit-learn": "sklearn", "tqdm": "tqdm"}


def require(module: str) -> ModuleType:
    """Import `module`, or raise an ImportError that says what to install."""
    top = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != top:
            raise
        package = next(package for package, brings in PACKAGES.items() if brings == top)
        raise ImportError(
            f"training needs the package {package}, which is not installed: pip install {' '.join(PACKAGES)}"
            " (in a clone of fastgan: pip install '.[train]')"
        ) from error
