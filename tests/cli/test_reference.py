"""The papers' rows from one command to the folder that is sent in, on small stand-ins for the data sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossmodal_bench.cli.main import main
from crossmodal_bench.jobs import experiments
from crossmodal_bench.jobs.record import read_records


def test_the_suite_has_each_adversary_beside_its_twin_on_both_data_sets() -> None:
    suite = experiments.suite("reference")
    assert list(suite.datasets) == ["flickr30k", "coco"] and suite.preset == "paper"
    for twin, method in (
        ("acmr_no_adversary", "acmr"),
        ("scan", "addr_scan"),
        ("bfan_prob", "addr_bfan"),
        ("vsrn", "addr_vsrn"),
        ("timam_no_adversary", "timam"),
        ("gxn_finetune", "gxn"),
    ):
        assert {twin, method} <= set(suite.methods)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give one of the two"),
        (["mine/acmr", "--suite", "reference"], "give one of the two"),
        (["--suite", "refrence"], "suite 'refrence' is unknown; did you mean 'reference'?"),
        (["--suite", "reference"], "has no finished job of the suite 'reference'; run it first"),
    ],
)
def test_what_is_to_be_sent_in_must_be_said(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    assert main(["submit", *words, "--runs", str(tmp_path / "runs"), "--to", str(tmp_path / "to")]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_the_papers_rows_go_from_a_bench_into_a_folder_that_is_accepted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, results = tmp_path / "runs", tmp_path / "results"
    bench = ["bench", "--methods", "reference", "--dataset", "synthetic-tiny", "--preset", "smoke"]
    options = ["--seeds", "1", "--set", "trainer.max_epochs=1", "--devices", "cpu", "--wandb", "off"]
    command = [*bench, *options, "--runs", str(runs), "--reference", "off"]
    assert main(command) == 0
    first = capsys.readouterr()
    assert "min" in first.out + first.err
    made = read_records(runs)
    methods = {record.job.method for record in made if record.job.suite == "reference"}
    assert set(experiments.suite("reference").methods) <= methods
    # Again, it has nothing left to do.
    assert main(command) == 0
    assert [record.finished_at for record in read_records(runs)] == [record.finished_at for record in made]
    assert main(["submit", "--suite", "reference", "--runs", str(runs), "--to", str(results)]) == 0
    assert "open a pull request" in capsys.readouterr().out
    assert {record.job.method for record in read_records(results)} == methods
