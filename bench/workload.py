"""What a benchmark provides: a workload per case, and its contenders."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fastgan import backends


@dataclass(frozen=True)
class Contender:
    """One implementation on one case, ready to run.

    Args:
        runs: by mode ("forward", ...), a function that does the work and returns its outputs.
        error: calls such a function from the workload's initial state and returns the largest relative error of what it
            computed, ||x - x64|| / ||x64|| over tensors, against float64; NaN is an error of infinity.
        before: called untimed before every run.
        context: entered untimed around every run.
        backend: the fastgan backend that computes, None for plain torch.
    """

    runs: dict[str, Callable[[], object]]
    error: Callable[[Callable[[], object]], float]
    before: Callable[[], object] = lambda: None
    context: Callable[[], AbstractContextManager] = nullcontext
    backend: str | None = None


@dataclass(frozen=True)
class Workload:
    """A case on a device.

    Args:
        baseline: the contender that the others are compared with, in time and in accuracy.
        contenders: by name, a function that builds one; it raises where it cannot.
        skipped: by name, why a contender is not among them.
        moved_bytes: by mode, the bytes that the op has to move through memory; empty where that says nothing.
        baseline_bound: the largest error that the baseline may have.
        rounding: the error that follows from the number of roundings; other contenders may have twice the baseline's
            and this, because one draw of the baseline's error may be small by luck.
    """

    baseline: str
    contenders: dict[str, Callable[[], Contender]]
    skipped: dict[str, str]
    modes: tuple[str, ...]
    moved_bytes: dict[str, int]
    baseline_bound: float
    rounding: float


class Op(NamedTuple):
    """What is measured under one name.

    name: what `fastgan bench run --op` and result files call it.
    cases: by name, one line about each.
    quick: the cases of a quick run.
    workload: `workload(case, device, backends, compiled)` opens a case; it takes the names of the fastgan backends to
        measure, and whether torch.compile is measured too.
    gpu: the cases of bench/gpu.sh; of an op a small one and one that fills the device.
    kernels: by the kernels that it runs, files in csrc/cuda or kernels/, a function that makes small calls of them for
        compute-sanitizer. A backend that lacks one of them is not measured.
    """

    name: str
    cases: dict[str, str]
    quick: tuple[str, ...]
    workload: Callable[[str, torch.device, Sequence[str], bool], Workload]
    gpu: tuple[str, ...] = ()
    kernels: Mapping[str, Callable[[], None]] = {}


def is_ours(contender: str) -> bool:
    """Whether a contender of this name is fastgan, and not something that it is compared with."""
    return contender.startswith("fastgan")


def within(backend: str | None) -> Callable[[], AbstractContextManager]:
    """What makes the context of a contender that this fastgan backend computes; None for plain torch."""
    return nullcontext if backend is None else lambda: backends.backend(backend)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """||actual - expected|| / ||expected||; infinity for NaN, and for a shape that is not the expected one."""
    if actual.shape != expected.shape:
        return float("inf")
    difference = torch.linalg.vector_norm(actual.to(expected.dtype) - expected)
    error = float(difference / torch.linalg.vector_norm(expected))
    return error if error == error else float("inf")
