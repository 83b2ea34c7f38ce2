"""Interleaved timing (A B C, B A C, ...) and the statistics of it: medians, p20/p80, a ratio with its interval."""

import gc
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

RESAMPLES = 2000


class Timer(Protocol):
    """What takes the time of one call."""

    def __call__(self, run: Callable[[], object]) -> float:
        """Call `run` once and return its seconds."""


@dataclass(frozen=True)
class Timed:
    """What is timed: `run`, after `before`, inside `context`; only `run` counts."""

    run: Callable[[], object]
    before: Callable[[], object] = lambda: None
    context: Callable[[], AbstractContextManager] = nullcontext


@dataclass(frozen=True)
class Budget:
    """How long to measure: `rounds` at least, then more until `seconds` are over, never more than `most`."""

    warmup: int
    rounds: int
    most: int
    seconds: float


QUICK = Budget(warmup=2, rounds=7, most=50, seconds=1.5)
FULL = Budget(warmup=3, rounds=25, most=300, seconds=6.0)


class Spread(NamedTuple):
    """Seconds per call: the median, and the 20th and 80th percentile."""

    median: float
    p20: float
    p80: float


class Ratio(NamedTuple):
    """How many times faster than the baseline, with the 95 % interval of that ratio."""

    value: float
    low: float
    high: float

    @property
    def noise(self) -> bool:
        """Whether the interval holds 1: nothing was seen to be faster."""
        return self.low <= 1 <= self.high

    def __str__(self) -> str:
        if self.noise:
            return "no difference"
        return f"{self.value:.2f}x [{self.low:.2f}, {self.high:.2f}]"


def wall_timer(run: Callable[[], object]) -> float:
    """Call `run` once and return its seconds."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


class CudaTimer:
    """CUDA events around one call that finds the L2 cache full of other data.

    Args:
        device: the CUDA device.
        wait: let the device finish the flush before the call. True for eager code, so that the host's time to launch
            counts, as it does in a step that waits for its launches; False for a graph's replay, which is one launch.
    """

    def __init__(self, device: torch.device, *, wait: bool):
        self.device, self.wait = device, wait
        l2_bytes = torch.cuda.get_device_properties(device).L2_cache_size
        self.flush = torch.empty(4 * l2_bytes, dtype=torch.int8, device=device)

    def __call__(self, run: Callable[[], object]) -> float:
        """Call `run` once and return the seconds that passed on the device."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.flush.zero_()
        if self.wait:
            torch.cuda.synchronize(self.device)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize(self.device)
        return start.elapsed_time(end) / 1e3


def interleave(contenders: Mapping[str, Timed], timer: Timer, budget: Budget, seed: int = 0) -> dict[str, list[float]]:
    """Time every contender once per round, in a new random order each round.

    Returns the seconds of each contender's calls; entry i of every list is from round i.
    """
    names = list(contenders)
    order = np.random.default_rng(seed)
    seconds: dict[str, list[float]] = {name: [] for name in names}

    def call(name: str) -> float:
        contender = contenders[name]
        with contender.context():
            contender.before()
            return timer(contender.run)

    gc.collect()
    gc.disable()
    try:
        for _ in range(budget.warmup):
            for name in names:
                call(name)
        deadline = time.perf_counter() + budget.seconds
        done = 0
        while done < budget.rounds or (done < budget.most and time.perf_counter() < deadline):
            for i in order.permutation(len(names)):
                seconds[names[i]].append(call(names[i]))
            done += 1
    finally:
        gc.enable()
    return seconds


def spread(seconds: list[float]) -> Spread:
    """The median and its neighbours of these times."""
    return Spread(*map(float, np.quantile(seconds, (0.5, 0.2, 0.8))))


def ratio(baseline: list[float], contender: list[float], seed: int = 0) -> Ratio:
    """Median of the baseline over median of the contender, and the interval that a bootstrap over rounds gives it.

    Args:
        baseline: seconds per call [rounds].
        contender: seconds per call [rounds], from the same rounds.
        seed: of the resampling.
    """
    pairs = np.array([baseline, contender])
    rounds = pairs.shape[1]
    drawn = np.random.default_rng(seed).integers(rounds, size=(RESAMPLES, rounds))
    medians = np.median(pairs[:, drawn], axis=-1)
    low, high = np.quantile(medians[0] / medians[1], (0.025, 0.975))
    value = np.median(pairs[0]) / np.median(pairs[1])
    return Ratio(float(value), float(low), float(high))
