"""A result file as a picture: how many times faster every contender is than the baseline."""

from pathlib import Path

from fastgan.bench.report import environment_line
from fastgan.bench.results import Report

ROW_INCHES = 0.28


def speed_ups(report: Report, file: Path) -> None:
    """Write a bar for every result that has a speed-up, with its interval, and a line at 1.

    Args:
        report: what was measured.
        file: where to; its suffix says what kind, such as .png or .svg.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: nothing in the report was compared with a baseline.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('plots need matplotlib: pip install "fastgan[plot]"') from error
    results = [result for result in report.results if result.ratio is not None]
    if not results:
        raise ValueError("there is no speed-up to plot: nothing was compared with a baseline")
    figure = Figure(figsize=(10, 1.5 + ROW_INCHES * len(results)), layout="constrained")
    axes = figure.subplots()
    places = range(len(results))
    values = [result.ratio.value for result in results]
    below = [max(result.ratio.value - result.ratio.low, 0) for result in results]
    above = [max(result.ratio.high - result.ratio.value, 0) for result in results]
    colors = ["tab:blue" if result.backend else "tab:gray" for result in results]
    bars = axes.barh(places, values, xerr=[below, above], color=colors, error_kw={"elinewidth": 1, "capsize": 2})
    axes.bar_label(bars, [f"{value:.2f}x" for value in values], padding=6)
    axes.set_yticks(places, [f"{result.case}, {result.mode}: {result.contender}" for result in results])
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel(f"speed-up over: {_baselines(report)}")
    axes.set_xlim(right=1.1 * max(result.ratio.high for result in results))
    axes.set_title(environment_line(report), fontsize=7, wrap=True)
    figure.savefig(file, dpi=150)


def _baselines(report: Report) -> str:
    return ", ".join(dict.fromkeys(result.contender for result in report.results if result.ratio is None))
