"""The table of metrics: nothing else knows their names, and an entry and a function make a metric."""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import crossmodal_bench
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.evaluation import (
    Metric,
    Protocol,
    QueryResults,
    evaluate,
    interval,
    metric_table,
    model_intervals,
)
from crossmodal_bench.evaluation.captions import CaptionComparison
from crossmodal_bench.evaluation.chance import Search
from crossmodal_bench.evaluation.metric_table import FRACTION, PERCENT, RANK, SIDES, Unit
from crossmodal_bench.evaluation.ranking.precision import RankedRelevance, precision_at
from crossmodal_bench.evaluation.ranking.query_ranks import QueryRanks
from crossmodal_bench.evaluation.retrieved_captions import retrieved_caption_quality, written_caption_quality
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.charts import result_charts
from crossmodal_bench.reporting.comparison.chance import below_chance
from crossmodal_bench.reporting.comparison.parameter_sweeps import sweeps
from crossmodal_bench.reporting.report import print_leaderboard
from crossmodal_bench.reporting.rows.leaderboard import leaderboard, tables
from crossmodal_bench.reporting.table import csv, frame
from crossmodal_bench.reporting.tables.layout import main_metrics
from crossmodal_bench.reporting.tables.markdown import markdown
from crossmodal_bench.reporting.tables.shown import show

Maker = Callable[..., Record]
PACKAGE = Path(crossmodal_bench.__file__).parent
NAMES = re.compile(r"\b(R@|AP@\d|rsum\b|mAP\b|MedR\b|MeanR\b|BLEU-|CIDEr\b|(i2t|t2i)/[A-Zm])")
OWNER = np.arange(120) // 3
IMAGES = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
TEXTS = IMAGES[torch.from_numpy(OWNER)] + torch.randn(120, 6, generator=torch.Generator().manual_seed(1))
LABELS = np.arange(40) % 4


def dot(images: Encoding, texts: Encoding) -> Tensor:
    return images.values @ texts.values.T


def measured(protocol: Protocol) -> tuple[dict[str, float], dict[str, list[float]]]:
    """The metrics and their intervals."""
    found = evaluate(protocol, Encoding(IMAGES), Encoding(TEXTS), dot, OWNER, LABELS)
    return found.metrics, model_intervals(found)


