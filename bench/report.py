"""Tables of result files: for a terminal, for the README, and the difference of two files."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from math import floor, log10

from fastgan.bench.results import NotRun, Report, Result

ENVIRONMENT_LINE = ("device", "driver", "torch", "triton", "cuda", "compiler", "threads", "commit", "date")
COLUMNS = ("", "median", "p20 to p80", "speed-up", "error", "peak", "GB/s", "of copy")
MARKED = re.compile(r"(<!-- (bench|summary):([\w ,-]+) -->\n).*?(<!-- /bench -->)", re.DOTALL)


def to_text(report: Report) -> str:
    """The whole report for a terminal: one table per case and mode, then what was not run and why."""
    parts = [environment_line(report)]
    for (op, case, mode, execution), group in groupby(report.results, lambda r: r.key[:4]):
        parts.append(f"\n{op} / {case} / {mode} / {execution}")
        parts.append(_aligned([COLUMNS, *map(_row, group)]))
    if report.not_run:
        parts.append("\nnot run")
        parts.append(_aligned([(f"{n.op} / {n.case} / {n.mode}", n.contender, n.reason) for n in report.not_run]))
    return "\n".join(parts)


def to_markdown(reports: Iterable[Report], op: str) -> str:
    """The README's tables of an op, one per result file: a row per case and mode, a column per contender."""
    tables = []
    for report in reports:
        results = [result for result in report.results if result.op == op]
        if results:
            reasons = _reasons((n for n in report.not_run if n.op == op), {result.case for result in results})
            tables.append("\n\n".join([environment_line(report), _markdown_table(results), *reasons]))
    return "\n\n".join(tables)


def _markdown_table(results: Sequence[Result]) -> str:
    names = list(dict.fromkeys(result.contender for result in results))
    lines = [["milliseconds (speed-up)", *names], ["---", *("---:" for _ in names)]]
    for (_, case, mode, execution), group in groupby(results, lambda r: r.key[:4]):
        by_name = {result.contender: result for result in group}
        label = ", ".join([case, mode, *([] if execution == "eager" else [execution])])
        lines.append([label, *(_cell(by_name.get(name)) for name in names)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(result: Result | None) -> str:
    if result is None:
        return "not run"
    time = _three_digits(1e3 * result.seconds.median)
    return time if result.ratio is None else f"{time} ({result.ratio})"


def _reasons(not_run: Iterable[NotRun], cases: set[str]) -> list[str]:
    """Why contenders were not run, the same reason given once; without the cases where it holds for all of them."""
    where: dict[tuple[str, str], list[str]] = {}
    for n in not_run:
        where.setdefault((n.contender, n.reason), []).append(n.case if n.mode == "all" else f"{n.case}, {n.mode}")
    return [
        f"Not run: {name}{'' if len(cases) > 1 and cases <= set(places) else ' on ' + '; '.join(places)}: {reason}."
        for (name, reason), places in where.items()
    ]


def summary(reports: Mapping[str, Report]) -> str:
    """One table of several files: a row per step, with the baseline, torch.compile and fastgan's fastest way."""
    lines = [["milliseconds (speed-up)", "as shipped", "torch.compile", "fastgan", "by"], ["---", *["---:"] * 3, "---"]]
    for report in reports.values():
        for (_, case, mode, _), group in groupby(report.results, lambda r: r.key[:4]):
            steps = list(group)
            plain = next((r for r in steps if r.ratio is None), None)
            compiled = next((r for r in steps if r.contender == "torch.compile"), None)
            ours = min((r for r in steps if r.backend), key=lambda r: r.seconds.median, default=None)
            way = ours.contender.removeprefix("fastgan ").partition(" (")[0] if ours else ""
            cells = [_cell(plain), _cell(compiled) if compiled else "not measured", _cell(ours), way]
            lines.append([f"{case}, {mode}", *cells])
    sources = [f"{name}.json: {environment_line(report)}" for name, report in reports.items()]
    return "\n\n".join(["\n".join(f"| {' | '.join(line)} |" for line in lines), *sources])


def rewrite(readme: str, reports: Mapping[str, Report]) -> str:
    """The text with a new table between every marker and the `<!-- /bench -->` after it.

    The marker `<!-- bench:OP -->` asks for the tables of an op, `<!-- summary:FILE,FILE -->` for one table of files.

    Args:
        readme: the text.
        reports: by the name of the file, without its folder and ".json".

    Raises:
        ValueError: there are no such markers, or no results for one of them.
    """
    if not MARKED.search(readme):
        raise ValueError("found no '<!-- bench:OP -->' ... '<!-- /bench -->' to write between")

    def table(match: re.Match) -> str:
        names = match[3].split(",")
        if match[2] == "bench":
            text = to_markdown(reports.values(), match[3])
        else:
            text = "" if set(names) - set(reports) else summary({name: reports[name] for name in names})
        if not text:
            raise ValueError(f"no result file has results for {match[3]!r}")
        return f"{match[1]}{text}\n{match[4]}"

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
    heads = f"before: {environment_line(before)}\nafter:  {environment_line(after)}\n"
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


def _three_digits(value: float) -> str:
    """A positive number with three significant digits, or all before the point if they are more."""
    return f"{value:.{max(0, 2 - floor(log10(value)))}f}"


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:.3f} ms"


def environment_line(report: Report) -> str:
    """Device, versions, commit and date."""
    known = report.environment
    return ", ".join(
        str(known[key]) if key == "device" else f"{key} {known[key]}" for key in ENVIRONMENT_LINE if known.get(key)
    )


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(f"  {line}" for line in lines)
