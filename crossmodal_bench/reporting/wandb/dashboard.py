"""`crossmodal-bench wandb-report`: a W&B report and a workspace, created from the records.

Numbers over several seeds, their intervals and ties come from the records, as text: W&B averages runs
without knowing their queries. Curves, costs and pictures are panels over the runs themselves, which can be
filtered by data set, protocol and preset.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from crossmodal_bench.core.atomic_files import replace_file
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.evaluation.metric_table import families_among
from crossmodal_bench.jobs.directory import read_json, write_json
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.comparison.ablations import Effect, effects
from crossmodal_bench.reporting.comparison.tie_groups import tie_groups
from crossmodal_bench.reporting.report import report_folder
from crossmodal_bench.reporting.table import shown_tables
from crossmodal_bench.reporting.tables.markdown import escaped, leaderboard_grid
from crossmodal_bench.reporting.tables.shown import ShownTable
from crossmodal_bench.reporting.wandb.mode import logged_in
from crossmodal_bench.reporting.wandb.run import complaint
from crossmodal_bench.reporting.wandb.sync import Project

SAVED = "wandb_dashboard.json"
"""The file in the report's folder that records which report and workspace to update."""
CURVES = 12
"""Maximum number of training quantities drawn, in the records' order."""
WIDE, HIGH = 24, 8
"""Widths of a grid of panels, and of a panel."""
PANELS = ("retrieved_captions", "retrieved_pictures", "captions", "pictures", "words")
"""The pictures of a run; see ``contents``."""
LETTERS = (
    "Rows that share a letter under “not told apart” do not differ significantly in the metric that ranks "
    "the table: paired on the same queries, clustered by image, two-sided at 5 %, adjusted by Holm for "
    "all pairs."
)
READING = (
    "Numbers of different protocols are never in one table, and rows of different presets never averaged. "
    "The tables come from the records, over all seeds; the panels below each of them show its single runs "
    "(seeds), which W&B may average but has no intervals for. Each run's own 95 % intervals over test images "
    "are in its summary, as intervals/METRIC/low and intervals/METRIC/high."
)


@dataclass(frozen=True)
class Selection:
    """The runs of one preset in one table, by their configuration.

    Attributes:
        dataset: the table's data set.
        protocol: the runs' main protocol, even if the table is of another one they were measured under.
        preset: the preset of its rows.
    """

    dataset: str
    protocol: str
    preset: str

    @property
    def name(self) -> str:
        """The title of a tab in a grid of panels."""
        return f"{self.dataset} · {self.protocol} · {self.preset}"


def write(runs: Path, project: Project, title: str, path: Path) -> None:
    """Write the specification of report and workspace as JSON; needs no account, and sends nothing.

    Its run sets name no project, and so show the runs of the report's own project.

    Raises:
        BadInput: wandb-workspaces is missing, there is no record, or the file cannot be written.
    """
    report, workspace = build(runs, project, title, with_account=False)
    content = {"report": _specification(report), "workspace": _specification(workspace)}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda stream: stream.write(text.encode("utf-8")))
    except OSError as error:
        raise BadInput(
            f"--out {path} cannot be written ({error.strerror or error}); name another file"
        ) from error


def save(runs: Path, project: Project, title: str) -> list[str]:
    """Save report and workspace in the account, or update the earlier ones; return their URLs.

    Raises:
        BadInput: wandb-workspaces is missing, there is no login, there is no record, or the server refuses.
    """
    if not logged_in():
        raise BadInput(
            "no W&B key found: run `wandb login`, or write the specification without a login: --out FILE"
        )
    report, workspace = build(runs, project, title, with_account=True)
    kept = report_folder(runs) / SAVED
    saved = read_json(kept)
    where = f"{report.entity}/{report.project}"
    earlier = saved.get(where)
    if isinstance(earlier, dict):
        report.id = str(earlier.get("report", ""))
        workspace._internal_id = str(earlier.get("workspace_id", ""))
        workspace._internal_name = str(earlier.get("workspace_name", ""))
    for part in (report, workspace):
        try:
            part.save()
        except Exception as error:
            raise BadInput(
                f"W&B rejected the dashboard of {where} ({complaint(error)}); check project, entity and "
                f"network, delete {kept} if report or workspace was deleted there, or write the "
                "specification with --out FILE"
            ) from error
        # Remember what is saved so far, whatever happens to the other.
        saved[where] = {
            "report": report.id,
            "workspace_id": workspace._internal_id,
            "workspace_name": workspace._internal_name,
        }
        _keep(kept, saved)
    return [f"Report: {report.url}", f"Workspace: {workspace.url}"]


