"""The report and the workspace, by their specifications."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from answered import Answered
from conftest import RECALL

from crossmodal_bench.cli.main import main
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.rows.leaderboard import leaderboard
from crossmodal_bench.reporting.wandb.contents import summary
from crossmodal_bench.reporting.wandb.dashboard import _check_installed

# An extra, which needs a newer wandb than the package does.
pytest.importorskip("wandb_workspaces")
Maker = Callable[..., Record]
pytestmark = pytest.mark.usefixtures("no_account")


@pytest.fixture
def board(answered: Answered, make_record: Maker) -> Path:
    """Three methods of three seeds under one protocol, an adversary beside its twin, and another data set."""
    shares = {"timam": 0.3, "timam_no_adversary": 0.2, "vse": 0.21}
    for method, share in shares.items():
        for seed in range(3):
            ablation = "timam_no_adversary" if method == "timam" else None
            answered(
                share + 0.01 * seed,
                own=0.3,
                method=method,
                seed=seed,
                ablation=ablation,
                id=f"{method}{seed}",
            )
    return make_record(id="a" * 16).directory.parents[2]


def filters_of(runset: dict[str, Any]) -> set[str]:
    """Every text in a run set's filters."""
    texts: set[str] = set()

    def look(value: Any) -> None:
        if isinstance(value, dict):
            for below in value.values():
                look(below)
        elif isinstance(value, list):
            for below in value:
                look(below)
        elif isinstance(value, str):
            texts.add(value)

    look(runset["filters"])
    return texts


