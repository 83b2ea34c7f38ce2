"""Whether anything is gained: steps of the user's own loop, some accelerated and some as they are, timed as they come.

A step is what happens from one step of a torch optimizer to the next: forwards, backwards, updates, whatever the loop
does. At random it runs accelerated or as it is; both compute the same to rounding, so nothing else changes: no work is
added, and the random numbers are from a private generator. Steps are compared with those that made the same
calls: an update of the critic with another, one with a penalty with another. Times are wall-clock times on a CPU. On a
GPU they are those between events in the stream, which are read when they are over: nothing waits.
"""

import random
import time
import weakref
from collections.abc import Callable
from math import sqrt
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from fastgan.around import Around, passing_by, release
from fastgan.fusion.call_state import CallState
from fastgan.fusion.report import PLAIN, Report
from fastgan.intercept import tensors_in

# Times of either kind that a comparison needs, and after how many steps it is given up.
ENOUGH, GIVE_UP = 10, 400
# Smaller differences are neither gain nor loss.
LITTLE = 0.02

Mark = Any
Times = tuple[list[tuple[Mark, Mark]], list[tuple[Mark, Mark]]]  # accelerated, and as it is


class Measurement(Around):
    """Runs around the calls of all networks of one `accelerate`.

    Args:
        report: gets the result.
        undo: takes back all that was accelerated.
    """

    def __init__(self, report: Report, undo: Callable[[], object]):
        self.report, self.undo = report, undo
        self.choice = random.Random(0)
        self.plain = False
        self.calls: list[tuple] = []  # of the step that runs
        self.began: Mark = None
        self.known: tuple = ()  # what the report said when it began
        self.times: dict[tuple, Times] = {}
        self.steps = 0
        self.last: Mark = None  # the end of a step after which there is enough
        this = weakref.ref(self)
        self.handle = register_optimizer_step_post_hook(lambda optimizer, *_: _stepped(this, optimizer))
        _known.append((this, self.handle))
        _tidy()
        report.measured = "measured: not yet, no torch optimizer has made a step"

    def __getstate__(self) -> dict[str, Any]:
        return {"handle": None}  # copies are not measured

    def around(self, module: nn.Module, args: tuple, call: Callable[[], Any]) -> Any:
        """As it is, or accelerated, as it was chosen for this step."""
        if torch.compiler.is_compiling() or self.handle is None:
            return call()
        if self.last is not None and _has_passed(self.last):
            self._conclude()
            return passing_by(call)
        self.calls.append((id(module), CallState.of(module), *(tuple(t.shape) for t in tensors_in(args))))
        return passing_by(call) if self.plain else call()

    def stop(self) -> None:
        """Stop measuring."""
        if self.handle is None:
            return
        self.handle.remove()
        self.handle = None
        _tidy()
        self.report.measured = f"measured: nothing, it was stopped after {self.steps} steps"
        for root in self.report.roots:
            if root() is not None:
                release(root(), self)

    def stepped(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer has made a step: another begins."""
        now = _mark(optimizer)
        known = (list(self.report.forwards), [[row.runs for row in rows] for rows in self.report.rows])
        # A step in which something was found, or looked at, took longer for it.
        if self.calls and None not in (self.began, now) and known == self.known:
            self.steps += 1
            self.times.setdefault((id(optimizer), *self.calls), ([], []))[self.plain].append((self.began, now))
            self.report.measured = f"measured: not yet, after {self.steps} steps"
        self.calls, self.began, self.known, self.plain = [], now, known, self.choice.random() < 0.5
        if self.last is None and now is not None and (self.steps >= GIVE_UP or self._compared()):
            self.last = now

    def _compared(self) -> list[Times]:
        """The steps of which there are enough, if they are most of all steps."""
        enough = [times for times in self.times.values() if min(map(len, times)) >= ENOUGH]
        return enough if sum(len(kind) for times in enough for kind in times) >= self.steps * 2 / 3 else []

    def _conclude(self) -> None:
        compared = self._compared()
        self.stop()
        if not compared:
            self.report.measured = f"measured: nothing, since too few of {self.steps} steps made the same calls"
            return
        totals, errors = [0.0, 0.0], [0.0, 0.0]
        for times in compared:
            steps = sum(map(len, times))
            for i, kind in enumerate(times):
                seconds = [_seconds(*marks) for marks in kind]
                middle = median(seconds)
                totals[i] += steps * middle
                # Of a median, from the median distance to it.
                errors[i] += (steps * 1.86 * median(abs(s - middle) for s in seconds)) ** 2 / len(seconds)
        ratio = totals[1] / totals[0]
        noise = ratio * sqrt(sum(error / total**2 for error, total in zip(errors, totals, strict=True)))
        over = f"over {sum(len(t[0]) for t in compared)} steps accelerated and {sum(len(t[1]) for t in compared)} not"
        if abs(ratio - 1) <= max(LITTLE, 2 * noise):
            self.report.measured = f"measured: no gain ({ratio:.2f}x {over})"
        elif ratio > 1:
            self.report.measured = f"measured: {ratio:.2f}x {over}"
        else:
            self.undo()
            for row in (row for rows in self.report.rows for row in rows if row.runs != PLAIN):
                row.runs, row.reason = PLAIN, "it was measured, and slower"
            self.report.measured = f"measured: no gain ({ratio:.2f}x {over}), so all runs as it is again"


# torch looks through its hooks while they run: none may go then, such as when a network is collected.
_known: list[tuple[weakref.ref[Measurement], RemovableHandle]] = []


def _tidy() -> None:
    """Take back the hooks of measurements that have ended."""
    for entry in list(_known):
        measurement = entry[0]()
        if measurement is None or measurement.handle is None:
            entry[1].remove()
            _known.remove(entry)


def _stepped(measurement: weakref.ref[Measurement], optimizer: torch.optim.Optimizer) -> None:
    this = measurement()
    if this is not None:
        this.stepped(optimizer)


def _mark(optimizer: torch.optim.Optimizer) -> Mark:
    """Now; None where that cannot be told."""
    if _device(optimizer) != "cuda":
        return time.perf_counter()
    if torch.cuda.is_current_stream_capturing():
        return None
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _device(optimizer: torch.optim.Optimizer) -> str:
    parameter = next((p for group in optimizer.param_groups for p in group["params"]), None)
    return "cpu" if parameter is None else parameter.device.type


def _has_passed(mark: Mark) -> bool:
    return isinstance(mark, float) or mark.query()


def _seconds(begin: Mark, end: Mark) -> float:
    return end - begin if isinstance(begin, float) else begin.elapsed_time(end) / 1e3
