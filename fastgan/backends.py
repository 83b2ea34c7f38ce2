"""The choice of backend: one function, one table.

A backend is a package that holds, for every op it serves, a module of the op's name with the op's functions.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import NamedTuple

import torch

from fastgan import _build_info, check, cuda_device

# The order in which a device's backends are tried, set by measurement.
ORDER = {"cuda": ("cuda", "triton", "reference"), "cpu": ("cpu", "reference")}
PACKAGES = {
    "cuda": "fastgan.native",
    "triton": "fastgan.kernels",
    "cpu": "fastgan.native",
    "reference": "fastgan.reference",
}


class Availability(NamedTuple):
    """Whether a backend can run on this machine, and if it cannot, why."""

    ok: bool
    reason: str


def available() -> dict[str, Availability]:
    """Every backend by name, with the reason for each that is not available."""
    return {name: Availability(not (reason := _missing(name)), reason) for name in PACKAGES}


def pick(op: str, tensor: torch.Tensor) -> ModuleType:
    """The module that computes `op` on this tensor's device.

    Raises:
        RuntimeError: `fastgan.backend(...)` or FASTGAN_BACKEND chose a backend that cannot serve this call.
    """
    chosen = environment().backend
    return _pick(op, tensor.device, _choices[-1][0] if _choices else chosen)


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Use this backend and no other, in the whole process, until the block ends; of several, the one that began last.

    Args:
        name: "cuda", "triton", "cpu" or "reference".

    Raises:
        ValueError: there is no such backend.
        RuntimeError: it is not available on this machine; the message says why.
    """
    _check_name(name, "fastgan.backend")
    if reason := _missing(name):
        raise RuntimeError(f"backend {name!r} is not available: {reason}")
    choice = (name, object())
    try:
        _choices.append(choice)
        yield
    finally:
        # Blocks of several threads may end in any order.
        if choice in _choices:
            _choices.remove(choice)


@cache
def _pick(op: str, on: torch.device, override: str | None) -> ModuleType:
    if override is None:
        names = [name for name in ORDER.get(on.type, ("reference",)) if not refusal(name, op, on)]
        return _module(names[0], op)
    if reason := refusal(override, op, on):
        raise RuntimeError(f"backend {override!r} was asked for and cannot run {op} on a {on.type} tensor: {reason}")
    return _module(override, op)


def refusal(name: str, op: str, device: torch.device) -> str:
    """Why a backend cannot run an op on a device; empty if it can."""
    if reason := _missing(name):
        return reason
    served = _devices(name)
    if served and device.type not in served:
        return f"it serves {' and '.join(served)} tensors"
    if reason := _unsuited(name, device):
        return reason
    return "" if has(name, op) else f"it has no {op}"


def has(name: str, op: str) -> bool:
    """Whether a backend has an op of its own, on whatever device."""
    return find_spec(f"{PACKAGES[name]}.{op}") is not None


def _module(name: str, op: str) -> ModuleType:
    return import_module(f"{PACKAGES[name]}.{op}")


def _devices(name: str) -> tuple[str, ...]:
    """The device types a backend serves; empty for all of them."""
    if name == "triton":
        return ("cpu",) if _interpreting() else ("cuda",)
    return {"cuda": ("cuda",), "cpu": ("cpu",), "reference": ()}[name]


@cache
def _missing(name: str) -> str:
    """Why a backend cannot run on this machine, on any of its devices; empty if it can."""
    if name == "cpu":
        return _build_info.REASON_CPU
    if name == "cuda":
        return _build_info.REASON_CUDA or _no_cuda_device(name)
    if name == "triton":
        if find_spec("triton") is None:
            return "triton is not installed (torch's CUDA wheels bring it; else: pip install triton)"
        return "" if _interpreting() else _no_cuda_device(name)
    return ""


def _no_cuda_device(name: str) -> str:
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    reasons = {device: _unsuited(name, device) for device in cuda_device.devices()}
    return "; ".join(f"{device}: {reason}" for device, reason in reasons.items()) if all(reasons.values()) else ""


def _unsuited(name: str, device: torch.device) -> str:
    """Why a backend cannot run on this one of several devices; empty if it can."""
    if device.type != "cuda":
        return ""
    return {"cuda": cuda_device.why_not_compiled, "triton": cuda_device.why_not_triton}.get(name, lambda _: "")(device)


def _interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _check_name(name: str, source: str) -> None:
    if not isinstance(name, str) or name not in PACKAGES:
        raise ValueError(f"{source}: no backend {check.short(name)}; there are {', '.join(PACKAGES)}")


class Environment(NamedTuple):
    """What the environment chose: FASTGAN_BACKEND, or None; the x86-64 level of the CPU kernels, empty without them."""

    backend: str | None
    cpu_level: str


@cache
def environment() -> Environment:
    """Read once, when a backend is first used.

    Raises:
        ValueError: there is no such backend, or no such level on this processor.
        RuntimeError: FASTGAN_CPU_LEVEL, where no CPU kernels are compiled.
    """
    name = os.environ.get("FASTGAN_BACKEND") or None
    if name is not None:
        _check_name(name, "FASTGAN_BACKEND")
    return Environment(name, _use_cpu_level(os.environ.get("FASTGAN_CPU_LEVEL") or None))


def _use_cpu_level(level: str | None) -> str:
    if _build_info.REASON_CPU:
        if level is not None:
            raise RuntimeError(f"FASTGAN_CPU_LEVEL: backend 'cpu' is not available: {_build_info.REASON_CPU}")
        return ""
    from fastgan._C import cpu

    levels = cpu.levels()
    if level is None:
        return levels[0]
    if level not in levels:
        raise ValueError(
            f"FASTGAN_CPU_LEVEL: level {level!r} is not compiled, or this processor does not have it; "
            f"there are {', '.join(levels)}"
        )
    cpu.use_level(level)
    return level


# Of every block that has begun, the last one last.
_choices: list[tuple[str, object]] = []