def _keep(path: Path, saved: dict[str, Any]) -> None:
    """Store the report and workspace of each project."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, saved)
    except OSError as error:
        raise BadInput(
            f"{path} cannot be written ({error.strerror or error}), so the next wandb-report would create a "
            "second dashboard; make it writable and run the same command again"
        ) from error


def build(runs: Path, project: Project, title: str, *, with_account: bool) -> tuple[Any, Any]:
    """The report and the workspace, as ``wandb_workspaces`` objects.

    Args:
        runs: the folder of the records.
        project: the project of the runs.
        title: the title of both.
        with_account: whether the user is logged in, so that run sets can name their project, and a missing
            entity can be looked up.

    Raises:
        BadInput: wandb-workspaces is missing, there is no record, or the title is invalid.
    """
    _check_installed()
    import wandb_workspaces.reports.v2 as reports
    import wandb_workspaces.workspaces as workspaces

    tables = shown_tables(runs)
    entity = project.entity
    if with_account and not entity:
        entity = _default_entity()
    parts = _Parts(reports, entity if with_account else "", project.name if with_account else "")
    _check_title(title)
    report = reports.Report(
        project=project.name,
        entity=entity,
        title=title,
        description=f"Made by crossmodal-bench from {_counted(tables)}.",
        blocks=[*_head(reports), *(block for table in tables for block in _blocks(reports, parts, table))],
        width="fluid",
    )
    workspace = workspaces.Workspace(
        entity=entity,
        project=project.name,
        name=title,
        sections=_sections(workspaces, parts, tables),
        runset_settings=_runset_settings(workspaces, tables),
    )
    return report, workspace


@dataclass(frozen=True)
class _Key:
    """A metric in a run's summary.

    Attributes:
        prefix: the protocol with a slash, for runs whose main protocol is another one; empty otherwise.
        metric: the metric's name.
    """

    prefix: str
    metric: str

    @property
    def name(self) -> str:
        """The key of its value."""
        return f"{self.prefix}{self.metric}"

    def bound(self, side: Literal["low", "high"]) -> str:
        """The key of one end of its interval."""
        return f"{self.prefix}intervals/{self.metric}/{side}"


@dataclass(frozen=True)
class _Parts:
    """Builds panels and run sets.

    Attributes:
        reports: ``wandb_workspaces.reports.v2``.
        entity, project: named by run sets; empty for the report's own.
    """

    reports: Any
    entity: str
    project: str

    def runset(self, selection: Selection, rows: Sequence[str] = ()) -> Any:
        """The finished runs of a selection; only of ``rows``, if given."""
        from wandb_workspaces import expr

        filters = [
            expr.Config("dataset") == selection.dataset,
            expr.Config("protocol") == selection.protocol,
            expr.Config("preset") == selection.preset,
            # A stopped job has a run, too.
            expr.Metric("State") == "finished",
        ]
        if rows:
            filters.append(expr.Config("row").isin(list(rows)))
        return self.reports.Runset(
            entity=self.entity,
            project=self.project,
            name=f"{' against '.join(rows)} ({selection.preset})" if rows else selection.name,
            filters=expr.And(*filters),
            groupby=["config.row"],
            order=[self.reports.OrderBy(self.reports.SummaryMetric("primary"), ascending=False)],
        )

    def best(self, key: str) -> Any:
        """Bars of a metric, one per row."""
        return self.reports.BarPlot(
            title=f"{key}, mean of the seeds (lines: lowest to highest seed)",
            metrics=[self.reports.SummaryMetric(key)],
            groupby=self.reports.Config("row"),
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
            layout=self.reports.Layout(w=WIDE // 2, h=HIGH),
        )

    def validation(self) -> Any:
        """The curve of the primary metric on validation."""
        return self.curve("val/primary", "the primary metric, on validation")

    def curve(self, key: str, title: str = "") -> Any:
        """The curve of a quantity over epochs."""
        return self.reports.LinePlot(
            title=title or key,
            x="epoch",
            y=[key],
            groupby=self.reports.Config("row"),
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
            layout=self.reports.Layout(w=WIDE // 2, h=HIGH),
        )

    def cost(self, key: str, cost: str, title: str, *, log: bool = True) -> Any:
        """A metric against its cost, one point per run; ``log`` only if no cost is 0."""
        return self.reports.ScatterPlot(
            title=title,
            x=self.reports.SummaryMetric(f"cost/{cost}"),
            y=self.reports.SummaryMetric(key),
            log_x=log,
            layout=self.reports.Layout(w=WIDE // 2, h=HIGH),
        )

    def costs(self, key: str) -> list[Any]:
        """A metric against each cost."""
        return [
            self.cost(key, "train_seconds", f"{key} against seconds of training"),
            # CCA has none.
            self.cost(key, "parameters", f"{key} against parameters", log=False),
            self.cost(key, "peak_memory_mb", f"{key} against peak memory (MB)"),
        ]

    def pictures(self) -> Any:
        """What the models retrieve and generate."""
        return self.reports.MediaBrowser(
            title="what the models retrieve and generate",
            media_keys=[f"panels/{name}" for name in PANELS],
            num_columns=2,
            layout=self.reports.Layout(w=WIDE, h=2 * HIGH),
        )

    def table(self, name: str) -> Any:
        """A table that each run has, with the lines of all runs."""
        return self.reports.WeavePanelSummaryTable(
            table_name=name, layout=self.reports.Layout(w=WIDE, h=2 * HIGH)
        )


def _head(reports: Any) -> list[Any]:
    return [
        reports.TableOfContents(),
        reports.H1("How to read this"),
        reports.MarkdownBlock(f"{READING}\n\n{LETTERS}"),
    ]


def _blocks(reports: Any, parts: _Parts, table: ShownTable) -> Iterator[Any]:
    """One leaderboard, with the panels of its runs."""
    letters = tie_groups(table.source)
    selections = _selections(table)
    runsets = [parts.runset(selection) for selection in selections]
    names = [key.name for key in _keys(table)]
    yield reports.H1(table.title)
    yield reports.MarkdownBlock(leaderboard_grid(table, letters))
    yield reports.MarkdownBlock(_list([*table.warnings, *table.meaning]))
    pairs = effects(table.source)
    if pairs:
        yield reports.H2("What each adversary adds")
        yield reports.MarkdownBlock(_list(map(str, pairs)))
        yield reports.PanelGrid(
            runsets=[parts.runset(_selection_of(pair), _pair(pair)) for pair in pairs],
            panels=[*map(parts.best, names), parts.validation()],
        )
    yield reports.H2("Numbers and curves")
    curves = [parts.curve(name) for name in _trained_quantities(table)]
    yield reports.PanelGrid(runsets=runsets, panels=[*map(parts.best, names), parts.validation(), *curves])
    yield reports.H2("Costs")
    yield reports.PanelGrid(runsets=runsets, panels=[panel for name in names for panel in parts.costs(name)])
    yield reports.H2("Pictures")
    yield reports.PanelGrid(runsets=runsets, panels=[parts.pictures()])
    if single := _tables_of_items([table]):
        yield reports.H2("Single queries")
        yield reports.PanelGrid(runsets=runsets, panels=[parts.table(name) for name in single])
    yield reports.H2("Further notes")
    yield reports.MarkdownBlock(_list(table.notes))


def _sections(workspaces: Any, parts: _Parts, tables: Sequence[ShownTable]) -> list[Any]:
    names = list(dict.fromkeys(key.name for table in tables for key in _keys(table)))
    quantities = list(dict.fromkeys(name for table in tables for name in _trained_quantities(table)))[:CURVES]
    leaderboards = [
        parts.reports.MarkdownPanel(
            markdown=f"## {escaped(table.title)}\n\n{leaderboard_grid(table, tie_groups(table.source))}\n\n"
            f"{_list(table.meaning)}\n{LETTERS}"
        )
        for table in tables
    ]
    adversaries = [
        parts.reports.MarkdownPanel(markdown=f"## {escaped(table.title)}\n\n{_list(map(str, pairs))}")
        for table in tables
        if (pairs := effects(table.source))
    ]
    contents = {
        "Leaderboards": [*leaderboards, *map(parts.best, names), parts.table("leaderboard")],
        "What each adversary adds": adversaries,
        "Curves": [parts.validation(), *(parts.curve(name) for name in quantities)],
        "Costs": [panel for name in names for panel in parts.costs(name)],
        "Pictures": [parts.pictures()],
        "Single queries": [parts.table(name) for name in _tables_of_items(tables)],
    }
    return [
        workspaces.Section(name=name, panels=panels, is_open=name in ("Leaderboards", "Curves"))
        for name, panels in contents.items()
        if panels
    ]


def _runset_settings(workspaces: Any, tables: Sequence[ShownTable]) -> Any:
    """All runs, with filters on data set, protocol and preset, from which one can remove values."""
    from wandb_workspaces import expr

    selections = [selection for table in tables for selection in _selections(table)]
    filters = [
        expr.Config(name).isin(list(dict.fromkeys(getattr(selection, name) for selection in selections)))
        for name in ("dataset", "protocol", "preset")
    ]
    keys = list(dict.fromkeys(key for table in tables for key in _keys(table)))
    columns = [f"config:{name}.value" for name in ("dataset", "protocol", "preset", "row", "seed")]
    for key in keys:
        columns += [f"summary:{name}" for name in (key.name, key.bound("low"), key.bound("high"))]
    columns += [f"summary:cost/{name}" for name in ("train_seconds", "parameters", "peak_memory_mb")]
    return workspaces.RunsetSettings(
        filters=expr.And(*filters),
        pinned_columns=columns,
        order=[expr.Ordering(expr.Summary("primary"), ascending=False)],
    )


def _selections(table: ShownTable) -> list[Selection]:
    """The presets of a table."""
    return list(dict.fromkeys(_selection(record) for record in table.source.records))


def _selection(record: Record) -> Selection:
    return Selection(record.job.dataset, record.content["job"]["protocol"], record.job.preset)


def _selection_of(pair: Effect) -> Selection:
    return _selection(pair.row.records[0])


def _pair(pair: Effect) -> list[str]:
    return [pair.row.name, pair.ablation.name]


def _keys(table: ShownTable) -> list[_Key]:
    """The primary metric of a table; twice, if some of its runs have another main protocol."""
    prefixes = ("" if record.is_main else f"{table.source.protocol}/" for record in table.source.records)
    return [_Key(prefix, table.primary) for prefix in dict.fromkeys(prefixes)]


def _tables_of_items(tables: Sequence[ShownTable]) -> list[str]:
    """The tables of single items that some of the runs have, see ``contents.media``."""
    records = [record for table in tables for record in table.source.records]
    names = []
    if any("ranks" in families_among(record.metrics) for record in records):
        names.append("queries")
    if any(record.files.written_captions.is_file() for record in records):
        names.append("written_captions")
    return names


def _trained_quantities(table: ShownTable) -> list[str]:
    """The training and validation quantities of a table's runs, besides the primary metric."""
    names = {
        name: None
        for record in table.source.records
        for epoch in record.history[-1:]
        for name in epoch
        if name not in ("epoch", "val/primary")
    }
    # Losses before recalls, of which validation logs a dozen.
    return sorted(names, key=lambda name: name.startswith("val/"))[:CURVES]


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {escaped(item)}" for item in items)


