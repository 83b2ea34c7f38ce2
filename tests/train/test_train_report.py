"""`fastgan report`: one page that needs nothing else, whatever the run is called."""

import base64
import json
import re
import shutil
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from training_runs import command, flags_of, names_in, refused

from fastgan.cli import main
from fastgan.train.afterwards import report
from fastgan.train.afterwards.curves import curves
from fastgan.train.afterwards.text import readable
from fastgan.train.log import read_log

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
HTML, SVG = "{http://www.w3.org/1999/xhtml}", "{http://www.w3.org/2000/svg}"
VOID = {"meta", "img", "br", "link"}


class Strict(HTMLParser):
    """Every element is closed, in order."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def written(capsys, run, *flags):
    """Run `fastgan report`. Returns the page's text, and what an XML parser makes of it."""
    assert main(["report", str(run), *map(str, flags)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    text = Path(out.removeprefix("report: ").removesuffix("\n")).read_text(encoding="utf-8")
    return text, ElementTree.fromstring(text)


def rows(page):
    """Header -> cell of all tables."""
    return {row[0].text: row[1].text for row in page.iter(f"{HTML}tr")}


@pytest.fixture
def copied(ended, tmp_path):
    """A copy of the run's folder, to be spoilt."""
    return shutil.copytree(ended, tmp_path / "copy")


def test_a_page_of_a_run(ended, tmp_path, capsys):
    text, page = written(capsys, ended / "checkpoint.safetensors", "--out", tmp_path / "new" / "page.html")
    shown = rows(page)
    last = read_log(ended / "log.jsonl")[-1]
    assert shown["step"] == "2"
    assert shown["loss_d"] == f"{last['loss_d']:.6g}"
    assert (shown["width_g"], shown["data"], shown["torch"]) == ("4", "digits", torch.__version__)
    pictures = [image.get("src").partition("base64,")[2] for image in page.iter(f"{HTML}img")]
    files = [(ended / f"samples-00000{step}.png").read_bytes() for step in (1, 2)]
    assert [base64.b64decode(picture) for picture in pictures] == files
    assert [caption.text for caption in page.iter(f"{HTML}figcaption")] == ["step 1", "step 2"]
    words = {element.text for element in page.iter(f"{SVG}text")}
    assert {"loss_d, loss_g", "loss_d", "loss_g", "images_per_second", "step"} <= words
    assert "Started at step 0." in text


def test_the_page_needs_nothing_else(ended, tmp_path, capsys):
    text, page = written(capsys, ended, "--out", tmp_path / "page.html")
    parser = Strict()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    assert not {tag for tag, _ in parser.seen} & {"script", "link", "iframe", "object"}
    for _, attributes in parser.seen:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,"))
    assert not re.search(r"url\((?!#)|@import", text)
    (policy,) = (a["content"] for tag, a in parser.seen if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ")
    ids = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(ids) == len(set(ids))


def test_by_default_the_page_is_in_the_runs_folder_and_is_replaced(copied, capsys):
    assert written(capsys, copied)[0] == written(capsys, copied)[0]
    assert names_in(copied)[-3:] == ["report.html", "samples-000001.png", "samples-000002.png"]


ODD = "<b onclick=\"x\">&amp; '$x' \x1b\udce9 日本"


def test_names_may_hold_anything(copied, tmp_path, capsys):
    odd = copied.rename(tmp_path / ODD)
    records = read_log(odd / "log.jsonl")
    records[0]["config"]["data"] = ODD
    for record in records[1:]:
        record |= {ODD: 1.0, "$\\frac": 2.0, "note": ODD}
    (odd / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    text, page = written(capsys, odd, "--out", tmp_path / "page.html")
    assert "<b" not in text.replace("<body", "")
    shown = readable(ODD)
    assert shown == "<b onclick=\"x\">&amp; '$x' \\x1b\\udce9 日本"
    assert rows(page)["data"] == shown
    assert rows(page)[shown] == "1"
    assert page.find(f"{HTML}body/{HTML}h1").text == shown
    assert page.find(f"{HTML}head/{HTML}title").text == shown
    assert shown in {element.text for element in page.iter(f"{SVG}text")}


def test_a_run_in_two_parts(config, out, capsys):
    config = replace(config, penalty="r1", steps=1)
    assert command(*flags_of(config)) == 0
    assert command("--resume", out / "checkpoint.safetensors", "--steps", 3) == 0
    capsys.readouterr()
    text, page = written(capsys, out)
    assert "Started at step 0, then at step 1." in text
    assert rows(page)["steps"] == "3"
    assert "r1" in {element.text for element in page.iter(f"{SVG}text")}


def test_before_anything_is_logged(copied, capsys):
    first, *_ = (copied / "log.jsonl").read_text().splitlines(keepends=True)
    (copied / "log.jsonl").write_text(first + '{"event": "st')  # the record that is being written
    text, page = written(capsys, copied)
    assert "No step has been logged yet." in text
    assert page.find(f".//{SVG}svg") is None


def test_a_log_of_before_the_environment_was_recorded(copied, capsys):
    records = read_log(copied / "log.jsonl")
    del records[0]["environment"]
    (copied / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert "<h2>Environment</h2>\n<p>Started at step 0.</p>\n<p>Not recorded.</p>" in written(capsys, copied)[0]


def test_of_many_grids_some_are_shown(copied, capsys):
    grid = (copied / "samples-000001.png").read_bytes()
    for step in range(3, 101):
        (copied / f"samples-{step:06d}.png").write_bytes(grid)
    text, page = written(capsys, copied)
    assert "12 of 100 grids" in text
    steps = [int(caption.text.removeprefix("step ")) for caption in page.iter(f"{HTML}figcaption")]
    assert len(steps) == 12
    assert (steps[0], steps[-1]) == (1, 100)
    assert {b - a for a, b in pairwise(steps)} == {9}


@pytest.mark.parametrize(
    "line", ["junk", "[]", '{"step": 1}', '{"event": "step", "step": "1"}', '{"event": 1, "step": 1}']
)
def test_a_damaged_log_is_named(copied, capsys, line):
    with (copied / "log.jsonl").open("a") as file:
        file.write(line + "\n")
    assert refused(capsys, "report", copied) == f"{copied / 'log.jsonl'}: line 4 is not a record of a run"
    assert "report.html" not in names_in(copied)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_a_damaged_grid_is_named(copied, capsys, content):
    (copied / "samples-000002.png").write_bytes(content)
    assert refused(capsys, "report", copied).startswith(f"{copied / 'samples-000002.png'}: not a readable PNG (")


def test_what_is_not_accepted(ended, tmp_path, capsys):
    for run in (tmp_path / "nowhere", tmp_path):
        line = refused(capsys, "report", run)
        assert line == f"run = {str(run)!r}: there is no log.jsonl: expected the folder of a run"
    assert "a folder, expected a file such as report.html" in refused(capsys, "report", ended, "--out", tmp_path)
    assert names_in(tmp_path) == []


def test_without_matplotlib(ended, tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    line = refused(capsys, "report", ended, "--out", tmp_path / "x.html")
    assert line == (
        "a plot needs the package matplotlib, which is not installed: pip install matplotlib"
        " (in a clone of fastgan: pip install '.[plot]')"
    )
    assert names_in(tmp_path) == []


def test_the_last_value_of_each_name_is_shown(copied, capsys):
    log = copied / "log.jsonl"
    log.write_text(log.read_text().replace('"step": 1,', '"step": 1, "r1": 0.25,'))
    shown = rows(written(capsys, copied)[1])
    assert (shown["step"], shown["r1"]) == ("2", "0.25")


def test_a_value_that_is_not_always_there_is_drawn_where_it_is():
    records = [{"event": "step", "step": i, "loss_d": 1.0, "r1": 2.0 if i % 2 else "none"} for i in range(10)]
    assert ElementTree.fromstring(curves(records)).tag == f"{SVG}svg"
    assert curves([{"event": "step", "step": 1, "note": "x"}]) == ""


def test_the_environment_is_in_the_log(ended):
    start = read_log(ended / "log.jsonl")[0]
    assert start["environment"]["torch"] == torch.__version__
    assert {"device", "python", "threads", "date"} <= start["environment"].keys()


def test_steps_far_apart(monkeypatch):
    monkeypatch.setattr(report, "MAX_GRIDS", 3)
    assert [step for step, _ in report._some([(i, None) for i in range(8)])] == [0, 4, 7]
