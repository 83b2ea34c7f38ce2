"""Published codebases, as they are and with one line of fastgan: their own networks, losses and penalties.

They are measured where `--peer NAME=DIR` names a checkout. Modes: "D step" and "G step", forwards, losses, backwards
and Adam; "G forward" without gradients. The error is that of all that a step returns and of every gradient, in one
vector: against the codebase in float64, or, where it computes in float32 whatever it is given, against itself.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import fastgan
from fastgan.bench import peers
from fastgan.bench.program import SameDraws
from fastgan.bench.programs import CODEBASES, program
from fastgan.bench.workload import Contender, Op, Workload, relative_error, within

BASELINE = "as shipped"


class Way(NamedTuple):
    """What is done with a codebase: patched, accelerated, and what else its function takes."""

    patched: bool = False
    accelerated: bool = False
    sizes: Mapping[str, Any] = {}


PATCH = {"fastgan patch": Way(patched=True)}
ACCELERATE = {"fastgan accelerate": Way(accelerated=True)}
BOTH = {"fastgan patch and accelerate": Way(patched=True, accelerated=True)}
PENALIZED = {"fastgan patch and penalized_loss": Way(patched=True, sizes={"penalized": True})}


class Case(NamedTuple):
    """A codebase of `CODEBASES`, its sizes, its steps, and what is done with it."""

    codebase: str
    sizes: Mapping[str, Any]
    modes: tuple[str, ...]
    ways: Mapping[str, Way]
    about: str


STEPS = ("D step", "G step")
CASES = {
    "biggan-cifar": Case(
        codebase="biggan",
        sizes={"width": 64, "batch": 16},
        modes=STEPS,
        ways=ACCELERATE,
        about="CIFAR model of its script, width 64, batch 16 of each kind",
    ),
    "mimicry-sngan": Case(
        codebase="mimicry",
        sizes={"width": 128, "batch": 8},
        modes=STEPS,
        ways=ACCELERATE,
        about="SNGAN for 32x32, widths 128 and 256, batch 8",
    ),
    "r3gan": Case(
        codebase="r3gan",
        sizes={"widths": [128, 128, 128, 64], "cardinality": 16, "batch": 8},
        modes=("D step",),
        ways=PATCH | BOTH | PENALIZED,
        about="32x32, widths 128 and 64, one block per stage, batch 8, R1 and R2",
    ),
    "stylegan2-ada": Case(
        codebase="stylegan2-ada",
        sizes={"size": 64, "batch": 4, "base": 8192, "most": 256},
        modes=("G forward", *STEPS),
        ways=PATCH,
        about="64x64, widths 128 to 256, batch 4; R1 and path length in every step",
    ),
    "stylegan3": Case(
        codebase="stylegan3",
        sizes={"size": 64, "batch": 2, "base": 2048, "most": 64},
        modes=("G forward", *STEPS),
        ways=PATCH,
        about="64x64, widths 32 to 64, six layers, batch 2; R1 and path length in every step",
    ),
    "rosinality": Case(
        codebase="rosinality",
        sizes={"size": 16, "batch": 2},
        modes=STEPS,
        ways=PATCH,
        about="16x16, width 512, batch 2; R1 and path length in every step",
    ),
    "basicsr-esrgan": Case(
        codebase="basicsr",
        sizes={"size": 32, "batch": 1, "width": 64, "blocks": 2},
        modes=("SR step",),
        ways=ACCELERATE,
        about="ESRGAN's generator with two of its blocks, 32x32 to 128x128",
    ),
    "lightweight-gan": Case(
        codebase="lightweight-gan",
        sizes={"size": 64, "batch": 2, "most": 128},
        modes=STEPS,
        ways=ACCELERATE,
        about="64x64, widths up to 128, attention at 16x16, batch 2, its gradient penalty in every D step",
    ),
}


def workload(name: str, device: torch.device, backend_names: Sequence[str], compiled: bool) -> Workload:
    """A codebase as it is, and in every way."""
    case = CASES[name]
    folder = peers.folder(case.codebase)
    contenders: dict[str, Callable[[], Contender]] = {}
    skipped = {}
    if folder is None:
        skipped[BASELINE] = f"no checkout (--peer {case.codebase}=DIR)"
    elif device.type != "cpu":
        skipped[BASELINE] = "measured on a CPU alone"
    else:
        expected = cache(lambda: _expected(case, folder))
        contenders[BASELINE] = lambda: _contender(case, folder, Way(), expected())
        for chosen in backend_names:
            for label, way in case.ways.items():
                contenders[f"{label} ({chosen})"] = lambda way=way, b=chosen: _contender(
                    case, folder, way, expected(), b
                )
    return Workload(
        baseline=BASELINE,
        contenders=contenders,
        skipped=skipped,
        modes=case.modes,
        moved_bytes={},
        # Float32 through whole networks and twice through their gradients.
        baseline_bound=1e-2,
        # Where the baseline is its own measure, its error is not known; others' is up to 3e-4.
        rounding=1e-6 if CODEBASES[case.codebase].doubles else 1e-3,
    )


def _expected(case: Case, folder: Path) -> dict[str, Tensor]:
    dtype = torch.float64 if CODEBASES[case.codebase].doubles else torch.float32
    truth = program(case.codebase, folder, dtype, **case.sizes)
    state, expected = truth.state(), {}
    for mode in case.modes:
        truth.restore(state)
        with SameDraws():
            expected[mode] = _vector(truth.run(mode))
    return expected


def _contender(
    case: Case, folder: Path, way: Way, expected: Mapping[str, Tensor], chosen: str | None = None
) -> Contender:
    subject = program(case.codebase, folder, patched=way.patched, **case.sizes, **way.sizes)
    if way.accelerated:
        fastgan.accelerate(*subject.networks.values())
    state = subject.state()

    def step(mode: str) -> Callable[[], tuple[str, list[Tensor]]]:
        updated, _ = subject.steps[mode]
        # A rate so small that the network, and with it the work, stays as it is however often it is timed.
        optimizer = updated and torch.optim.Adam(updated.parameters(), lr=1e-9, betas=(0.0, 0.9))

        def run() -> tuple[str, list[Tensor]]:
            out = subject.run(mode)
            if optimizer:
                optimizer.step()
            return mode, out

        return run

    def error(run: Callable[[], tuple[str, list[Tensor]]]) -> float:
        # The first forward is looked at, the next one is fused.
        return max(once(run) for _ in range(2))

    def once(run: Callable[[], tuple[str, list[Tensor]]]) -> float:
        subject.restore(state)
        mode, out = run()
        return relative_error(_vector(out), expected[mode])

    @contextmanager
    def context() -> Iterator[None]:
        with subject.patched(), within(chosen)():
            yield

    return Contender({mode: step(mode) for mode in case.modes}, error, context=context, backend=chosen)


def _vector(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


OPS = (
    Op(
        name="codebases",
        cases={name: case.about for name, case in CASES.items()},
        quick=tuple(CASES),
        workload=workload,
    ),
)
