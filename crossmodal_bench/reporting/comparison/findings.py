"""A leaderboard in a few sentences: who is ahead, what adversaries add, whether papers agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from crossmodal_bench.evaluation.metric_table import formatted, lookup
from crossmodal_bench.evaluation.statistics.comparisons import SIGNIFICANT
from crossmodal_bench.reporting.comparison.ablations import Effect, effects
from crossmodal_bench.reporting.rows.leaderboard import Row, Table

_MOST_NAMES = 4


def findings(table: Table) -> list[str]:
    """Sentences that follow from the table's numbers alone."""
    return [*_ahead(table), *_adversaries(effects(table)), *_papers(table)]


def _ahead(table: Table) -> Iterator[str]:
    metric = table.primary
    if table.first is None:
        yield f"No row has a number for {metric}."
        return
    first = table.rows[table.first]
    best = [table.rows[position] for position in sorted(table.best_set)]
    behind = [
        _named(table.rows[position], table) for position in table.tested if position not in table.best_set
    ]
    if not best:
        reason = (
            "there is no other row to compare it with"
            if len(table.own) < 2
            else "no test could tell whether by more than chance"
        )
        yield f"{_named(first, table)} has the highest number, {metric} {_number(first, metric)}; {reason}."
    elif len(best) == 1:
        yield (
            f"{_named(first, table)} is ahead of {_few(behind)} in {metric}: {_number(first, metric)}, by "
            "more than chance explains."
        )
    else:
        names = _joined([_named(row, table) for row in best])
        numbers = _joined([_number(row, metric) for row in best])
        rest = f"; {_few(behind)} {'is' if len(behind) == 1 else 'are'} behind" if behind else ""
        yield f"{names} cannot be told apart in {metric} ({numbers}){rest}."


def _adversaries(measured: Sequence[Effect]) -> Iterator[str]:
    tested = [effect for effect in measured if effect.p is not None]
    if not tested:
        return
    real = [effect for effect in tested if effect.p is not None and effect.p < SIGNIFICANT]
    for effect in real:
        digits = lookup(effect.metric).unit.digits
        better = (effect.difference > 0) is not lookup(effect.metric).lower_is_better
        verb = "adds" if better else "costs"
        interval = f" [{_ends(effect, digits)}]"
        # Their images are tested, and their trainings are not: another seed may well differ by as much.
        scope = ", in one training each, which other seeds need not repeat" if max(effect.n) == 1 else ""
        yield (
            f"The adversary of {effect.row.name} ({effect.row.preset}) {verb} "
            f"{abs(effect.difference):.{digits}f} {effect.metric}{interval}{scope}."
        )
    rest = [effect for effect in tested if effect not in real]
    if not rest:
        return
    if len(rest) == 1:
        yield f"The adversary of {rest[0].row.name} adds no more than chance explains."
    else:
        other = "other " if real else ""
        yield f"None of the {other}{len(rest)} adversaries adds more than chance explains."


def _ends(effect: Effect, digits: int) -> str:
    """The ends of an effect's interval, signed as in the sentence."""
    assert effect.low is not None and effect.high is not None
    ends = (effect.low, effect.high) if effect.difference > 0 else (-effect.high, -effect.low)
    return f"{ends[0]:.{digits}f}, {ends[1]:.{digits}f}"


def _papers(table: Table) -> Iterator[str]:
    compared = [row for row in table.own if row.published.value is not None]
    if not compared:
        if any(row.published.apart for row in table.own):
            yield "No published number is comparable with these rows; each row says why."
        return
    agreeing, differing = [], []
    for row in compared:
        cell = row.cells[table.primary]
        paper = cell.published.value
        assert paper is not None
        if cell.low is not None and cell.high is not None and cell.low <= paper <= cell.high:
            agreeing.append(_named(row, table))
        else:
            side = "above" if cell.mean > paper else "below"
            gap = formatted(table.primary, abs(cell.mean - paper))
            differing.append(f"{_named(row, table)} is {gap} {side}")
    clauses = []
    if agreeing:
        verb = "agrees" if len(agreeing) == 1 else "agree"
        clauses.append(f"{_joined(agreeing)} {verb} with the published number within ±")
    if differing:
        clauses.append(f"{_joined(differing)} the published number, beyond ±")
    yield f"{'; '.join(clauses)}."


def _named(row: Row, table: Table) -> str:
    presets = {other.preset for other in table.own}
    return f"{row.name} ({row.preset})" if len(presets) > 1 else row.name


def _number(row: Row, metric: str) -> str:
    cell = row.cells[metric]
    margin = "" if cell.half_width is None else f" ± {formatted(metric, cell.half_width)}"
    return f"{formatted(metric, cell.mean)}{margin}"


def _few(names: Sequence[str]) -> str:
    return _joined(names) if len(names) <= _MOST_NAMES else f"all {len(names)} others"


def _joined(names: Sequence[str]) -> str:
    shown = list(names[:_MOST_NAMES])
    if len(names) > _MOST_NAMES:
        return f"{', '.join(shown)} and {len(names) - _MOST_NAMES} more"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
