"""Which rows of a table cannot be told apart, as letters (Piepho, JCGS 2004)."""

from __future__ import annotations

import string

from crossmodal_bench.evaluation.statistics.comparisons import SIGNIFICANT
from crossmodal_bench.reporting.rows.leaderboard import Table

_MOST_GROUPS = len(string.ascii_lowercase)


def tie_groups(table: Table) -> dict[int, str]:
    """The letters of each tested row, by position: two rows that share one cannot be told apart.

    Two rows share a letter if and only if their adjusted p is not below 5 %. The result is empty if fewer
    than two rows are tested, or if there are not enough letters.
    """
    if len(table.tested) < 2:
        return {}
    groups = [frozenset(table.tested)]
    for pair in table.pairs:
        if pair.adjusted_p >= SIGNIFICANT:
            continue
        split = []
        for group in groups:
            both = pair.first in group and pair.second in group
            split += [group - {pair.first}, group - {pair.second}] if both else [group]
        distinct = list(dict.fromkeys(split))
        groups = [group for group in distinct if not any(group < other for other in distinct)]
        if len(groups) > _MOST_GROUPS:
            return {}
    groups.sort(key=sorted)
    return {
        position: "".join(
            letter for letter, group in zip(string.ascii_lowercase, groups, strict=False) if position in group
        )
        for position in table.tested
    }
