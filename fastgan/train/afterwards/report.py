"""`fastgan report`: one HTML page of a run, which holds all that it shows; no script, nothing from a network."""

import base64
import io
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import fastgan
from fastgan.train.afterwards.arguments import add_run
from fastgan.train.afterwards.curves import curves
from fastgan.train.afterwards.text import readable
from fastgan.train.extras import require
from fastgan.train.files import write_whole
from fastgan.train.folder import LOG, grids
from fastgan.train.log import read_log
from fastgan.train.terminal import finish

MAX_GRIDS = 12
STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse } th, td { border-bottom: 1px solid #ddd; padding: .15rem .8rem .15rem 0 }
th { text-align: left; font-weight: normal; color: #666; white-space: nowrap } td { overflow-wrap: anywhere }
svg { max-width: 100%; height: auto }
figure { display: inline-block; width: 18rem; margin: 0 1rem 1rem 0 } img { width: 100%; image-rendering: pixelated }
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Add RUN and the options."""
    add_run(parser)
    parser.add_argument("--out", type=Path, help="the file to write (default: report.html in the run's folder)")


def run(args: Namespace) -> int:
    """Report as the parsed arguments say. Returns the exit status."""
    return finish("report", lambda: report(args.run_path, args.out))


def report(run_path: Path, out: Path | None = None) -> str:
    """Write the page. Returns the line that says where it is.

    Raises FileNotFoundError where there is no run, ValueError naming a file of the run that is damaged, ImportError
    without matplotlib, OSError.
    """
    folder = run_path if run_path.is_dir() else run_path.parent
    if not run_path.exists() or not (folder / LOG).is_file():
        raise FileNotFoundError(f"run = {str(run_path)!r}: there is no {LOG}: expected the folder of a run")
    out = folder / "report.html" if out is None else out
    if out.is_dir():
        raise IsADirectoryError(f"out = {str(out)!r}: a folder, expected a file such as report.html")
    page = _page(folder)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page.encode())
    return f"report: {out}"


def _page(folder: Path) -> str:
    """HTML that is XML too, so that any parser tells what is wrong with it."""
    records = read_log(folder / LOG)
    starts = [record for record in records if record["event"] == "start"]
    steps = [record for record in records if record["event"] == "step"]
    last = starts[-1] if starts else {}
    found = sorted(grids(folder))
    name = readable(folder.resolve().name)
    parts = [
        f"<p>Written by fastgan {escape(fastgan.__version__)} from {_text(folder.resolve())}.</p>",
        "<h2>Last values</h2>",
        _table(_last_values(steps)) if steps else "<p>No step has been logged yet.</p>",
        "<h2>Curves</h2>",
        curves(steps) if steps else "",
        "<h2>Samples</h2>",
        f"<p>{min(len(found), MAX_GRIDS)} of {len(found)} grids, all of the same latents.</p>",
        *(_figure(step, path) for step, path in _some(found)),
        "<h2>Settings</h2>",
        _table(last.get("config", {})),
        "<h2>Environment</h2>",
        f"<p>Started at step {', then at step '.join(str(record['step']) for record in starts)}.</p>" if starts else "",
        _table(last.get("environment", {})),
    ]
    body = "\n".join(part for part in parts if part)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return f"""<!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml" lang="en">
<head>
<meta charset="utf-8"/>
<meta http-equiv="Content-Security-Policy" content="{policy}"/>
<meta name="viewport" content="width=device-width"/>
<title>{escape(name)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(name)}</h1>
{body}
</body>
</html>
"""


def _text(value: Any) -> str:
    return escape(readable(f"{value:.6g}" if isinstance(value, float) else value))


def _last_values(steps: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The last value of each name: not every step has each."""
    return {name: value for record in steps for name, value in record.items() if name != "event"}


def _table(values: Mapping[str, Any]) -> str:
    rows = [(name, value) for name, value in values.items() if value is not None]
    if not rows:
        return "<p>Not recorded.</p>"
    lines = "\n".join(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in rows)
    return f"<table>\n{lines}\n</table>"


def _some(found: list[tuple[int, Path]]) -> list[tuple[int, Path]]:
    """At most `MAX_GRIDS`, evenly spaced, with the first and the last."""
    if len(found) <= MAX_GRIDS:
        return found
    return [found[round(i * (len(found) - 1) / (MAX_GRIDS - 1))] for i in range(MAX_GRIDS)]


def _figure(step: int, path: Path) -> str:
    content = path.read_bytes()
    try:
        require("PIL.Image").open(io.BytesIO(content), formats=["PNG"]).load()
    # Pillow's decoders raise about anything on malformed bytes
    except Exception as error:
        raise ValueError(f"{path}: not a readable PNG ({error})") from error
    data = base64.b64encode(content).decode()
    caption = f"step {step}"
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"/><figcaption>{caption}</figcaption></figure>'
    )
