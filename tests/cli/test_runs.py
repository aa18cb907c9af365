"""The commands about finished runs, from their words to what they print."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from finished import edit, finished

from crossmodal_bench.cli.main import main
from crossmodal_bench.jobs.record import Record, read_records

Make = Callable[..., Record]


def test_compare_prints_differences_and_json(
    make_record: Make, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(make_record, 0.3)
    other = finished(make_record, 0.1, method="cca")
    words = ["mine/acmr", str(other.directory), "--runs", str(runs)]
    assert main(["compare", *words]) == 0
    assert "first minus second, paired" in capsys.readouterr().out
    assert main(["compare", *words, "--json", "--examples", "1"]) == 0
    (comparison,) = json.loads(capsys.readouterr().out)
    assert comparison["protocol"] == "mine-test@1" and comparison["seeds"] == [[0], [0]]
    assert all(len(side["examples"]) <= 1 for side in comparison["sides"])


def test_submit_makes_a_folder_that_report_sets_beside_ones_own(
    make_record: Make, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    finished(make_record)
    assert main(["submit", "mine/acmr", "--runs", str(runs), "--to", str(results)]) == 0
    said = capsys.readouterr().out
    assert "mine-test@1, seed 0, split UNVERIFIED" in said and "Next: git add" in said
    assert len(read_records(results)) == 1
    report = ["report", "--runs", str(runs), "--format", "markdown", "--reference"]
    assert main([*report, str(results)]) == 0
    page = (runs / "report" / "leaderboard.md").read_text()
    assert "acmr \\[reference\\]" in page or "acmr [reference]" in page
    assert main([*report, "off"]) == 0
    assert "reference" not in (runs / "report" / "leaderboard.md").read_text()


def test_submit_refuses_numbers_that_the_ranks_do_not_give(
    make_record: Make, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(finished(make_record), '"rsum": ', '"rsum": 1')
    assert main(["submit", "mine/acmr", "--runs", str(runs), "--to", str(tmp_path / "to")]) == 2
    assert "gives rsum" in capsys.readouterr().err and not (tmp_path / "to").exists()
