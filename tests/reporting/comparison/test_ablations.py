"""What an adversary adds: differences between a method and its ablation, query by query or seed by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import pytest
from answered import Answered
from scipy import stats

from crossmodal_bench.evaluation.statistics.comparisons import holm
from crossmodal_bench.jobs import experiments
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.comparison.ablations import Effect, effects
from crossmodal_bench.reporting.rows.leaderboard import leaderboard, tables
from crossmodal_bench.reporting.tables.layout import notes

Maker = Callable[..., Record]


def found(records: list[Record]) -> list[Effect]:
    return [effect for table in tables(leaderboard(records)) for effect in effects(table)]


def rows(make: Maker, method: str, values: dict[int, float], **changes: object) -> list[Record]:
    return [
        make(method=method, seed=seed, metrics={"rsum": value}, **changes) for seed, value in values.items()
    ]


def test_queries_are_paired_where_they_are_known(answered: Answered) -> None:
    with_discriminators = [answered(0.32, method="addr_scan", seed=seed) for seed in (0, 1, 2)]
    alone = [answered(0.3, method="scan", seed=seed) for seed in (0, 1)]
    (table,) = answered.tables(with_discriminators + alone)
    (effect,) = effects(table)
    (pair,) = table.pairs
    expected = pair.difference
    assert (effect.row.method, effect.ablation.method, effect.n) == ("addr_scan", "scan", (3, 2))
    assert (effect.difference, effect.low, effect.high) == (expected.value, expected.low, expected.high)
    assert effect.p == expected.p
    assert effect.difference == pytest.approx(
        table.rows[0].cells["rsum"].mean - table.rows[1].cells["rsum"].mean
    ), "what the table shows"
    interval = f"[{expected.low:+.1f}, {expected.high:+.1f}]"
    assert str(effect) == (
        f"addr_scan minus scan (small): rsum {expected.value:+.1f} {interval}, p = {expected.p:.2g} "
        "(3 against 2 seeds, paired by image)"
    )


def test_p_is_adjusted_to_the_adversaries_of_the_table(answered: Answered) -> None:
    records = [
        answered(share, own=0.3, method=method)
        for method, share in (
            ("addr_scan", 0.31),
            ("scan", 0.3),
            ("timam", 0.3),
            ("timam_no_adversary", 0.28),
        )
    ]
    (table,) = answered.tables(records)
    named = {row.method: position for position, row in enumerate(table.rows)}
    measured = effects(table)
    raw = []
    for effect in measured:
        difference = table.difference(named[effect.row.method], named[effect.ablation.method])
        assert difference is not None
        raw.append(difference.p)
    assert [effect.p for effect in measured] == holm(raw) and len(raw) == 2
    assert "(one seed each, paired by image)" in str(effects(table)[0])


def test_an_adversary_that_costs_has_a_negative_effect(answered: Answered) -> None:
    records = [answered(0.25, method="timam", seed=seed) for seed in (0, 1)]
    (table,) = answered.tables([*records, answered(0.3, method="timam_no_adversary")])
    (effect,) = effects(table)
    (pair,) = table.pairs
    assert table.rows[pair.first].method == "timam_no_adversary" and pair.difference.value > 0
    assert effect.difference == -pair.difference.value < 0 and effect.n == (2, 1)
    assert (effect.low, effect.high) == (-pair.difference.high, -pair.difference.low)


def test_seeds_are_paired_where_queries_are_not_known(make_recall_record: Maker) -> None:
    with_discriminators = rows(make_recall_record, "addr_scan", {0: 210.0, 1: 206.0, 2: 220.0, 3: 999.0})
    alone = rows(make_recall_record, "scan", {0: 205.0, 1: 207.0, 2: 214.0})
    (effect,) = found(with_discriminators + alone)
    differences = [5.0, -1.0, 6.0]
    assert (effect.row.method, effect.ablation.method, effect.n) == ("addr_scan", "scan", (3, 3))
    mean = statistics.fmean(differences)
    assert effect.difference == pytest.approx(mean)
    half = stats.t.ppf(0.975, 2) * statistics.stdev(differences) / math.sqrt(3)
    assert (effect.low, effect.high) == pytest.approx((mean - half, mean + half)) and effect.p is None
    assert str(effect) == (
        f"addr_scan minus scan (small): rsum +3.3 [{mean - half:+.1f}, {mean + half:+.1f}] "
        "(3 seeds, paired by seed, blind to other images)"
    )


def test_one_seed_of_unknown_queries_has_no_interval(make_recall_record: Maker) -> None:
    (effect,) = found(
        [
            *rows(make_recall_record, "timam", {0: 9.0}),
            *rows(make_recall_record, "timam_no_adversary", {0: 10.0}),
        ]
    )
    assert str(effect) == "timam minus timam_no_adversary (small): rsum -1.0 (one seed, no interval)"


def test_only_what_was_trained_alike_is_a_twin(make_recall_record: Maker) -> None:
    addr = rows(make_recall_record, "addr_scan", {0: 9.0})
    assert not found(addr)
    assert not found([*addr, *rows(make_recall_record, "scan", {0: 8.0}, preset="paper")])
    assert not found([*addr, *rows(make_recall_record, "scan", {1: 8.0})])
    changed = {"overrides": {"trainer.max_epochs": 3}}
    assert not found([*addr, *rows(make_recall_record, "scan", {0: 8.0}, **changed)])
    base = rows(make_recall_record, "scan", {0: 7.0}, label="base", **changed)
    (effect,) = found([*addr, *base, *rows(make_recall_record, "scan", {0: 8.0})])
    assert effect.difference == 2.0, "a suite's base row is the host in the same training"


def test_the_record_names_the_twin_of_a_method_whose_file_is_not_there(make_recall_record: Maker) -> None:
    records = [
        make_recall_record(method="mine", by=2.0, ablation="mine_alone"),
        make_recall_record(method="mine_alone"),
    ]
    (effect,) = found(records)
    assert (effect.row.method, effect.ablation.method) == ("mine", "mine_alone")
    assert effect.difference == pytest.approx(2.0)


def test_it_stands_below_the_table(make_recall_record: Maker) -> None:
    records = rows(make_recall_record, "addr_bfan", {0: 9.0}) + rows(
        make_recall_record, "bfan_prob", {0: 8.0}
    )
    (table,) = tables(leaderboard(records))
    assert "adversary: addr_bfan minus bfan_prob (small): rsum +1.0 (one seed, no interval)" in notes(table)


@pytest.mark.parametrize("method", experiments.names("methods"))
def test_twins_exist(method: str) -> None:
    ablation = experiments.ablation_of(method)
    assert ablation is None or ablation in experiments.names("methods")
    adversarial = method.startswith(("addr_", "united_", "multiple_")) or method in (
        "acmr",
        "timam",
        "gxn",
        "gxn_t2i",
    )
    assert (ablation is not None) == adversarial
