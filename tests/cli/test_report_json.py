"""`report --json`."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from crossmodal_bench.cli.main import main
from crossmodal_bench.jobs.record import Record

Maker = Callable[..., Record]


def test_every_digit_is_printed_and_what_is_not_known_is_null(
    make_record: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    value = 0.1 + 0.2
    record = make_record(metrics={"mAP": value, "i2t/mAP": 0.5, "t2i/mAP": 1e-17}, intervals={}, curves={})
    assert main(["report", "--runs", str(record.directory.parents[2]), "--reference", "off", "--json"]) == 0
    text = capsys.readouterr().out
    assert "NaN" not in text and "null" in text
    numbers = {line["metric"]: line["mean"] for line in json.loads(text)}
    assert numbers["mAP"] == value and numbers["t2i/mAP"] == 1e-17


@pytest.mark.parametrize("words", [["--format", "csv"], ["--queries", "all"]])
def test_words_of_files_are_refused(
    make_record: Maker, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    record = make_record()
    assert main(["report", "--runs", str(record.directory.parents[2]), "--json", *words]) == 2
    assert f"{words[0]} has no effect with --json" in capsys.readouterr().err