def test_the_specification_names_every_method_protocol_and_filter(board: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.json"
    assert main(["wandb-report", "--runs", str(board), "--entity", "team", "--out", str(path)]) == 0
    content = json.loads(path.read_text())
    report, workspace = content["report"], content["workspace"]
    assert (report["project"]["name"], report["project"]["entityName"]) == ("crossmodal-bench", "team")
    text = json.dumps(report, ensure_ascii=False)
    for name in ("timam", "timam\\_no\\_adversary", "vse", "acmr"):
        # Underscores are escaped for Markdown, and the backslash is for JSON.
        assert f" {name} " in text.replace("\\\\", "\\"), name
    for phrase in ("flickr8k-1k@1", "wikipedia-2173-map@1", "± is the longer side", "not told apart"):
        assert phrase in text and phrase in json.dumps(workspace, ensure_ascii=False)
    grids = [block for block in report["spec"]["blocks"] if block["type"] == "panel-grid"]
    runsets = [runset for grid in grids for runset in grid["metadata"]["runSets"]]
    assert {"flickr8k", "flickr8k-1k", "small"} <= filters_of(runsets[0])
    assert any({"timam", "timam_no_adversary"} <= filters_of(runset) for runset in runsets)
    assert any({"wikipedia", "wikipedia-2173-map"} <= filters_of(runset) for runset in runsets)
    panels = [panel for grid in grids for panel in grid["metadata"]["panelBankSectionConfig"]["panels"]]
    assert {"Bar Chart", "Run History Line Plot", "Scatter Plot", "Media Browser", "Weave"} <= {
        panel["viewType"] for panel in panels
    }
    # Nothing names a project: whoever owns an account sees the runs of the report's own.
    assert not any(runset.get("project") for runset in runsets)
    (runset,) = workspace["spec"]["section"]["runSets"]
    assert {"flickr8k", "wikipedia", "flickr8k-1k", "wikipedia-2173-map", "small"} <= filters_of(runset)
    sections = workspace["spec"]["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections][:2] == ["Leaderboards", "What each adversary adds"]


def test_without_an_account_it_is_not_saved(board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wandb-report", "--runs", str(board)]) == 2
    assert "wandb login" in capsys.readouterr().err


@pytest.fixture
def saved() -> list[tuple[str, str]]:
    """Kind and identity of what has been saved."""
    return []


@pytest.fixture
def server(no_account: None, saved: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever owns an account, whose server takes reports and workspaces."""
    import wandb_workspaces.reports.v2.interface as reports
    import wandb_workspaces.workspaces.interface as workspaces

    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)

    def save_report(self: Any) -> None:
        runsets = [
            runset
            for block in self._to_model().spec.blocks
            if block.type == "panel-grid"
            for runset in block.metadata.run_sets
        ]
        assert runsets and all(runset.project is not None for runset in runsets)
        saved.append(("report", self.id))
        self.id = self.id or "r1"

    def save_workspace(self: Any) -> None:
        saved.append(("workspace", self._internal_id))
        self._internal_id, self._internal_name = "w1", "nw-abc-v"

    # The one accessor of the library that needs an account.
    monkeypatch.setattr(reports, "execute_graphql", lambda *_: {"project": {"internalId": "p1"}})
    monkeypatch.setattr(reports, "_get_api", lambda: None)
    monkeypatch.setattr(reports, "get_app_url", lambda api: "https://wandb.example")
    monkeypatch.setattr(workspaces, "get_app_url", lambda api: "https://wandb.example")
    monkeypatch.setattr(workspaces.wandb, "Api", lambda: None)
    monkeypatch.setattr(reports.Report, "save", save_report)
    monkeypatch.setattr(workspaces.Workspace, "save", save_workspace)


@pytest.mark.usefixtures("server")
def test_saving_again_brings_the_same_report_up_to_date(
    board: Path, saved: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["wandb-report", "--runs", str(board), "--entity", "team"]
    assert main(words) == 0 and main(words) == 0
    assert saved == [("report", ""), ("workspace", ""), ("report", "r1"), ("workspace", "w1")]
    assert "https://wandb.example/team/crossmodal-bench/reports/" in capsys.readouterr().out


def test_a_title_that_cannot_be_one_is_refused(
    board: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["wandb-report", "--runs", str(board), "--title", "★", "--out", str(tmp_path / "r")]
    assert main(words) == 2
    assert "--title '★' is not accepted" in capsys.readouterr().err and not (tmp_path / "r").exists()


def names_in(value: Any) -> set[str]:
    """The names of all that is looked up in summaries."""
    if isinstance(value, dict):
        names = set().union(*map(names_in, value.values()))
        for name in ("metrics", "xAxis", "yAxis"):
            entries = value.get(name)
            listed = entries if isinstance(entries, list) else [entries]
            names |= {entry for entry in listed if isinstance(entry, str)}
        return names
    return set().union(*map(names_in, value)) if isinstance(value, list) else set()


def test_all_that_the_specification_looks_up_is_in_the_runs(
    make_recall_record: Maker, tmp_path: Path
) -> None:
    intervals = {name: [value - 1, value + 1] for name, value in RECALL.items()}
    numbers = {"protocol_version": 1, "metrics": RECALL, "curves": {}, "intervals": intervals}
    also = {"flickr8k-1k-equal": numbers}
    # Two runs of one leaderboard, of which one is named by another protocol.
    record = make_recall_record(also=also, id="a" * 16)
    other = make_recall_record(by=1.0, protocol="flickr8k-1k-equal", method="vse", id="b" * 16)
    runs = record.directory.parents[2]
    path = tmp_path / "report.json"
    assert main(["wandb-report", "--runs", str(runs), "--out", str(path)]) == 0
    content = json.loads(path.read_text())
    held = set(summary(record, leaderboard([record]))) | set(summary(other, leaderboard([other])))
    columns = set(re.findall('"summary:([^"]*)"', path.read_text()))
    costs = {f"cost/{name}" for name in ("train_seconds", "parameters", "peak_memory_mb")}
    assert "flickr8k-1k-equal/intervals/rsum/low" in columns and columns - costs <= held
    shown = {re.sub(r"^summary(_metrics\.|:)", "", name) for name in names_in(content) if "rsum" in name}
    assert {"rsum", "flickr8k-1k-equal/rsum"} <= shown <= held


def test_panels_are_of_what_the_runs_have(make_record: Maker, tmp_path: Path) -> None:
    record = make_record()
    path = tmp_path / "report.json"
    assert main(["wandb-report", "--runs", str(record.directory.parents[2]), "--out", str(path)]) == 0
    text = path.read_text()
    # By label, no single positive is ranked; and nobody has written a caption.
    assert "Single queries" not in text and "written_captions" not in text
    assert '"finished"' in text


@pytest.mark.usefixtures("server")
def test_what_is_saved_is_remembered_for_each_project(
    board: Path,
    saved: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import wandb_workspaces.workspaces.interface as workspaces

    words = ["wandb-report", "--runs", str(board), "--entity"]
    save = workspaces.Workspace.save

    def refuse(self: Any) -> None:
        raise RuntimeError("no such view")

    monkeypatch.setattr(workspaces.Workspace, "save", refuse)
    assert main([*words, "team"]) == 2
    assert "wandb_dashboard.json" in capsys.readouterr().err
    monkeypatch.setattr(workspaces.Workspace, "save", save)
    assert main([*words, "team"]) == 0 and main([*words, "others"]) == 0 and main([*words, "team"]) == 0
    reports = [identity for kind, identity in saved if kind == "report"]
    assert reports == ["", "r1", "", "r1"]
    kept = board / "report" / "wandb_dashboard.json"
    kept.unlink()
    kept.mkdir()
    assert main([*words, "team"]) == 2
    assert "second dashboard" in capsys.readouterr().err


def test_without_the_library_a_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"crossmodal-bench\[wandb\]"):
        _check_installed()
