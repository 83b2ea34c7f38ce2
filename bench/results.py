"""Result files: what was measured, where, and what was not, as JSON."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fastgan.bench.timing import Ratio, Spread

FORMAT = 1


@dataclass(frozen=True)
class Result:
    """One contender's time on one case.

    Args:
        op, case: what was computed, on what.
        mode: "forward", "forward+backward", "step".
        execution: "eager", or "graph" for a CUDA graph's replay.
        contender: the implementation; `backend` is fastgan's backend in it, None for plain torch.
        error: largest relative error against float64, of what was timed.
        seconds: per call.
        rounds: how many calls were timed.
        ratio: how many times faster than the baseline in the same rounds; None for the baseline.
        peak_bytes: the most memory that one call held beyond what was there before it; None where it cannot be read.
        gb_per_s: the bytes that the op has to move over the time; None where that says nothing.
        floor_share: that rate as a share of the device's copy bandwidth, measured in the same run.
    """

    op: str
    case: str
    mode: str
    execution: str
    contender: str
    backend: str | None
    error: float
    seconds: Spread
    rounds: int
    ratio: Ratio | None
    peak_bytes: int | None
    gb_per_s: float | None
    floor_share: float | None

    @property
    def key(self) -> tuple[str, ...]:
        """What two results must share to be about the same thing."""
        return self.op, self.case, self.mode, self.execution, self.contender


@dataclass(frozen=True)
class NotRun:
    """A contender that was not timed; `failed` if that is fastgan's fault, or if it leaves nothing to compare with."""

    op: str
    case: str
    mode: str
    contender: str
    reason: str
    failed: bool


@dataclass
class Report:
    """A result file."""

    environment: dict[str, object]
    results: list[Result] = field(default_factory=list)
    not_run: list[NotRun] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether any of what was not run is a fault."""
        return any(entry.failed for entry in self.not_run)


def write(report: Report, path: Path) -> None:
    """Write a result file; named tuples become lists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"format": FORMAT, **asdict(report)}, indent=1) + "\n")


def read(path: Path) -> Report:
    """Read a result file.

    Raises:
        ValueError: the file is not a result file of this format; the message names it.
    """
    try:
        data = json.loads(path.read_text())
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']!r}, this fastgan reads format {FORMAT}")
        results = [_result(entry) for entry in data["results"]]
        return Report(dict(data["environment"]), results, [NotRun(**entry) for entry in data["not_run"]])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a fastgan result file: {error!r}") from error


def _result(entry: dict) -> Result:
    ratio = Ratio(*entry["ratio"]) if entry["ratio"] else None
    return Result(**{**entry, "seconds": Spread(*entry["seconds"]), "ratio": ratio})
