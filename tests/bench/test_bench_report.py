"""Result files and the tables made of them."""

import json
from dataclasses import replace

import pytest

from fastgan.bench import report, results
from fastgan.bench.results import NotRun, Report, Result
from fastgan.bench.timing import Ratio, Spread

README = "# Title\n<!-- bench:norm -->\nold\n<!-- /bench -->\nend\n"


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


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1, "environment": {}, "results": [{"op": 1}], "not_run": []}']
)
def test_malformed_file_is_refused_by_name(text, tmp_path):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.json is not a fastgan result file"):
        results.read(path)


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
    text = report.rewrite(README, [measured])
    assert text.startswith("# Title\n<!-- bench:norm -->\na chip")
    assert text.endswith(": no compiler.\n<!-- /bench -->\nend\n")
    assert "old" not in text
    assert report.rewrite(text, [measured]) == text


def test_readme_without_markers_is_refused(measured):
    with pytest.raises(ValueError, match="found no '<!-- bench:OP -->'"):
        report.rewrite("# Title\n", [measured])


def test_readme_table_without_results_is_refused(measured):
    with pytest.raises(ValueError, match="no result file has results for 'other'"):
        report.rewrite(README.replace("norm", "other"), [measured])


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
