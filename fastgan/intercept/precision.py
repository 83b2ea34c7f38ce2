"""TF32 and the like, which round the float32 inputs of products: whether they do, and a way to be without."""

from typing import Any

import torch

from fastgan.intercept.process_wide import ProcessWide

# A setting for each kind of product, or before torch 2.9 two for all.
_OF_CUDA = (torch.backends.cuda.matmul, *(getattr(torch.backends.cudnn, kind, None) for kind in ("conv", "rnn")))
_OF_CPU = tuple(getattr(torch.backends.mkldnn, kind, None) for kind in ("matmul", "conv", "rnn"))
_EACH = all(hasattr(products, "fp32_precision") for products in (*_OF_CUDA, *_OF_CPU))
_EXACT = ("none", "ieee")


def rounds_float32(device: str) -> bool:
    """Whether torch may round the inputs of products of float32 on such a device."""
    if _EACH:
        return any(products.fp32_precision not in _EXACT for products in (_OF_CPU if device == "cpu" else _OF_CUDA))
    return torch.get_float32_matmul_precision() != "highest" or (device != "cpu" and torch.backends.cudnn.allow_tf32)


def _read() -> tuple[Any, ...]:
    if _EACH:
        return tuple(products.fp32_precision for products in (*_OF_CUDA, *_OF_CPU))
    return torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()


def _write(values: tuple[Any, ...]) -> None:
    if _EACH:
        for products, value in zip((*_OF_CUDA, *_OF_CPU), values, strict=True):
            products.fp32_precision = value
    else:
        torch.backends.cudnn.allow_tf32 = values[0]
        torch.set_float32_matmul_precision(values[1])


FULL_FLOAT32 = ProcessWide(_read, _write, ("ieee",) * 6 if _EACH else (False, "highest"))
