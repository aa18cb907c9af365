from __future__ import annotations

import json
from pathlib import Path

import pytest

from crossmodal_bench.cli.listing import KINDS, PRESETS
from crossmodal_bench.cli.main import main
from crossmodal_bench.evaluation.protocols.protocol import PROTOCOLS
from crossmodal_bench.jobs import experiments


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_listed_with_a_line_each(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"protocols": list(PROTOCOLS), "presets": [*experiments.PRESETS, "auto"]}.get(kind)
    known = known or experiments.names(kind)
    words = ["list", kind, "--data-root", str(tmp_path)]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[0] for line in lines) == sorted(known)
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines)
    assert main([*words, "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in entries] == [line.split()[0] for line in lines]
    assert all(entry["about"].strip() for entry in entries)


def test_a_list_says_what_is_there_and_whose_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "flickr8k").mkdir()
    assert main(["list", "datasets", "--json", "--data-root", str(tmp_path)]) == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert {name for name, entry in entries.items() if entry["there"]} == {"synthetic", "flickr8k"}
    assert "prepare coco tells what is missing" in entries["coco"]["about"]
    assert all(entry["licence"] for entry in entries.values())
    assert "non-commercial" in experiments.licence_of("flickr30k")
    assert experiments.licence_of("synthetic-20") == experiments.licence_of("synthetic")
    assert experiments.licence_of("my_shop").startswith("not known; ask")


def test_an_unknown_kind_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "Methods"]) == 2
    assert "did you mean 'methods'?" in capsys.readouterr().err


def test_the_presets_are_those_of_the_bench() -> None:
    assert set(PRESETS) == {*experiments.PRESETS, "auto"}


def test_status_and_report_are_printed_for_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = ["--runs", str(tmp_path / "runs")]
    assert main(["status", *runs, "--dataset", "synthetic-20", "--methods", "cca,vse", "--json"]) == 0
    jobs = json.loads(capsys.readouterr().out)
    assert {job["method"] for job in jobs} == {"cca", "vse"}
    assert {job["state"] for job in jobs} == {"not started"} and all(job["directory"] for job in jobs)


def test_a_report_for_programs_has_every_number_and_writes_nothing(
    make_record, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # type: ignore[no-untyped-def]
    record = make_record()
    assert main(["report", "--runs", str(runs), "--reference", "off", "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)
    found = {line["metric"]: line["mean"] for line in lines if line["method"] == record.job.method}
    assert found.items() >= record.metrics.items()
    assert not (runs / "report").exists()
