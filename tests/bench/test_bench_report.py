"""Result files and the tables made of them."""

import json
import re
from dataclasses import replace

import pytest

from fastgan.bench import plot, report, results
from fastgan.bench.results import NotRun, Report, Result
from fastgan.bench.timing import Ratio, Spread

README = "# Title\n<!-- bench:norm -->\nold\n<!-- /bench -->\nend\n"
SUMMARY = "<!-- summary:here -->\n<!-- /bench -->\n"


def result(contender="torch parametrization", median=2e-3, ratio=None, **changes):
    values = {
        "op": "norm",
        "case": "small",
        "mode": "forward",
        "execution": "eager",
        "contender": contender,
        "backend": "cpu" if contender.startswith("fastgan") else None,
        "error": 1e-7,
        "seconds": Spread(median, 0.9 * median, 1.1 * median),
        "rounds": 7,
        "ratio": ratio,
        "peak_bytes": 3 << 20,
        "gb_per_s": 4.5,
        "floor_share": 0.25,
    }
    return Result(**{**values, **changes})


@pytest.fixture
def measured():
    environment = {"device": "a chip", "torch": "2.13.0", "driver": None, "date": "2026-01-01"}
    ours = [
        result("fastgan grouped (cpu)", 1e-3, Ratio(2.0, 1.9, 2.1)),
        result("fastgan functional (cpu)", 2e-3, Ratio(1.0, 0.9, 1.1)),
    ]
    return Report(
        environment, [result(), *ours], [NotRun("norm", "small", "all", "torch.compile", "no compiler", False)]
    )


def test_round_trip(measured, tmp_path):
    results.write(measured, tmp_path / "new" / "file.json")
    assert results.read(tmp_path / "new" / "file.json") == measured


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"7", b'{"format": 1', b"\xff\xfe"])
def test_malformed_file_is_refused_by_name(text, tmp_path):
    path = tmp_path / "bad.json"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=r"bad\.json is not a fastgan result file: "):
        results.read(path)


# What a value may be replaced by: another type, no number, too few.
WRONG = [None, 7, "text", True, [], [1.0], ["a", "b", "c"], [None] * 3, {}, float("nan"), float("inf"), [0.0] * 3]


def test_every_wrong_value_of_a_file_is_refused_by_its_place(measured, tmp_path):
    """A file is read and understood, or refused: never does something later trip over a value."""
    path = tmp_path / "file.json"
    results.write(measured, path)
    right = json.loads(path.read_text())
    places = [(key,) for key in right]
    places += [("results", 1, key) for key in right["results"][1]] + [
        ("not_run", 0, key) for key in right["not_run"][0]
    ]
    refused = 0
    for place in places:
        for value in [*WRONG, "absent"]:
            data = json.loads(path.read_text())
            *way, key = place
            holder = data
            for step in way:
                holder = holder[step]
            if value == "absent":
                del holder[key]
            else:
                holder[key] = value
            changed = tmp_path / "changed.json"
            changed.write_text(json.dumps(data))
            try:
                read = results.read(changed)
            except ValueError as error:
                assert str(key) in str(error)  # noqa: PT017
                refused += 1
            else:
                report.to_text(read)
                report.to_markdown([read], "norm")
                report.compare(read, measured)
    assert refused > 7 * len(places)