def _counted(tables: Sequence[ShownTable]) -> str:
    jobs = {record.job.id for table in tables for record in table.source.records}
    return f"{len(jobs)} finished jobs in {len(tables)} leaderboard{'s' * (len(tables) != 1)}"


def _specification(built: Any) -> Any:
    """As JSON; there is no public API for it."""
    return built._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)


def _check_title(title: str) -> None:
    """Raise BadInput for a title that W&B refuses: it is too long, or contains a symbol."""
    import wandb_workspaces.reports.v2 as reports
    import wandb_workspaces.workspaces as workspaces
    from pydantic import ValidationError

    try:
        reports.Report(project="p", entity="e", title=title)
        workspaces.Workspace(entity="e", project="p", name=title)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise BadInput(f"--title '{title}' is not accepted by W&B ({reason}); choose another") from error


def _default_entity() -> str:
    import wandb

    try:
        entity = wandb.Api().default_entity
    except Exception as error:
        raise BadInput(
            f"W&B's server does not identify you ({complaint(error)}); name the team or user with --entity"
        ) from error
    if not entity:
        raise BadInput("your W&B account has no default entity; name the team or user with --entity")
    return str(entity)


def _check_installed() -> None:
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise BadInput("wandb-report needs wandb-workspaces; pip install 'crossmodal-bench[wandb]'")
