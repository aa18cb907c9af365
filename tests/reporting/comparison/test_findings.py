"""Tie groups and sentences, from tables whose answers are known."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from answered import Answered

from crossmodal_bench.evaluation.statistics.comparisons import SIGNIFICANT
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.comparison.findings import findings
from crossmodal_bench.reporting.comparison.tie_groups import tie_groups
from crossmodal_bench.reporting.rows.leaderboard import leaderboard, tables

Maker = Callable[..., Record]


def test_rows_share_a_letter_exactly_where_they_cannot_be_told_apart(answered: Answered) -> None:
    shares = {"scan": 0.30, "vse": 0.295, "timam": 0.27, "gxn": 0.25, "cca": 0.12}
    (table,) = answered.tables([answered(share, own=0.6, method=name) for name, share in shares.items()])
    letters = tie_groups(table)
    assert set(letters) == set(table.tested) and letters[table.first].startswith("a")
    for pair, (one, other) in zip(table.pairs, itertools.combinations(table.tested, 2), strict=True):
        assert (pair.first, pair.second) == (one, other)
        share = bool(set(letters[one]) & set(letters[other]))
        assert share == (pair.adjusted_p >= SIGNIFICANT)
    assert len(set(letters.values())) > 1


def test_untested_rows_have_no_letters(make_record: Maker) -> None:
    (table,) = tables(leaderboard([make_record(), make_record(method="cca")]))
    assert tie_groups(table) == {}
    assert findings(table)[0] == (
        "acmr has the highest number, mAP 0.450 ± 0.040; no test could tell whether by more than chance."
    )


def test_the_first_of_all_is_named_with_whom_it_beats(answered: Answered) -> None:
    (table,) = answered.tables([answered(0.3, method="scan"), answered(0.1, method="cca")])
    ahead, *_ = findings(table)
    assert ahead.startswith("scan is ahead of cca in rsum: ") and ahead.endswith("more than chance explains.")


def test_equals_are_named_together(answered: Answered) -> None:
    (table,) = answered.tables([answered(0.3, method=name, own=0.9) for name in ("scan", "vse")])
    first, second = (row.name for row in table.rows)
    assert findings(table)[0].startswith(f"{first} and {second} cannot be told apart in rsum (")


def test_adversaries_are_worth_what_their_intervals_say(answered: Answered) -> None:
    names = ("timam", "timam_no_adversary", "addr_scan", "scan")
    shares = (0.2, 0.2, 0.3, 0.2)
    records = [answered(share, method=name, own=0.4) for name, share in zip(names, shares, strict=True)]
    (table,) = answered.tables(records)
    text = " ".join(findings(table))
    assert "The adversary of addr_scan (small) adds " in text
    # One seed each: its test covers other images alone.
    assert "], in one training each, which other seeds need not repeat." in text
    assert "The adversary of timam adds no more than chance explains." in text
    more = [answered(share, method=name, own=0.4, seed=1) for name, share in zip(names, shares, strict=True)]
    (table,) = answered.tables([*records, *more])
    text = " ".join(findings(table))
    assert "The adversary of addr_scan (small) adds " in text and "one training" not in text
    (table,) = answered.tables(records[:2])
    assert "The adversary of timam adds no more than chance explains." in findings(table)
