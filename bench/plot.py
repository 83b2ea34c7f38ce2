"""A result file as a picture: how many times faster every contender is than the baseline."""

from pathlib import Path
from typing import NamedTuple

from fastgan.bench.report import environment_line
from fastgan.bench.results import Report

ROW_INCHES = 0.28


class Bar(NamedTuple):
    """A row: its length, None where nothing was seen to be faster; what it says; its interval, label and colour."""

    length: float | None
    words: str
    low: float
    high: float
    label: str
    color: str


def bars(report: Report) -> list[Bar]:
    """A row for every result that was compared with a baseline."""
    rows = []
    for result in report.results:
        if result.ratio is not None:
            value, low, high = result.ratio
            length, words = (None, str(result.ratio)) if result.ratio.noise else (value, f"{value:.2f}x")
            label = f"{result.case}, {result.mode}: {result.contender}"
            rows.append(Bar(length, words, low, high, label, "tab:blue" if result.backend else "tab:gray"))
    return rows


def speed_ups(report: Report, file: Path) -> None:
    """Draw a bar for every speed-up, with its interval, and a line at 1; where there is none, the interval and words.

    Args:
        report: what was measured.
        file: where to; its suffix says what kind, such as .png or .svg.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: nothing in the report was compared with a baseline, or the file's name has no suffix.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("plots need matplotlib: pip install matplotlib") from error
    if not file.suffix:
        raise ValueError(f"{file}: expected a file such as speed.png, .svg or .pdf")
    rows = bars(report)
    if not rows:
        raise ValueError("there is no speed-up to plot: nothing was compared with a baseline")
    figure = Figure(figsize=(10, 1.5 + ROW_INCHES * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, bar in enumerate(rows):
        if bar.length is not None:
            axes.barh(place, bar.length, color=bar.color)
        axes.plot([bar.low, bar.high], [place, place], "|-", color="black", linewidth=1, markersize=4)
        axes.annotate(bar.words, (bar.high, place), (6, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(rows)), [bar.label for bar in rows])
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel(f"speed-up over: {_baselines(report)}; the line at 1 is its time, a bar's line its 95 % interval")
    axes.set_xlim(0, 1.15 * max(bar.high for bar in rows))
    axes.set_title(environment_line(report), fontsize=7, wrap=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)


def _baselines(report: Report) -> str:
    return ", ".join(dict.fromkeys(result.contender for result in report.results if result.ratio is None))
