from __future__ import annotations

import json
import struct
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from finished import finished
from offline_runs import read_run

from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.rows.leaderboard import leaderboard
from crossmodal_bench.reporting.wandb import run as runs_in_wandb
from crossmodal_bench.reporting.wandb.mode import MEDIA, allow_media

Maker = Callable[..., Record]
pytestmark = pytest.mark.usefixtures("no_account")


def _log_entries(path: Path) -> Iterator[Any]:
    """The entries of a .wandb file: LevelDB's log format (blocks of 32 KiB) around protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record as Entry

    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        # Kinds 1 and 4: a whole entry, the last part of one.
        if kind in (1, 4):
            entry = Entry()
            entry.ParseFromString(parts)
            parts = b""
            yield entry


def test_a_job_becomes_one_finished_offline_run_without_a_word(
    make_record: Maker, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    also = {
        "other-protocol": {"protocol_version": 1, "metrics": {"rsum": 100.0}, "intervals": {}, "curves": {}}
    }
    record = make_record(
        id="0123456789abcdef", suite="figure6", overrides={"model.init_args.k": 5}, also=also
    )
    for _ in ("first", "again"):
        assert runs_in_wandb.log_record(record, tmp_path / "job", "offline") is None
    assert capfd.readouterr() == ("", "")
    assert not [thread for thread in threading.enumerate() if "wandb" in thread.name.lower()]
    (log,) = (tmp_path / "job" / "wandb").glob("offline-run-*/run-0123456789abcdef.wandb")
    entries = list(_log_entries(log))

    (run,) = [entry.run for entry in entries if entry.WhichOneof("record_type") == "run"][:1]
    assert (run.run_id, run.project, run.display_name) == ("0123456789abcdef", "crossmodal-bench", "acmr-0")
    assert run.run_group == "wikipedia/wikipedia-2173-map"
    assert set(run.tags) == {"small", "figure6"}
    assert not run.HasField("git") or not run.git.remote_url
    read = read_run(log.parent)
    assert read.config["job"]["overrides"] == {"model.init_args.k": 5}
    assert read.config["data"]["fingerprint"] == "d" * 64
    assert read.config["environment"]["device"] == "cpu"

    # Tables and pictures have a step of their own, as those of a job that was followed.
    assert not any("train/loss_embedding" in step and "leaderboard" in str(step) for step in read.history)
    losses = {
        step["epoch"]: step["train/loss_embedding"] for step in read.history if "train/loss_embedding" in step
    }
    assert losses == {epoch: pytest.approx(1 / (1 + epoch)) for epoch in range(4)}

    summary = read.summary
    assert summary["mAP"] == 0.45
    assert summary["other-protocol/rsum"] == 100.0
    assert summary["intervals/mAP/high"] == pytest.approx(0.49)
    assert summary["cost/train_seconds"] == 12.5
    assert read.exit_code == 0

    (table,) = log.parent.glob("files/media/table/leaderboard*.json")
    board = json.loads(table.read_text())
    rows = [dict(zip(board["columns"], row, strict=True)) for row in board["data"]]
    assert [(row["protocol"], row["mAP"], row["rsum"]) for row in rows] == [
        ("other-protocol", None, 100.0),
        ("wikipedia-2173-map", 0.45, None),
    ]
    assert list(log.parent.glob("files/media/images/figures/precision_scope*.png"))
    assert not list(log.parent.glob("files/code/*"))


def test_nothing_of_this_machine_is_in_a_run(
    make_record: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "somebodys-machine")
    monkeypatch.setenv("HOME", "/somebodys/home")
    record = make_record(
        overrides={"data.images.weights": f"{tmp_path}/weights/own.pt", "model.init_args.k": 5},
        environment={"device": "cpu", "commit": "c0ffee", "python": "/somebodys/home/env/bin/python"},
        taken_up=[f"its parent was '{tmp_path}/runs/a b/record.json'"],
    )
    record.files.config.write_text(
        f"data: {{root: {tmp_path}/data, cache: {record.directory.parents[2]}/cache}}\n"
        "model: {init_args: {weights: ~/weights.pt, ratio: 1/2, samples/s: 3}}\n"
    )
    assert runs_in_wandb.log_record(record, record.directory, "offline") is None
    (folder,) = record.files.offline_wandb_runs()
    (log,) = folder.glob("run-*.wandb")
    entries = [(entry.WhichOneof("record_type"), str(entry)) for entry in _log_entries(log)]
    # Tables name the copy of themselves that is uploaded; the name stays here.
    entries = [(kind, text) for kind, text in entries if kind not in ("artifact", "use_artifact")]
    assert {"run", "config", "summary"} <= {kind for kind, _ in entries}
    for name in ("somebodys", str(tmp_path), sys.prefix):
        assert not [kind for kind, text in entries if name in text], name
    assert not [path for path in folder.glob("files/*") if path.suffix in (".json", ".txt")]
    config = read_run(folder).config
    assert config["settings"]["data"] == {"root": "data", "cache": "runs/cache"}
    assert config["settings"]["model"]["init_args"] == {
        "weights": "weights.pt",
        "ratio": "1/2",
        "samples/s": 3,
    }
    assert config["job"]["overrides"] == {"data.images.weights": "own.pt", "model.init_args.k": 5}
    assert "--set data.images.weights=own.pt" in config["command"]


def test_an_ensemble_is_a_run_of_its_own_name_with_its_members(make_record: Maker, tmp_path: Path) -> None:
    members = [
        {
            "id": f"{seed}",
            "method": "acmr",
            "seed": seed,
            "overrides": {},
            "directory": "d",
            "finished_at": "t",
        }
        for seed in (0, 1)
    ]
    label = f"ensemble of {'acmr (a=1), ' * 8}acmr"
    record = make_record(id="e" * 16, label=label, history=[], ensemble=members)
    assert runs_in_wandb.log_record(record, tmp_path / "job", "offline") is None
    (log,) = (tmp_path / "job" / "wandb").glob("offline-run-*/run-eeeeeeeeeeeeeeee.wandb")
    (run,) = [one.run for one in _log_entries(log) if one.WhichOneof("record_type") == "run"][:1]
    assert run.display_name == "acmr-ensemble-0"
    assert set(run.tags) == {"small", label[:64]}
    assert read_run(log.parent).config["ensemble"] == members


def test_off_writes_nothing(make_record: Maker, tmp_path: Path) -> None:
    assert runs_in_wandb.log_record(make_record(), tmp_path / "job", "off") is None
    assert not (tmp_path / "job").exists()


def test_what_goes_wrong_is_a_warning_and_the_run_is_marked_failed(
    make_record: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int | None] = []

    class Run:
        def __init__(self) -> None:
            self.summary: dict[str, float] = {}
            self.config = types.SimpleNamespace(update=lambda *_, **__: None)

        def log(self, entry: dict[str, Any], *, step: int, commit: bool) -> None:
            raise RuntimeError("first line\nthe server is on fire")

        def finish(self, exit_code: int | None = None) -> None:
            ended.append(exit_code)

    fake = types.ModuleType("wandb")
    vars(fake).update(init=lambda **_: Run(), Settings=lambda **_: None, teardown=lambda: ended.append(None))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    record = make_record()
    warning = runs_in_wandb.log_record(record, tmp_path / "job", "online")
    assert warning is not None and "\n" not in warning
    assert "RuntimeError: the server is on fire" in warning
    assert str(record.directory) in warning
    assert ended == [1, None]


def test_what_a_run_is_known_by_is_sent_when_all_else_is_there(make_record: Maker) -> None:
    sent: list[dict[str, Any]] = []

    class Run:
        summary = types.SimpleNamespace(update=sent.append)
        config = types.SimpleNamespace(update=lambda entries, **_: sent.append(entries))

        def log(self, entry: dict[str, Any], **_: Any) -> None:
            sent.append(entry)

    record = make_record()
    run: Any = Run()
    runs_in_wandb.complete(run, record)
    assert [position for position, entry in enumerate(sent) if "finished_at" in entry] == [len(sent) - 1]
    assert sent[-1] == {"finished_at": record.finished_at} and "leaderboard" in sent[-2]


def test_a_broken_installation_is_a_warning(
    make_record: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    warning = runs_in_wandb.log_record(make_record(), tmp_path, "offline")
    assert warning is not None and "wandb" in warning


def test_what_a_licence_does_not_let_everybody_see_stays_here(
    make_record: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    from crossmodal_bench.reporting.wandb import contents

    sentences = types.SimpleNamespace(
        caption_ids=[f"caption {row}" for row in range(200)], captions=["two dogs"] * 200
    )
    monkeypatch.setattr(contents, "_gallery", lambda record: sentences)

    def shown(dataset: str) -> tuple[bool, set[str], bool]:
        record = finished(make_record, dataset=dataset)
        for path in (record.files.retrieved_captions, record.files.words_panel):
            Image.new("RGB", (4, 4)).save(path)
        held, said = contents.media(record, leaderboard([record]))
        panels = {name for name in held if name.startswith("panels/")}
        queries: Any = held["queries"]
        return "text" in queries.columns, panels, "data_left_out" in said

    everything = {"panels/words", "panels/retrieved_captions"}
    assert shown("mine") == (False, {"panels/words"}, True)
    assert shown("synthetic-20") == (True, everything, False)
    allow_media(allowed=True)
    assert shown("mine") == (True, everything, False)
    allow_media(allowed=False)
    assert shown("mine") == (False, {"panels/words"}, True)


def test_a_run_holds_configuration_queries_and_pictures(
    make_record: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    monkeypatch.setattr("crossmodal_bench.reporting.wandb.contents.QUERIES", 50)
    monkeypatch.setenv(MEDIA, "1")
    record = finished(make_record, environment={"device": "cpu", "commit": "c0ffee"})
    for path in (record.files.retrieved_captions, record.files.pictures_panel):
        Image.new("RGB", (4, 4)).save(path)
    record.files.written_captions.write_text(json.dumps({"image 0": "a dog", "image 1": "a cat"}))
    # What is no file of the job's own is not shown to anybody.
    Image.new("RGB", (4, 4)).save(tmp_path / "private.png")
    record.files.words_panel.symlink_to(tmp_path / "private.png")
    assert runs_in_wandb.log_record(record, record.directory, "offline") is None
    (log,) = record.files.offline_wandb_runs()
    run = read_run(log)
    config = run.config
    assert (config["dataset"], config["protocol"], config["row"], config["seed"]) == (
        "mine",
        "mine-test",
        "acmr",
        0,
    )
    assert config["settings"]["data"]["batch_size"] == 8
    assert config["commit"] == "c0ffee"
    assert config["command"].startswith("crossmodal-bench bench --dataset mine --methods acmr")
    summary = run.summary
    assert summary["protocol_version"] == 1 and summary["protocol_label"] == "mine-test@1"
    assert "ties are broken at random" in summary["tie_rule"]
    assert summary["interval_rule"].startswith("95 % intervals of this one model on other images")
    assert summary["primary"] == record.metrics[summary["primary_metric"]]
    assert summary["queries_shown"] == "all 40 i2t queries; 50 of 200 t2i queries, evenly spaced"
    table = run.tables["queries"]
    assert table[0] | {"rank": 0, "score 1": 0} == {
        "direction": "i2t",
        "query": "image 0",
        "rank": 0,
        "expected rank": table[0]["rank"],
        "tied": 0,
        "top 1": "caption 0",
        **{f"top {place}": None for place in range(2, 6)},
        "score 1": 0,
        **{f"score {place}": None for place in range(2, 6)},
    }
    assert len(table) == 40 + 50 and table[-1]["query"] == "caption 199"
    assert run.tables["written_captions"][0] == {"image": "image 0", "caption": "a dog"}
    panels = sorted(name for name in run.pictures if name.startswith("panels/"))
    assert panels == ["panels/pictures", "panels/retrieved_captions"]
