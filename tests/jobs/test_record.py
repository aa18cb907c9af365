from __future__ import annotations

import errno
import json
import math
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs import directory
from crossmodal_bench.jobs.record import (
    SCHEMA,
    Record,
    read_record,
    read_records,
    row_name,
    unreadable_records,
    write_record,
)


def test_a_record_is_read_as_it_was_written(
    tmp_path: Path, make_content: Callable[..., dict[str, Any]]
) -> None:
    record = make_content(overrides={"model.init_args.alpha": 0.1})
    path = write_record(tmp_path / "new" / "job", record)
    assert path == tmp_path / "new" / "job" / "record.json"
    read = read_record(path)
    assert read == read_record(path.parent)
    assert read.directory == path.parent
    assert read.job.overrides == {"model.init_args.alpha": 0.1}
    assert read.metrics == record["metrics"]
    assert read.intervals["mAP"] == pytest.approx((0.43, 0.49))
    assert read.selection.metric is None
    assert json.loads(path.read_text())["schema"] == SCHEMA
    assert [file.name for file in path.parent.iterdir()] == ["record.json"]


def test_each_protocol_has_a_version_of_its_own(
    tmp_path: Path, make_content: Callable[..., dict[str, Any]]
) -> None:
    numbers = {"metrics": {"mAP": 0.5}, "intervals": {}, "curves": {}}
    also = {"wikipedia-test": {**numbers, "protocol_version": 3, "resembles": "wikipedia-1300-map"}}
    record = read_record(write_record(tmp_path, make_content(also=also)))
    assert record.protocol_label == "wikipedia-2173-map@1" and record.resembles == ""
    main, other = record.by_protocol()
    assert main is record
    assert (other.protocol_label, other.resembles) == ("wikipedia-test@3", "wikipedia-1300-map")


def test_array_scalars_are_plain_and_non_finite_numbers_absent(
    tmp_path: Path, make_content: Callable[..., dict[str, Any]]
) -> None:
    metrics = {"mAP": np.float32(0.5), "i2t/mAP": torch.tensor(0.25), "t2i/mAP": math.nan}
    bounds = {"mAP": (np.float64(0.4), 0.6), "t2i/mAP": [math.nan, math.nan]}
    history = [{"epoch": 0, "train/loss_embedding": math.inf}]
    path = write_record(tmp_path, make_content(metrics=metrics, intervals=bounds, history=history))
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()
    read = read_record(path)
    assert read.metrics == {"mAP": 0.5, "i2t/mAP": 0.25}
    assert read.intervals == {"mAP": (0.4, 0.6)}
    assert read.history == [{"epoch": 0.0}]


def test_points_of_a_curve_that_are_not_finite_are_absent(
    tmp_path: Path, make_content: Callable[..., dict[str, Any]]
) -> None:
    curve = {"scope": [50, 100, 200], "precision": [0.5, math.nan, 0.3]}
    read = read_record(write_record(tmp_path, make_content(curves={"i2t/precision_scope": curve})))
    assert read.curves == {"i2t/precision_scope": {"scope": [50.0, 200.0], "precision": [0.5, 0.3]}}


def test_a_record_of_an_earlier_version_says_neither_encoders_nor_dropped_queries(
    tmp_path: Path, make_content: Callable[..., dict[str, Any]]
) -> None:
    content = make_content()
    del content["encoders"]
    read = read_record(write_record(tmp_path, content))
    assert (read.encoders, read.dropped) == ((), {})


def test_dropped_queries_are_those_of_each_protocol(
    tmp_path: Path, make_content: Callable[..., dict[str, Any]]
) -> None:
    numbers = {"protocol_version": 1, "metrics": {"mAP": 0.5}, "intervals": {}, "curves": {}}
    also = {"first": {**numbers, "dropped": {"i2t": 1, "t2i": 2}}, "second": numbers}
    content = make_content(dropped={"i2t": 20, "t2i": 0}, also=also)
    main, *others = read_record(write_record(tmp_path, content)).by_protocol()
    assert main.dropped == {"i2t": 20, "t2i": 0}
    assert [other.dropped for other in others] == [{"i2t": 1, "t2i": 2}, {}]


def test_a_record_cannot_be_changed(make_record: Callable[..., Record]) -> None:
    record = make_record()
    with pytest.raises(ValidationError, match="frozen"):
        record.evaluated_on = "val"


def test_hundreds_of_records_are_read_at_once(tmp_path: Path, make_record: Callable[..., Record]) -> None:
    history = [{"epoch": epoch, **{f"train/{i}": 0.5 for i in range(8)}} for epoch in range(30)]
    path = make_record(history=history).directory
    started = time.process_time()
    for _ in range(300):
        read_record(path)
    assert time.process_time() - started < 3


