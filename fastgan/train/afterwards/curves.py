"""Curves of a run, drawn by matplotlib as SVG."""

import io
import warnings
from collections.abc import Sequence
from typing import Any

from fastgan.train.afterwards.text import readable
from fastgan.train.extras import require

PANEL_INCHES = (9, 2.6)
SPEED = "images_per_second"
NO_CURVE = ("event", "step", "seconds")


def curves(records: Sequence[dict[str, Any]]) -> str:
    """One <svg> element: the losses, each other number, and images per second, over the steps of `records`.

    Empty where no record has a number.
    """
    matplotlib, Figure = require("matplotlib"), require("matplotlib.figure").Figure
    panels = _panels(records)
    if not panels:
        return ""
    width, height = PANEL_INCHES
    # text stays text; the same records give the same picture
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fastgan", "font.family": "sans-serif"}):
        figure = Figure(figsize=(width, height * len(panels)), layout="constrained")
        for axes, names in zip(figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0], panels, strict=True):
            for name in names:
                points = [(record["step"], record[name]) for record in records if _is_number(record.get(name))]
                axes.plot(*zip(*points, strict=True), linewidth=1, marker="." if len(points) < 3 else "", label=name)
            axes.set_ylabel(_plain(", ".join(names)), fontsize=8)
            if names == [SPEED]:
                axes.set_ylim(0, 1.1 * max(speed for _, speed in points))
            axes.grid(alpha=0.3)
            if len(names) > 1:
                axes.legend(labels=[_plain(name) for name in names], fontsize=8)
        axes.set_xlabel("step")
        content = io.StringIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a glyph that matplotlib's font lacks: the reader's may not
            figure.savefig(content, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = content.getvalue()
    return text[text.index("<svg") :]


def _panels(records: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The names of what is drawn, those that share a panel together."""
    values = ((name, value) for record in records for name, value in record.items() if name not in NO_CURVE)
    names = dict.fromkeys(name for name, value in values if _is_number(value))
    losses = sorted(name for name in names if name.startswith("loss"))
    others = [[name] for name in names if name not in losses and name != SPEED]
    return [panel for panel in (losses, *others, [SPEED] if SPEED in names else []) if panel]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _plain(text: str) -> str:
    """What matplotlib draws as it is: no formula, nothing that it cannot encode."""
    return readable(text).replace("$", r"\$")