def test_other_format_is_refused(measured, tmp_path):
    path = tmp_path / "old.json"
    results.write(measured, path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(ValueError, match="format 99, this fastgan reads format 1"):
        results.read(path)


def test_text_has_every_number_and_what_was_not_run(measured):
    text = report.to_text(measured)
    for part in ("a chip", "2.000 ms", "2.00x [1.90, 2.10]", "no difference", "3.0 MiB", "4.5", "25%", "no compiler"):
        assert part in text
    assert "driver" not in text


def test_markdown_has_a_row_per_mode(measured):
    measured.results.append(result(mode="forward+backward", execution="graph"))
    assert report.to_markdown([measured], "norm").splitlines() == [
        "a chip, torch 2.13.0, date 2026-01-01",
        "",
        "| milliseconds (speed-up) | torch parametrization | fastgan grouped (cpu) | fastgan functional (cpu) |",
        "| --- | ---: | ---: | ---: |",
        "| small, forward | 2.00 | 1.00 (2.00x [1.90, 2.10]) | 2.00 (no difference) |",
        "| small, forward+backward, graph | 2.00 | not run | not run |",
        "",
        "Not run: torch.compile on small: no compiler.",
    ]
    assert report.to_markdown([measured], "other") == ""


@pytest.mark.parametrize(("seconds", "text"), [(1.2345, "1234"), (0.12345, "123"), (0.0123, "12.3"), (2e-5, "0.0200")])
def test_markdown_times_have_three_digits(measured, seconds, text):
    measured.results[0] = result(median=seconds)
    assert f"| small, forward | {text} |" in report.to_markdown([measured], "norm")


def test_readme_is_rewritten_between_its_markers_only(measured):
    text = report.rewrite(README, {"here": measured})
    assert text.startswith("# Title\n<!-- bench:norm -->\na chip")
    assert text.endswith(": no compiler.\n<!-- /bench -->\nend\n")
    assert "old" not in text
    assert report.rewrite(text, {"here": measured}) == text


def test_readme_without_markers_is_refused(measured):
    with pytest.raises(ValueError, match="found no '<!-- bench:OP -->'"):
        report.rewrite("# Title\n", {"here": measured})


def test_readme_table_without_results_is_refused(measured):
    with pytest.raises(ValueError, match="no result file has results for 'other'"):
        report.rewrite(README.replace("norm", "other"), {"here": measured})


def test_summary_has_the_fastest_way_and_what_was_not_measured(measured):
    lines = report.rewrite(SUMMARY, {"here": measured, "other": measured}).splitlines()
    assert lines[3] == "| small, forward | 2.00 | not measured | 1.00 (2.00x [1.90, 2.10]) | grouped |"
    assert lines[-2:] == ["here.json: a chip, torch 2.13.0, date 2026-01-01", "<!-- /bench -->"]
    compiled = result("torch.compile", 1.5e-3, Ratio(1.33, 1.3, 1.4))
    with_compile = replace(measured, results=[*measured.results, compiled])
    assert "| 2.00 | 1.50 (1.33x [1.30, 1.40]) | 1.00 (" in report.rewrite(SUMMARY, {"here": with_compile})


def test_summary_of_an_absent_file_is_refused(measured):
    with pytest.raises(ValueError, match="no result file has results for 'here,absent'"):
        report.rewrite(SUMMARY.replace("here", "here,absent"), {"here": measured})


def test_compare_calls_overlap_no_difference(measured):
    faster = Report(measured.environment, [result(median=1e-3), result("fastgan grouped (cpu)", 1.05e-3)])
    text = report.compare(measured, faster)
    assert "2.000 ms  1.000 ms  2.00x" in text
    assert "1.000 ms  1.050 ms  no difference" in text
    assert "functional" not in text


def test_compare_of_unrelated_files_says_so(measured):
    assert "no measurement in common" in report.compare(measured, Report({}, [result(case="other")]))


def test_what_was_not_run_anywhere_is_said_without_the_cases(measured):
    measured.results += [result(case="large")]
    measured.not_run += [replace(measured.not_run[0], case="large")]
    assert report.to_markdown([measured], "norm").endswith("\n\nNot run: torch.compile: no compiler.")


# --- the picture ---


def drawn(report_, tmp_path):
    """The words of a picture, in the order in which they are drawn."""
    file = tmp_path / "new" / "picture.svg"
    plot.speed_ups(report_, file)
    return re.findall(r"<!-- (.*?) -->", file.read_text())


def test_the_plot_draws_no_gain_where_the_table_has_none(measured, tmp_path):
    pytest.importorskip("matplotlib")
    bars = plot.bars(measured)
    assert [(bar.length, bar.words) for bar in bars] == [(2.0, "2.00x"), (None, "no difference")]
    assert [str(r.ratio) for r in measured.results[1:]] == ["2.00x [1.90, 2.10]", "no difference"]
    words = drawn(measured, tmp_path)
    assert "2.00x" in words
    assert "no difference" in words
    assert "1.00x" not in words


@pytest.mark.parametrize(("low", "high"), [(0.9, 1.0), (1.0, 1.2), (0.5, 3.0)])
def test_a_bar_needs_an_interval_without_1(measured, low, high):
    measured.results[1] = result("fastgan grouped (cpu)", ratio=Ratio(1.5, low, high))
    assert plot.bars(measured)[0].length is None


def test_a_slowdown_is_drawn(measured):
    measured.results[1] = result("fastgan grouped (cpu)", ratio=Ratio(0.8, 0.7, 0.9))
    assert plot.bars(measured)[0][:2] == (0.8, "0.80x")
