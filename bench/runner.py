"""Runs benchmarks: equality first, then memory, then interleaved time; what is wrong is never timed."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from fastgan import backends
from fastgan.bench.peak_memory import peak_bytes
from fastgan.bench.results import NotRun, Report, Result
from fastgan.bench.timing import Budget, CudaTimer, Timed, Timer, interleave, ratio, spread, wall_timer
from fastgan.bench.workload import Contender, Op, Workload, is_ours

WARMUP_BEFORE_CAPTURE = 3
COPY_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}


@dataclass(frozen=True)
class Settings:
    """How to measure: where, which fastgan backends, whether torch.compile takes part, and for how long."""

    device: torch.device
    backends: Sequence[str]
    compiled: bool
    budget: Budget


@dataclass(frozen=True)
class Checked:
    """What is timed, once its result was found right."""

    timed: Timed
    backend: str | None
    error: float
    peak_bytes: int | None


def run(op: Op, case: str, settings: Settings, report: Report) -> None:
    """Measure one case of an op, and add what came of it to `report`."""
    if settings.compiled:
        # Else torch.compile takes shapes that change from case to case for symbolic, and gives up after eight.
        torch.compiler.reset()
    bandwidth = copy_bandwidth(settings.device)
    lacking = {name: kernel for name in settings.backends for kernel in op.kernels if not backends.has(name, kernel)}
    for name, kernel in lacking.items():
        report.not_run.append(NotRun(op.name, case, "all", f"fastgan ({name})", f"it has no {kernel}", failed=False))
    serving = [name for name in settings.backends if name not in lacking]
    workload = op.workload(case, settings.device, serving, settings.compiled)
    _Measurement(op.name, case, workload, settings, bandwidth, report).run()


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second of a large copy on the device, read and write counted."""
    source = torch.randint(256, (COPY_BYTES[device.type] // 2,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    timer = timer_for(device, "graph")
    seconds = [timer(lambda: target.copy_(source)) for _ in range(12)]
    return 2 * source.nbytes / statistics.median(seconds[2:])


def timer_for(device: torch.device, execution: str) -> Timer:
    """What times a call on this device, run eagerly or as a graph's replay."""
    return CudaTimer(device, wait=execution == "eager") if device.type == "cuda" else wall_timer


def captured(run: Callable[[], object], before: Callable[[], object]) -> Callable[[], object]:
    """`run` as the replay of a CUDA graph, which returns the outputs that the capture made.

    Everything happens on the stream that is captured: a backward runs where its forward ran, and work that an earlier
    stream has to do cannot be captured.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARMUP_BEFORE_CAPTURE):
            before()
            run()
        before()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        outputs = run()

    def replay() -> object:
        graph.replay()
        return outputs

    return replay


@dataclass(frozen=True)
class _Measurement:
    """One case of one op: fills the report."""

    op: str
    case: str
    workload: Workload
    settings: Settings
    bandwidth: float
    report: Report

    def run(self) -> None:
        for name, reason in self.workload.skipped.items():
            self._skip("all", name, reason)
        contenders = {name: built for name in self._names() if (built := self._build(name)) is not None}
        for mode in self.workload.modes:
            for execution in ("eager", "graph") if self.settings.device.type == "cuda" else ("eager",):
                self._measure(mode, execution, contenders)

    def _names(self) -> list[str]:
        """The baseline, then the others in their order."""
        return sorted(self.workload.contenders, key=lambda name: name != self.workload.baseline)

    def _build(self, name: str) -> Contender | None:
        try:
            return self.workload.contenders[name]()
        except Exception as error:
            self._fail("all", name, _one_line(error))
            return None

    def _measure(self, mode: str, execution: str, contenders: dict[str, Contender]) -> None:
        checked = self._checked(mode, execution, contenders)
        if self.workload.baseline not in checked:
            return
        timer = timer_for(self.settings.device, execution)
        seconds = interleave({name: entry.timed for name, entry in checked.items()}, timer, self.settings.budget)
        for name, entry in checked.items():
            self.report.results.append(self._result(mode, execution, name, entry, seconds))

    def _checked(self, mode: str, execution: str, contenders: dict[str, Contender]) -> dict[str, Checked]:
        """The contenders whose results are right; none if the baseline's, which sets the bound, is not."""
        checked: dict[str, Checked] = {}
        bound = self.workload.baseline_bound
        for name, contender in contenders.items():
            entry = self._check(name, contender, mode, execution, bound)
            if entry is not None:
                checked[name] = entry
            if name == self.workload.baseline:
                if entry is None:
                    break
                bound = 2 * entry.error + self.workload.rounding
        return checked

    def _check(self, name: str, contender: Contender, mode: str, execution: str, bound: float) -> Checked | None:
        label = mode if execution == "eager" else f"{mode}, {execution}"
        try:
            entry = _prepare(contender, mode, execution, self.settings.device)
        except Exception as error:
            # What cannot be captured is a limit, which a backend may state; what cannot run is a fault.
            note = self._skip if execution == "graph" else self._fail
            note(label, name, _one_line(error))
            return None
        if entry.error > bound:
            self._fail(label, name, f"wrong: its relative error is {entry.error:.1e}, at most {bound:.1e} is right")
            return None
        return entry

    def _result(self, mode: str, execution: str, name: str, entry: Checked, seconds: dict[str, list[float]]) -> Result:
        baseline = self.workload.baseline
        times = spread(seconds[name])
        moved = self.workload.moved_bytes.get(mode)
        return Result(
            op=self.op,
            case=self.case,
            mode=mode,
            execution=execution,
            contender=name,
            backend=entry.backend,
            error=entry.error,
            seconds=times,
            rounds=len(seconds[name]),
            ratio=None if name == baseline else ratio(seconds[baseline], seconds[name]),
            peak_bytes=entry.peak_bytes,
            gb_per_s=moved / times.median / 1e9 if moved else None,
            floor_share=moved / times.median / self.bandwidth if moved else None,
        )

    def _skip(self, mode: str, name: str, reason: str) -> None:
        self.report.not_run.append(NotRun(self.op, self.case, mode, name, reason, failed=False))

    def _fail(self, mode: str, name: str, reason: str) -> None:
        """Note what went wrong; that is a fault where it is ours, or where it leaves no baseline."""
        failed = is_ours(name) or name == self.workload.baseline
        self.report.not_run.append(NotRun(self.op, self.case, mode, name, reason, failed))


def _prepare(contender: Contender, mode: str, execution: str, device: torch.device) -> Checked:
    """What would be timed, with the error and the memory of one call."""
    run, before = contender.runs[mode], contender.before
    with contender.context():
        if execution == "graph":
            # A replay writes the gradients that the capture allocated: they must not be cleared.
            run, before = captured(run, before), lambda: None
        before()
        error = contender.error(run)
        before()
        peak = peak_bytes(run, device) if execution == "eager" else None
    return Checked(Timed(run, before, contender.context), contender.backend, error, peak)


def _one_line(error: Exception) -> str:
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}"
