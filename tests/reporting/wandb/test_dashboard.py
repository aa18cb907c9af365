"""The report and the workspace, by their specifications."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from answered import Answered

from crossmodal_bench.cli.main import main
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.wandb.dashboard import _check_installed

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
        assert f" {name} " in json.loads(json.dumps(text)).replace("\\\\", "\\"), name
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


def test_saving_again_brings_the_same_report_up_to_date(
    board: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb_workspaces.reports.v2.interface as reports
    import wandb_workspaces.workspaces.interface as workspaces

    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    saved: list[tuple[str, str, int]] = []

    def save_report(self: Any) -> None:
        model = self._to_model()
        named = sum(
            runset.project is not None
            for block in model.spec.blocks
            if block.type == "panel-grid"
            for runset in block.metadata.run_sets
        )
        saved.append(("report", self.id, named))
        self.id = "r1"

    def save_workspace(self: Any) -> None:
        saved.append(("workspace", self._internal_id, 0))
        self._internal_id, self._internal_name = "w1", "nw-abc-v"

    # The one accessor of the library that needs an account.
    monkeypatch.setattr(reports, "execute_graphql", lambda *_: {"project": {"internalId": "p1"}})
    monkeypatch.setattr(reports, "_get_api", lambda: None)
    monkeypatch.setattr(reports, "get_app_url", lambda api: "https://wandb.example")
    monkeypatch.setattr(workspaces, "get_app_url", lambda api: "https://wandb.example")
    monkeypatch.setattr(workspaces.wandb, "Api", lambda: None)
    monkeypatch.setattr(reports.Report, "save", save_report)
    monkeypatch.setattr(workspaces.Workspace, "save", save_workspace)
    words = ["wandb-report", "--runs", str(board), "--entity", "team"]
    assert main(words) == 0 and main(words) == 0
    assert [(kind, identity) for kind, identity, _ in saved] == [
        ("report", ""),
        ("workspace", ""),
        ("report", "r1"),
        ("workspace", "w1"),
    ]
    assert saved[0][2] > 0
    assert "https://wandb.example/team/crossmodal-bench/reports/" in capsys.readouterr().out


def test_a_title_that_cannot_be_one_is_refused(board: Path, tmp_path: Path) -> None:
    assert main(["wandb-report", "--runs", str(board), "--title", "★", "--out", str(tmp_path / "r")]) == 2


def test_without_the_library_a_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"crossmodal-bench\[wandb\]"):
        _check_installed()