def test_a_failed_write_leaves_the_earlier_record_and_no_rubbish(
    tmp_path: Path, make_content: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = write_record(tmp_path, make_content(seed=1)).read_text()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match=r"record\.json cannot be written \(No space left.*free some space"):
        write_record(tmp_path, make_content(seed=2))
    assert [file.name for file in tmp_path.iterdir()] == ["record.json"]
    assert (tmp_path / "record.json").read_text() == before


def test_a_directory_that_cannot_be_made_is_bad_input(
    tmp_path: Path, make_content: Callable[..., dict[str, Any]]
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadInput, match="cannot be written"):
        write_record(tmp_path / "file" / "job", make_content())


def test_an_incomplete_record_is_not_written(
    tmp_path: Path, make_content: Callable[..., dict[str, Any]]
) -> None:
    record = make_content()
    del record["selection"]
    with pytest.raises(BadInput, match="'selection'"):
        write_record(tmp_path, record)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[: len(text) // 2], "not complete JSON"),
        (lambda text: "", "not complete JSON"),
        (lambda text: "[1]", "not a JSON object"),
        (lambda text: text.replace('"seed": 0', '"seed": "0"'), "'job.seed'"),
        (lambda text: text.replace('"mAP": 0.45', '"mAP": "high"'), "'metrics.mAP'"),
        (
            lambda text: text.replace('"rule": "last', '"rules": "last'),
            "'selection.rules' is unknown; did you mean 'rule'",
        ),
        (lambda text: text.replace('"evaluated_on"', '"evaluatedon"'), "did you mean 'evaluated_on'"),
        (lambda text: text.replace('"schema": 2', '"schema": 2, "content": {}'), "'content' is unknown"),
        (lambda text: text.replace('"seed": 0', '"seed": true'), "'job.seed' is True"),
        (
            lambda text: text.replace('"seed": 0', f'"seed": {2**63}'),
            f"'job.seed' is {2**63}; it must be less",
        ),
        (
            lambda text: text.replace('"acmr"', '"../acmr"'),
            "'job.method' is '../acmr', which cannot name a folder",
        ),
        (lambda text: text.replace('"acmr"', '"acm?"'), "'job.method' is 'acm?', which cannot name a folder"),
        (lambda text: text.replace('"mAP": 0.45', '"mAP": true'), "'metrics.mAP' is True"),
        (lambda text: text.replace('"scope"', '"scopes"', 1), "'curves.i2t/precision_scope' lacks 'scope'"),
        (lambda text: text.replace("   50,\n", "", 1), "has lists of different lengths"),
    ],
)
def test_damage_names_the_file_the_fault_and_the_fix(
    tmp_path: Path, make_content: Callable[..., dict[str, Any]], damage: Callable[[str], str], said: str
) -> None:
    path = write_record(tmp_path, make_content())
    path.write_text(damage(path.read_text()))
    with pytest.raises(BadInput) as caught:
        read_record(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    assert "delete it and run the bench again" in str(caught.value)


def test_another_schema_is_refused(tmp_path: Path, make_content: Callable[..., dict[str, Any]]) -> None:
    path = write_record(tmp_path, make_content())
    path.write_text(path.read_text().replace(f'"schema": {SCHEMA}', f'"schema": {SCHEMA + 1}'))
    with pytest.raises(BadInput, match=f"schema {SCHEMA + 1}, but .* reads schema {SCHEMA}"):
        read_record(path)


def test_only_finished_jobs_are_found_in_order(runs: Path, make_record: Callable[..., Record]) -> None:
    made = [make_record(method=method, seed=seed) for method in ("cca", "acmr") for seed in (0, 1)]
    (runs / "wikipedia" / "acmr" / "unfinished").mkdir()
    (runs / "report").mkdir()
    (runs / "report" / "leaderboard.md").write_text("#")
    found = read_records(runs)
    assert [record.directory for record in found] == sorted(record.directory for record in made)
    assert read_records(runs / "nowhere") == []


def test_numbers_under_other_protocols_are_copies_of_the_record(make_record: Callable[..., Record]) -> None:
    also = {
        "coco-1k-5fold": {
            "protocol_version": 1,
            "metrics": {"rsum": 400.0},
            "intervals": {"rsum": [390.0, 410.0]},
            "curves": {},
        }
    }
    record = make_record(dataset="coco", protocol="coco-5k", metrics={"rsum": 300.0}, intervals={}, also=also)
    main, other = record.by_protocol()
    assert main is record and main.is_main and not other.is_main
    assert (other.job.protocol, other.metrics, other.intervals) == (
        "coco-1k-5fold",
        {"rsum": 400.0},
        {"rsum": (390.0, 410.0)},
    )
    assert other.job.id == record.job.id


MEMBER = {
    "id": "a" * 16,
    "method": "acmr",
    "seed": 0,
    "overrides": {},
    "directory": "wikipedia/acmr/a",
    "finished_at": "2026-01-01T00:00:00+00:00",
}


def test_an_ensemble_names_its_members(tmp_path: Path, make_content: Callable[..., dict[str, Any]]) -> None:
    single = read_record(write_record(tmp_path / "single", make_content()))
    assert single.ensemble == ()
    content = make_content(ensemble=[MEMBER, {**MEMBER, "id": "b" * 16, "seed": 1}])
    summed = read_record(write_record(tmp_path / "summed", content))
    assert [(one.id[0], one.method, one.seed) for one in summed.ensemble] == [
        ("a", "acmr", 0),
        ("b", "acmr", 1),
    ]
    for damaged, said in (
        ([MEMBER, 3], r"'ensemble\[1\]' is 3; it must be keys and values"),
        ([MEMBER, {**MEMBER, "seed": "1"}], r"'ensemble\[1\]\.seed' .* is '1'; it must be a whole number"),
        (MEMBER, "'ensemble' is .*; it must be a list"),
    ):
        with pytest.raises(BadInput, match=said):
            write_record(tmp_path / "damaged", make_content(ensemble=damaged))


def test_a_record_names_the_runs_that_it_started_from(
    tmp_path: Path, make_content: Callable[..., dict[str, Any]]
) -> None:
    old = read_record(write_record(tmp_path / "old", make_content()))
    assert old.parents == {} and "parents" not in old.content
    assert old.run == {"job": old.job.id, "finished_at": old.finished_at}
    content = make_content(seed=1, parents={"scan": old.run})
    assert read_record(write_record(tmp_path / "child", content)).parents == {"scan": old.run}
    for damaged, said in (
        ({"scan": {"job": "0"}}, r"'parents\.scan\.finished_at' is missing"),
        ({"scan": "0"}, r"'parents\.scan' is '0'; it must be keys and values"),
        (["scan"], r"'parents' is \['scan'\]; it must be keys and values"),
    ):
        with pytest.raises(BadInput, match=said):
            write_record(tmp_path / "damaged", make_content(parents=damaged))


def test_names_show_what_tells_rows_apart() -> None:
    assert row_name("acmr", "", {}) == "acmr"
    assert row_name("acmr", "wide", {"a.b": 1}) == "acmr (wide)"
    assert row_name("acmr", "", {"a.b": 1, "c": "x"}) == "acmr (b=1, c=x)"


def test_one_damaged_record_does_not_withhold_the_others(
    runs: Path, make_record: Callable[..., Record], capsys: pytest.CaptureFixture[str]
) -> None:
    whole, damaged, piped, elsewhere = (make_record(seed=seed) for seed in range(4))
    damaged.files.record.write_text(damaged.files.record.read_text()[:100])
    piped.files.record.unlink()
    os.mkfifo(piped.files.record)
    outside = runs.parent / "private.json"
    elsewhere.files.record.rename(outside)
    elsewhere.files.record.symlink_to(outside)
    assert [record.directory for record in read_records(runs)] == [whole.directory]
    said = capsys.readouterr().err
    for record, reason in (
        (damaged, "is damaged"),
        (piped, "not a regular file"),
        (elsewhere, "it is a link out of RUNS"),
    ):
        assert re.search(rf"warning: {record.files.record} .*{reason}.*delete it", said)
    sentences = unreadable_records(runs, [whole.directory])
    assert len(sentences) == 3 and all(sentence in said for sentence in sentences)
    whole.files.record.write_text("{")
    with pytest.raises(BadInput, match=r"damaged|plain file|out of RUNS"):
        read_records(runs)


def test_a_record_without_end_is_refused(
    runs: Path, make_record: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make_record()
    monkeypatch.setattr(directory.read_own, "__defaults__", (1000,))
    with pytest.raises(BadInput, match=r"record\.json cannot be read \(it is larger than"):
        read_record(record.directory)
    record.files.record.unlink()
    record.files.record.symlink_to("/dev/zero")
    with pytest.raises(BadInput, match="link out of RUNS"):
        read_record(record.directory)


def test_links_inside_of_a_folder_of_runs_are_followed(
    runs: Path, make_record: Callable[..., Record]
) -> None:
    record = make_record()
    kept = runs / "kept.json"
    record.files.record.rename(kept)
    record.files.record.symlink_to(kept)
    moved = runs.parent / "another disk"
    record.directory.rename(moved)
    record.directory.symlink_to(moved)
    assert [found.directory for found in read_records(runs)] == [record.directory]
