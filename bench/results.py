"""Result files: what was measured, where, and what was not, as JSON."""

import json
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, get_type_hints

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
        ValueError: the file is not a result file of this format; the message names it, and what is wrong with it.
    """
    try:
        data = _object(json.loads(path.read_text()), "the file")
        if data.get("format") != FORMAT:
            raise ValueError(f"format {data.get('format')!r}, this fastgan reads format {FORMAT}")
        environment = _object(data.get("environment"), "environment")
        results = [_result(entry, f"results[{i}]") for i, entry in enumerate(_list(data.get("results"), "results"))]
        entries = enumerate(_list(data.get("not_run"), "not_run"))
        return Report(environment, results, [_checked(NotRun, entry, f"not_run[{i}]") for i, entry in entries])
    except ValueError as error:
        said = "it is no text in UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise ValueError(f"{path} is not a fastgan result file: {said}") from error


def _result(entry: object, where: str) -> Result:
    values = dict(_object(entry, where))
    for name, kind in (("seconds", Spread), ("ratio", Ratio)):
        numbers = values.get(name)
        if numbers is None and name == "ratio":
            continue
        if len(_list(numbers, f"{where}.{name}")) != 3 or not all(map(_finite, numbers)):
            raise ValueError(f"{where}.{name} is {numbers!r}, expected three numbers")
        values[name] = kind(*numbers)
    result = _checked(Result, values, where)
    if min(result.seconds) <= 0 or (result.ratio and min(result.ratio) <= 0):
        raise ValueError(f"{where}: seconds and ratio must be greater than 0")
    return result


def _checked(kind: type, entry: object, where: str) -> Any:
    """A dataclass of an object that has a value of the right type for each of its fields, and no others."""
    values, types = _object(entry, where), get_type_hints(kind)
    if unlike := sorted(values.keys() ^ types.keys()):
        raise ValueError(f"{where} {'has no' if unlike[0] in types else 'has an unknown'} {unlike[0]!r}")
    for name, expected in types.items():
        value = values[name]
        if not isinstance(value, expected) or (isinstance(value, float) and not isfinite(value)):
            raise ValueError(f"{where}.{name} is {value!r}, expected {getattr(expected, '__name__', expected)}")
    return kind(**values)


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def _object(value: object, what: str) -> dict:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {_kind(value)}, expected an object")
    return value


def _list(value: object, what: str) -> list:
    if not isinstance(value, list):
        raise ValueError(f"{what} is {_kind(value)}, expected a list")
    return value


def _kind(value: object) -> str:
    return "missing" if value is None else f"of type {type(value).__name__}"
