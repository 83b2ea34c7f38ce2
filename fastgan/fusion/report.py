"""What `accelerate` found, and what became of it."""

import threading
import weakref
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from fastgan.fusion.work import Share, verdict
from fastgan.spectral.group import GroupReport, report_since


@dataclass
class Row:
    """A line of the report.

    Args:
        path: of the module, from the root.
        found: what the code does there.
        runs: what runs now.
        reason: why, where that is what the code says.
        kinds: how many kinds of forward (training or not, ...) it runs so in.
    """

    path: str
    found: str
    runs: str
    reason: str = ""
    kinds: int = field(default=0, compare=False)


PLAIN = "as it is"
# Forwards in several threads may find something at once.
LOCK = threading.Lock()


@dataclass
class Report:
    """What `accelerate` did: printable, and up to date with every forward.

    Args:
        networks: class names of the roots.
        ops: what was asked for.
        rows: for each root.
        forwards: for each root, how many kinds of forward (training, gradients, autocast) have been looked at.
        shares: for each root, of these forwards, how much of their work is in calls that are replaced.
        norms: for each root, what was said about its spectral norms, if they were asked for.
        measured: what was gained, if that is measured.
        roots: the networks, as long as they live. A copy of a report does not have them.
    """

    networks: list[str]
    ops: list[str]
    rows: list[list[Row]] = field(default_factory=list)
    forwards: list[int] = field(default_factory=list)
    shares: list[list[Share]] = field(default_factory=list)
    norms: list[GroupReport | None] = field(default_factory=list)
    measured: str = ""
    roots: list[weakref.ref[nn.Module]] = field(default_factory=list, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"roots": []}

    def __str__(self) -> str:
        """A table for every network; the last line says what was measured."""
        tables = [self._table(i) for i in range(len(self.networks))]
        return "\n\n".join(tables + [self.measured] * bool(self.measured))

    def to_dict(self) -> dict[str, Any]:
        """The same for machines."""
        rows = map(self._all_rows, range(len(self.networks)))
        networks = zip(self.networks, rows, self.forwards, self.shares, strict=True)
        return {
            "ops": self.ops,
            "measured": self.measured,
            "networks": [
                {
                    "network": name,
                    "forwards": forwards,
                    "rows": [self._entry(row) for row in rows],
                    "verdict": verdict(shares),
                }
                for name, rows, forwards, shares in networks
            ],
        }

    def _table(self, i: int) -> str:
        title = f"fastgan.accelerate: {self.networks[i]}"
        if not self.forwards[i]:
            title += " (its first forward will show which calls can be fused)"
        cells = [("module", "found", "runs now"), *map(self._cells, self._all_rows(i))]
        widths = [max(len(row[column]) for row in cells) for column in range(2)]
        lines = [f"  {path:{widths[0]}}  {found:{widths[1]}}  {runs}".rstrip() for path, found, runs in cells]
        table = lines if len(cells) > 1 else ["  nothing found"]
        last = verdict(self.shares[i])
        return "\n".join([title, *table, *([f"  {last}"] if last else [])])

    def _all_rows(self, i: int) -> list[Row]:
        """Those of spectral norm are of the network as it is now: layers may be added and removed."""
        norms, root = self.norms[i], self.roots[i]() if self.roots else None
        if norms is not None and root is not None:
            norms = report_since(root, norms)
        return (spectral_norm_rows(norms) if norms is not None else []) + self.rows[i]

    @staticmethod
    def _entry(row: Row) -> dict[str, str]:
        return {"path": row.path, "found": row.found, "runs": row.runs, "reason": row.reason}

    @staticmethod
    def _cells(row: Row) -> tuple[str, str, str]:
        return row.path or "(root)", row.found, row.runs + (f": {row.reason}" if row.reason else "")


def spectral_norm_rows(report: GroupReport) -> list[Row]:
    """Rows of the layers in a group and beside it."""
    rows = [
        Row(layer.path, f"spectral norm {list(layer.shape)} ({layer.style})", "one call for all layers of a network")
        for layer in report.grouped
    ]
    return rows + [Row(layer.path, f"spectral norm ({layer.style})", PLAIN, layer.reason) for layer in report.skipped]
