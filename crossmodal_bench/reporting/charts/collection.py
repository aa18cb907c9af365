"""Every chart of a report, in reading order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from crossmodal_bench.core.errors import BadInput, warn_once
from crossmodal_bench.jobs.directory import check_own
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.charts import result_charts, training_charts
from crossmodal_bench.reporting.charts.chart import Chart
from crossmodal_bench.reporting.charts.looks import Looks, Series, distinct_ids
from crossmodal_bench.reporting.comparison.ablations import effects
from crossmodal_bench.reporting.comparison.parameter_sweeps import sweeps
from crossmodal_bench.reporting.rows.leaderboard import Table


@dataclass(frozen=True)
class TableCharts:
    """The charts of one leaderboard.

    Attributes:
        table: its id within the page.
        series: its rows with their looks, in table order.
        forest: what each adversary adds, or how far rows are behind the first; None if nothing was tested.
        comparisons: the charts of several rows.
        by_row: the charts of single rows, in table order.
    """

    table: str
    series: tuple[Series, ...]
    forest: Chart | None
    comparisons: tuple[Chart, ...]
    by_row: tuple[tuple[Chart, ...], ...]

    @property
    def all(self) -> list[Chart]:
        """All charts, those of several rows first."""
        shared = [self.forest, *self.comparisons] if self.forest else list(self.comparisons)
        return [*shared, *(chart for charts in self.by_row for chart in charts)]


def collect(tables: Sequence[Table]) -> list[TableCharts]:
    """The charts of each table; figures of damaged files are skipped with a warning."""
    looks = Looks(row for table in tables for row in table.rows)
    names = distinct_ids([_name(table) for table in tables])
    return [_of_table(table, looks, name) for table, name in zip(tables, names, strict=True)]


def _name(table: Table) -> str:
    dataset = "" if table.protocol.startswith(table.dataset) else f"{table.dataset} "
    part = "" if table.protocol.endswith(table.evaluated_on) else f" {table.evaluated_on}"
    return f"{dataset}{table.protocol}{part}"


def charts_json(collections: Sequence[TableCharts]) -> str:
    """All charts by id: Vega-Lite specifications with their data."""
    charts = {chart.id: chart.specification for each in collections for chart in each.all}
    return json.dumps(charts, indent=1, sort_keys=True, allow_nan=False) + "\n"


def _of_table(table: Table, looks: Looks, name: str) -> TableCharts:
    series = looks.series(table.rows, name)
    # A sweep has its own chart; its many settings would bury the methods in the others.
    methods = [each for each in series if not each.row.overrides] or series
    # Charts that do not depend on the protocol are shown once, under the job's main protocol.
    mains = [each for each in methods if each.row.records[0].is_main]
    comparisons = [
        *result_charts.recall_at_k(methods, name),
        result_charts.recall_sums(methods, name),
        *result_charts.precision_scope(methods, name),
        result_charts.cost_and_quality(series, table.primary, name),
        training_charts.validation_curves(mains, name),
        training_charts.discriminator_accuracy(mains, name),
        training_charts.pair_risks(mains, name),
    ]
    own_sweeps = sweeps(table.own)
    ids = distinct_ids([f"{name} {sweep.suite} {sweep.method} {sweep.key}" for sweep in own_sweeps])
    comparisons += [
        result_charts.parameter_sweep(sweep, identifier)
        for sweep, identifier in zip(own_sweeps, ids, strict=True)
    ]
    return TableCharts(
        table=name,
        series=tuple(series),
        forest=result_charts.forest(effects(table), series, name)
        or result_charts.against_the_first(table, series, name),
        comparisons=tuple(chart for chart in comparisons if chart is not None),
        by_row=tuple(_of_row(each, table.primary) for each in series),
    )


def _of_row(series: Series, primary: str) -> tuple[Chart, ...]:
    if not series.row.records[0].is_main:
        return ()
    # One seed's projection is enough: t-SNE coordinates of different runs cannot be compared or averaged.
    maps = (_projection(record, series.id) for record in series.row.records)
    charts = (training_charts.training_curves(series, primary), next(filter(None, maps), None))
    return tuple(chart for chart in charts if chart is not None)


def _projection(record: Record, name: str) -> Chart | None:
    path = record.files.projection
    try:
        check_own(path)
        return result_charts.projection(record, name)
    except BadInput as error:
        warn_once(f"{error}; its figure is left out until then")
    except OSError as error:
        warn_once(f"{path} is left out of the page ({error.strerror}); delete it, or copy it again")
    return None
