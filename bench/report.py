"""Tables of result files: for a terminal, for the README, and the difference of two files."""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from fastgan.bench.results import Report, Result
from fastgan.bench.workload import is_ours

ENVIRONMENT_LINE = ("device", "driver", "torch", "triton", "cuda", "compiler", "threads", "commit", "date")
COLUMNS = ("", "median", "p20 to p80", "speed-up", "error", "peak", "GB/s", "of copy")
MARKED = re.compile(r"(<!-- bench:(\w+) -->\n).*?(<!-- /bench -->)", re.DOTALL)


def to_text(report: Report) -> str:
    """The whole report for a terminal: one table per case and mode, then what was not run and why."""
    parts = [_environment(report)]
    for (op, case, mode, execution), group in groupby(report.results, lambda r: r.key[:4]):
        parts.append(f"\n{op} / {case} / {mode} / {execution}")
        parts.append(_aligned([COLUMNS, *map(_row, group)]))
    if report.not_run:
        parts.append("\nnot run")
        parts.append(_aligned([(f"{n.op} / {n.case} / {n.mode}", n.contender, n.reason) for n in report.not_run]))
    return "\n".join(parts)


def to_markdown(reports: Iterable[Report], op: str) -> str:
    """The README's table of an op: a row per device, case and mode; a ratio inside the noise says so."""
    parts = []
    for report in reports:
        groups = [list(group) for _, group in groupby((r for r in report.results if r.op == op), lambda r: r.key[:4])]
        if not groups:
            continue
        names = list(dict.fromkeys(r.contender for group in groups for r in group))
        header = [
            "case",
            *(f"{name}, ms" for name in names),
            *(f"speed-up of {name}" for name in names if is_ours(name)),
        ]
        lines = [header, ["---", *("---:" for _ in header[1:])]]
        for group in groups:
            by_name = {r.contender: r for r in group}
            first = group[0]
            label = f"{first.case}, {first.mode}" + ("" if first.execution == "eager" else f", {first.execution}")
            times = [_cell(by_name.get(name), lambda r: f"{1e3 * r.seconds.median:.3g}") for name in names]
            ratios = [_cell(by_name.get(name), lambda r: str(r.ratio)) for name in names if is_ours(name)]
            lines.append([label, *times, *ratios])
        parts.append(_environment(report) + "\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts)


def rewrite(readme: str, reports: Sequence[Report]) -> str:
    """The text with a fresh table between every `<!-- bench:OP -->` and the `<!-- /bench -->` after it.

    Raises:
        ValueError: there are no such markers, or no results for one of them.
    """
    if not MARKED.search(readme):
        raise ValueError("found no '<!-- bench:OP -->' ... '<!-- /bench -->' to write between")

    def table(match: re.Match) -> str:
        text = to_markdown(reports, match[2])
        if not text:
            raise ValueError(f"no result file has results for {match[2]!r}")
        return f"{match[1]}{text}\n{match[3]}"

    return MARKED.sub(table, readme)


def compare(before: Report, after: Report) -> str:
    """What two files have in common: medians, and their ratio unless p20 to p80 overlap."""
    old = {result.key: result for result in before.results}
    rows = [("", "before", "after", "speed-up")]
    for new in after.results:
        if new.key in old:
            a, b = old[new.key].seconds, new.seconds
            overlap = a.p20 <= b.p80 and b.p20 <= a.p80
            verdict = "no difference" if overlap else f"{a.median / b.median:.2f}x"
            rows.append((" / ".join(new.key), _time(a.median), _time(b.median), verdict))
    heads = f"before: {_environment(before)}\nafter:  {_environment(after)}\n"
    return heads + (_aligned(rows) if len(rows) > 1 else "the files have no measurement in common")


def _row(r: Result) -> tuple[str, ...]:
    return (
        r.contender,
        _time(r.seconds.median),
        f"{_time(r.seconds.p20)} to {_time(r.seconds.p80)}",
        "baseline" if r.ratio is None else str(r.ratio),
        f"{r.error:.0e}",
        "" if r.peak_bytes is None else f"{r.peak_bytes / 2**20:.1f} MiB",
        "" if r.gb_per_s is None else f"{r.gb_per_s:.1f}",
        "" if r.floor_share is None else f"{r.floor_share:.0%}",
    )


def _cell(result: Result | None, text: Callable[[Result], str]) -> str:
    return "not run" if result is None else text(result)


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:.3f} ms"


def _environment(report: Report) -> str:
    known = report.environment
    return ", ".join(
        str(known[key]) if key == "device" else f"{key} {known[key]}" for key in ENVIRONMENT_LINE if known.get(key)
    )


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(f"  {line}" for line in lines)