def _texts_of_code(path: Path) -> Iterator[str]:
    """The string constants of a module that are no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {
        id(statement.value)
        for node in ast.walk(tree)
        if isinstance(body := getattr(node, "body", None), list)
        for statement in body
        if isinstance(statement, ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def test_families_are_told_by_the_metrics_that_are_theirs_alone() -> None:
    assert metric_table.families_among({"i2t/R@1"}) == [], "of captions, or of classes"
    assert metric_table.families_among({"i2t/R@1", "t2i/AP@50"}) == ["class_level"]
    assert metric_table.families_among({"i2t/R@1", "t2i/R@1", "mAP"}) == ["ranks", "label_precision"]
    assert set(metric_table.TIES) == set(metric_table.RANKED_FAMILIES)


def test_no_other_module_knows_a_metric_by_name() -> None:
    spelling = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(NAMES.search(text) for text in _texts_of_code(path))
    }
    assert spelling == {"evaluation/metric_table.py"}


def test_the_table_is_consistent() -> None:
    entries = metric_table.ENTRIES
    kinds = {(metric.family, metric.key) for metric in entries}
    assert len(kinds) == len(entries)
    for metric in entries:
        assert (metric.function is None) == bool(metric.terms), metric.key
        own = {other.key for other in metric_table.of_family(metric.family)}
        assert own.issuperset(metric.terms), metric.key
        ranked = metric.family in metric_table.RANKED_FAMILIES
        assert (metric.side is not None) == (ranked and not metric.terms), metric.key
        if metric.shows_learning:
            assert metric.chance is not None and metric.side is not None
        same_key = [other for other in entries if other.key == metric.key]
        assert {(other.unit, other.lower_is_better) for other in same_key} == {
            (metric.unit, metric.lower_is_better)
        }
        # Both directions' rankings are measured at once, by name.
        namesakes = [other for other in metric_table.computed(metric.family) if other.name == metric.name]
        if metric.family == "label_precision":
            assert len({id(other.function) for other in namesakes}) == 1
    for family in ("class_level", "ranks", "label_precision"):
        judged = [metric.side for metric in metric_table.of_family(family) if metric.shows_learning]
        assert sorted(map(str, judged)) == ["i2t", "t2i"], family


def test_lower_is_better_for_ranks_alone() -> None:
    falling = {metric.key for metric in metric_table.ENTRIES if metric.lower_is_better}
    assert falling == {"i2t/MedR", "i2t/MeanR", "t2i/MedR", "t2i/MeanR"}
    assert all(metric_table.lookup(key).unit == RANK for key in falling)


@pytest.mark.parametrize(
    ("key", "printed", "label"),
    [
        ("i2t/R@1", "31.4", "i2t/R@1 (%)"),
        ("t2i/MedR", "31.4", "t2i/MedR (rank)"),
        ("t2i/AP@50", "31.4", "t2i/AP@50 (%)"),
        ("rsum", "31.4", "rsum (sum of six recalls in %)"),
        ("sum", "31.4", "sum (sum of four recalls in %)"),
        ("mAP", "31.416", "mAP (fraction)"),
        ("i2t/mAP@50", "31.416", "i2t/mAP@50 (fraction)"),
        ("BLEU-4@3", "31.4", "BLEU-4@3 (%)"),
        ("written/CIDEr", "31.4", "written/CIDEr (%)"),
        ("of/another/version", "31.4", "of/another/version (%)"),
    ],
)
def test_values_are_printed_with_their_metrics_digits_and_unit(key: str, printed: str, label: str) -> None:
    assert metric_table.formatted(key, 31.4159) == printed
    assert metric_table.lookup(key).axis_label == label


RECALLS = [f"{side}/R@{k}" for side in SIDES for k in (1, 5, 10)]
ALL_POSITIVES = ["i2t/R-Precision", "i2t/mAP@R", "t2i/R-Precision", "t2i/mAP@R", "mAP@R"]
PRECISIONS = ["i2t/mAP", "t2i/mAP", "mAP", "i2t/mAP@50", "t2i/mAP@50", "mAP@50"]


@pytest.mark.parametrize(
    ("primary", "columns"),
    [
        ("rsum", [*RECALLS, "rsum", "mAP@R", "mAP"]),
        ("mAP", [*PRECISIONS, "rsum", "mAP@R"]),
        ("mAP@R", ["i2t/R@1", "t2i/R@1", *ALL_POSITIVES, "rsum", "mAP"]),
        ("t2i/R@1", [*RECALLS[3:], *RECALLS[:3]]),
        ("t2i/AP@50", ["t2i/AP@50", "i2t/R@1"]),
    ],
)
def test_main_columns_follow_from_the_primary_metric(primary: str, columns: list[str]) -> None:
    assert metric_table.main_columns(primary) == columns


def test_metrics_are_shown_in_the_tables_order_and_unknown_ones_behind() -> None:
    keys = ["zeta", "written/BLEU-1", "BLEU-1@2", "mAP", "alpha", "rsum", "t2i/R@5", "i2t/MedR", "BLEU-1"]
    assert metric_table.in_order(keys) == [
        "i2t/MedR",
        "t2i/R@5",
        "rsum",
        "mAP",
        "BLEU-1",
        "BLEU-1@2",
        "written/BLEU-1",
        "alpha",
        "zeta",
    ]


def test_papers_print_everything_but_written_captions() -> None:
    keys = metric_table.published_keys()
    assert {"i2t/R@1", "rsum", "sum", "mAP@50", "t2i/AP@50", "CIDEr@5", "t2i/MeanR"} <= keys
    assert {metric.key for metric in metric_table.ENTRIES} - keys == {
        f"written/{name}" for name in ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "CIDEr")
    }


def test_combinations_need_all_of_their_terms() -> None:
    recalls = {key: float(at) for at, key in enumerate(RECALLS)}
    assert dict(metric_table.combinations(recalls, ["ranks"])) == {"rsum": 15.0, "sum": 10.0}
    del recalls["t2i/R@5"]
    assert dict(metric_table.combinations(recalls, ["ranks"])) == {"sum": 10.0}
    assert dict(metric_table.combinations(recalls, ["label_precision"])) == {}
    means = dict(metric_table.combinations({"i2t/mAP": 0.25, "t2i/mAP": 0.75}, ["label_precision"]))
    assert means == {"mAP": 0.5}


def test_chance_of_recall_at_any_cutoff() -> None:
    search = Search(gallery=100, identities=50, classes=4)
    levels = [metric_table.lookup(f"i2t/R@{k}").chance_level(search) for k in (1, 5, 10)]
    expected = [100 * (1 - np.prod([(98 - n) / (100 - n) for n in range(k)])) for k in (1, 5, 10)]
    assert levels == pytest.approx(expected)
    assert metric_table.lookup("i2t/MedR").chance_level(search) is None


def test_chance_by_pairs_goes_by_how_many_are_right() -> None:
    search = Search(gallery=200, identities=200, classes=1, positives=4)
    assert metric_table.lookup("i2t/R@1").chance_level(search) == pytest.approx(2)
    assert metric_table.lookup("t2i/R-Precision").chance_level(search) == pytest.approx(2)


# A new metric, as somebody would add one: a function, and an entry that names it.


def reciprocal_ranks(ranks: QueryRanks) -> NDArray[np.float64]:
    """(n,) one in the rank of the best positive."""
    return 1 / ranks.expected


def expected_reciprocal_rank(search: Search) -> float:
    """Of one positive that may stand anywhere."""
    return sum(1 / rank for rank in range(1, search.gallery + 1)) / search.gallery


INVERSE_RANK = Metric(
    name="InverseRank",
    family="ranks",
    side="i2t",
    unit=Unit("mean of 1 / rank", digits=4),
    function=reciprocal_ranks,
    chance=expected_reciprocal_rank,
    shows_learning=True,
    main_column=True,
)


def add(monkeypatch: pytest.MonkeyPatch, *metrics: Metric) -> None:
    monkeypatch.setattr(metric_table, "ENTRIES", (*metric_table.ENTRIES, *metrics))


RANKED = Protocol(name="mine-test", dataset="mine", positives="caption", families=("ranks",), primary="rsum")


def test_a_new_metric_of_ranks_is_an_entry_and_a_function(
    monkeypatch: pytest.MonkeyPatch, make_record: Maker
) -> None:
    before, _ = measured(RANKED)
    add(monkeypatch, INVERSE_RANK)
    metrics, intervals = measured(RANKED)
    ranks = evaluate(RANKED, Encoding(IMAGES), Encoding(TEXTS), dot, OWNER).ranks
    assert ranks is not None
    value = float(np.mean(1 / ranks.i2t_expected))
    assert metrics == {**before, "i2t/InverseRank": value}
    run = QueryResults({"i2t/InverseRank": 1 / ranks.i2t_expected}, np.arange(40), OWNER, ("ranks",))
    expected = interval([run], "i2t/InverseRank")
    assert intervals["i2t/InverseRank"] == [expected.low, expected.high]

    records = [
        make_record(
            dataset="mine",
            protocol="mine-test",
            metrics={name: number * factor for name, number in metrics.items()},
            intervals=intervals,
            suite="mine",
            overrides={"model.init_args.alpha": factor},
        )
        for factor in (1.0, 0.5)
    ]
    (table,) = tables(leaderboard(records))
    assert table.metrics.index("i2t/InverseRank") == len(table.metrics) - 1
    assert main_metrics(table) == [*RECALLS, "rsum", "i2t/InverseRank"]
    assert f"{value:.4f}" in markdown([show(table)])
    stream = io.StringIO()
    print_leaderboard(records, stream)
    assert "InverseRank" in stream.getvalue() and f"{value:.4f}" in stream.getvalue()
    lines = frame([show(table)])
    lines = lines[lines.metric == "i2t/InverseRank"]
    assert lines["mean"].tolist() == [value, value / 2]
    assert lines["low"].tolist() == [intervals["i2t/InverseRank"][0]] * 2
    assert "i2t/InverseRank" in csv([show(table)])

    by_it = replace(RANKED, primary="i2t/InverseRank")
    assert by_it.primary == "i2t/InverseRank" and metric_table.main_columns("i2t/InverseRank")[-4:] == [
        "i2t/InverseRank",
        *RECALLS[3:],
    ]
    (sweep,) = sweeps([replace(row, primary="i2t/InverseRank") for row in table.rows])
    line = result_charts.parameter_sweep(sweep, "sweep").specification["layer"][0]
    assert line["encoding"]["y"]["title"] == "i2t/InverseRank (mean of 1 / rank)"


def test_a_new_metric_is_held_against_chance(monkeypatch: pytest.MonkeyPatch, make_record: Maker) -> None:
    add(monkeypatch, INVERSE_RANK)
    counts = {"test": {"images": 40, "captions": 120}}
    data = {"fingerprint": "d", "split_hash": "5", "counts": counts, "labels": {}, "features": None}
    reached = {"i2t/R@10": 90.0, "t2i/R@10": 90.0, "i2t/InverseRank": 0.05}
    chance = sum(1 / rank for rank in range(1, 121)) / 120
    (sentence,) = below_chance(make_record(metrics=reached, data=data))
    assert sentence == f"acmr seed 0: i2t/InverseRank is 0.0500, chance is {chance:.4f}"


def test_a_new_metric_that_is_best_when_low_ranks_so(
    monkeypatch: pytest.MonkeyPatch, make_record: Maker
) -> None:
    worst = Metric(
        name="worst",
        family="ranks",
        side="t2i",
        unit=RANK,
        function=lambda ranks: ranks.strict.max(),
        per_query=False,
        lower_is_better=True,
    )
    add(monkeypatch, worst)
    metrics, intervals = measured(RANKED)
    assert metrics["t2i/worst"] >= metrics["t2i/MedR"] and "t2i/worst" not in intervals
    records = [
        make_record(
            dataset="mine", protocol="mine-test", method=name, metrics={"t2i/worst": rank}, intervals={}
        )
        for name, rank in (("cca", 40.0), ("sm", 9.0))
    ]
    assert leaderboard(records)[0].method == "sm"


def test_a_new_combination_has_an_interval_too(monkeypatch: pytest.MonkeyPatch) -> None:
    total = Metric(name="sum of first", family="ranks", unit=PERCENT, terms=("i2t/R@1", "t2i/R@1"))
    add(monkeypatch, total)
    metrics, intervals = measured(RANKED)
    assert metrics["sum of first"] == metrics["i2t/R@1"] + metrics["t2i/R@1"]
    low, high = intervals["sum of first"]
    assert low < metrics["sum of first"] < high


def reciprocal_rank_of_the_first(ranking: RankedRelevance) -> Tensor:
    """(queries,) one in the rank of the first relevant item."""
    return 1 / (ranking.relevant.argmax(1) + 1)


def test_a_new_metric_of_labels_is_an_entry_and_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        Metric(
            name="InverseRank",
            family="label_precision",
            side=side,
            unit=FRACTION,
            function=reciprocal_rank_of_the_first,
        )
        for side in SIDES
    ]
    mean = Metric(
        name="InverseRank",
        family="label_precision",
        unit=FRACTION,
        terms=("i2t/InverseRank", "t2i/InverseRank"),
        combination="mean",
    )
    add(monkeypatch, *entries, mean)
    metrics, intervals = measured(replace(RANKED, families=("label_precision",), primary="InverseRank"))
    order = np.argsort(-(IMAGES @ TEXTS.T).numpy(), axis=1)
    first = (LABELS[OWNER][order] == LABELS[:, None]).argmax(1) + 1
    assert metrics["i2t/InverseRank"] == pytest.approx((1 / first).mean())
    assert metrics["InverseRank"] == (metrics["i2t/InverseRank"] + metrics["t2i/InverseRank"]) / 2
    assert {"i2t/InverseRank", "t2i/InverseRank", "InverseRank"} <= set(intervals)


def test_a_new_metric_of_classes_is_an_entry_and_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Metric(
        name="AP@1",
        family="class_level",
        side="t2i",
        unit=PERCENT,
        function=partial(precision_at, cutoff=1),
    )
    add(monkeypatch, first)
    by_class = replace(RANKED, families=("class_level",), positives="label", primary="t2i/AP@50")
    metrics, intervals = measured(by_class)
    means = np.stack([TEXTS.numpy()[LABELS[OWNER] == label].mean(0) for label in range(4)])
    best = (IMAGES.numpy() @ means.T).argmax(0)
    assert metrics["t2i/AP@1"] == 100 * np.mean(LABELS[best] == np.arange(4))
    assert set(intervals) == set(metrics) == {"t2i/AP@50", "i2t/R@1", "t2i/AP@1"}


def same_length(comparison: CaptionComparison) -> float:
    """The share of captions with as many words as the first reference."""
    pairs: list[Any] = list(zip(comparison.candidates, comparison.references, strict=True))
    return float(np.mean([len(caption.split()) == len(own[0].split()) for caption, own in pairs]))


def test_a_new_metric_of_captions_is_an_entry_and_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    retrieved = Metric(
        name="length",
        family="retrieved_captions",
        unit=PERCENT,
        function=same_length,
        per_query=False,
        caption_rank=2,
    )
    add(monkeypatch, retrieved, replace(retrieved, family="written_captions", caption_rank=1))
    captions = ["A dog.", "Two red cats.", "one horse"]
    quality = retrieved_caption_quality(np.array([[0, 2], [1, 0], [2, 1]]), captions, np.arange(3))
    assert quality["length@2"] == pytest.approx(100 / 3) and "length" not in quality
    written = written_caption_quality(["a cat", "a", "two"], [[caption] for caption in captions])
    assert written["written/length"] == pytest.approx(100 / 3)
