from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import pytest
from answered import Answered
from scipy import stats

from crossmodal_bench.evaluation.statistics.intervals import intervals
from crossmodal_bench.jobs import experiments
from crossmodal_bench.jobs.published import Comparison, published_rows
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.rows.leaderboard import features_text, leaderboard, tables
from crossmodal_bench.reporting.tables.layout import title

Maker = Callable[..., Record]


def encoders(text: str, **image: object) -> list[dict[str, object]]:
    """What a record says of its encoders."""
    return [{"image": image, "text": {"encoder": text, "fine_tuned": True}}]


REGIONS = {"network": "precomputed", "regions": "precomputed", "count": 36, "dim": 2048}


def with_features(record: Record, features: dict[str, object]) -> Record:
    """The record as if its features had been made by something else."""
    return record.model_copy(update={"data": record.data.model_copy(update={"features": features})})


def test_seeds_become_one_row_with_mean_and_interval_and_its_parts(make_recall_record: Maker) -> None:
    values = [90.0, 96.0, 93.0]
    records = [
        make_recall_record(seed=seed, metrics={"rsum": value}, intervals={"rsum": [value - 4, value + 4]})
        for seed, value in enumerate(values)
    ]
    (row,) = leaderboard(records)
    cell = row.cells["rsum"]
    assert row.seeds == (0, 1, 2)
    assert cell.n == 3
    assert cell.mean == pytest.approx(93.0)
    assert cell.target == "method"
    assert cell.items_error == pytest.approx(4 / stats.norm.ppf(0.975))
    assert cell.seeds_error == pytest.approx(statistics.stdev(values) / math.sqrt(3))
    error = math.hypot(cell.items_error or 0, cell.seeds_error or 0)
    assert cell.half_width is not None and cell.half_width > stats.norm.ppf(0.975) * error
    assert (cell.low, cell.high) == pytest.approx((93 - cell.half_width, 93 + cell.half_width))
    assert row.cost["train_seconds"] == pytest.approx(12.5)


def test_seeds_alone_give_the_t_interval_and_say_so(make_recall_record: Maker) -> None:
    values = [90.0, 96.0, 93.0]
    records = [
        make_recall_record(seed=seed, metrics={"rsum": value}, intervals={})
        for seed, value in enumerate(values)
    ]
    cell = leaderboard(records)[0].cells["rsum"]
    assert cell.target == "seeds" and cell.items_error is None
    assert cell.half_width == pytest.approx(stats.t.ppf(0.975, 2) * statistics.stdev(values) / math.sqrt(3))


def test_one_seed_has_an_interval_over_images_alone(make_record: Maker) -> None:
    (row,) = leaderboard([make_record(method="cca")])
    cell = row.cells["mAP"]
    assert (cell.n, cell.target, cell.seeds_error) == (1, "model", None)
    assert (cell.low, cell.high) == pytest.approx((0.43, 0.49))
    assert cell.half_width == pytest.approx(0.04), "the longer side"


def test_one_seed_without_an_interval_has_none(make_record: Maker) -> None:
    cell = leaderboard([make_record(method="cca", intervals={})])[0].cells["mAP"]
    assert (cell.low, cell.high, cell.half_width, cell.target) == (None, None, None, None)


def test_the_variance_over_images_is_a_typical_runs(make_record: Maker) -> None:
    bounds = ({"mAP": [0.2, 0.4]}, {"mAP": [0.3, 0.6]}, {})
    (row,) = leaderboard([make_record(seed=seed, intervals=bound) for seed, bound in enumerate(bounds)])
    variance = (0.1**2 + 0.15**2) / 2 / stats.norm.ppf(0.975) ** 2
    assert row.cells["mAP"].items_error == pytest.approx(math.sqrt(variance))
    assert row.cells["i2t/mAP"].target == "seeds"


def test_intervals_are_those_of_the_queries_where_these_are_known(answered: Answered) -> None:
    records = [answered(0.3, method="scan", seed=seed) for seed in (0, 1, 2)]
    (table,) = answered.tables(records)
    (row,) = table.rows
    known = intervals([answered.read(record) for record in records])
    assert set(known) < set(row.cells) and row.results.missing == ""
    for metric in known:
        cell = row.cells[metric]
        assert cell.mean == pytest.approx(known[metric].value)
        assert (cell.low, cell.high) == (known[metric].low, known[metric].high)
        assert (cell.target, cell.n) == ("method", 3)
        assert cell.seeds_error == known[metric].seeds_error
    (table,) = answered.tables(records[:1])
    cell = table.rows[0].cells["rsum"]
    assert (cell.target, cell.seeds_error) == ("model", None)


def test_results_that_do_not_give_the_records_numbers_do_not_count(answered: Answered) -> None:
    record = answered(0.3, method="scan")
    moved = record.model_copy(update={"metrics": {**record.metrics, "i2t/R@1": 99.0}})
    (row,) = leaderboard([moved], answered.read)
    assert row.results.runs == () and row.results.missing == "they do not give the record's i2t/R@1"
    assert row.cells["i2t/R@1"].target is None


def test_a_seed_without_results_leaves_the_row_to_its_records(
    answered: Answered, make_recall_record: Maker
) -> None:
    records = [answered(0.3, method="scan"), make_recall_record(method="scan", seed=1)]
    (row,) = leaderboard(records, answered.read)
    assert row.results.missing == "there is no file of them"
    assert (row.cells["rsum"].n, row.cells["rsum"].target) == (2, "method")


def test_the_set_of_the_best_is_what_is_not_significantly_behind_the_first(answered: Answered) -> None:
    records = [answered(share, own=0.5, method="scan", label=str(share)) for share in (0.3, 0.305, 0.15)]
    records += [answered(0.31, own=0.5, method="cca", preset="paper")]
    (table,) = answered.tables(records)
    methods = [(row.preset, row.label) for row in table.rows]
    assert methods == [("paper", ""), ("small", "0.305"), ("small", "0.3"), ("small", "0.15")]
    assert table.tested == (0, 1, 2, 3) and len(table.pairs) == 6
    behind = {pair.second for pair in table.pairs if pair.first == table.first and pair.adjusted_p < 0.05}
    assert table.first == 0 and 3 in behind
    assert table.best_set == {0, 1, 2, 3} - behind and len(table.best_set) > 1


def test_equal_methods_are_all_among_the_best(answered: Answered) -> None:
    records = [
        answered(0.3, own=0.5, method=method, seed=seed)
        for method in ("scan", "cca", "vse")
        for seed in (0, 1, 2)
    ]
    (table,) = answered.tables(records)
    assert table.best_set == {0, 1, 2}


def test_only_rows_that_answered_the_same_queries_are_tested(
    answered: Answered, make_recall_record: Maker
) -> None:
    data = {**make_recall_record().content["data"], "split_hash": "6" * 16}
    records = [
        answered(0.3, method="scan"),
        answered(0.2, method="cca"),
        answered(0.2, method="vse", images=199),
        answered(0.2, method="bfan", data=data),
        make_recall_record(method="gru", by=-9),
    ]
    (table,) = answered.tables(records)
    assert [table.rows[position].method for position in table.tested] == ["scan", "cca"]
    assert [(pair.first, pair.second) for pair in table.pairs] == [table.tested]


def test_where_the_first_cannot_be_tested_nothing_is_marked(
    answered: Answered, make_recall_record: Maker
) -> None:
    unknown = make_recall_record(method="gru", metrics={"rsum": 500.0})
    records = [answered(0.1, method="scan"), unknown]
    (table,) = answered.tables(records)
    assert table.first == 0 and table.rows[0].method == "gru"
    assert table.tested == () and table.best_set == frozenset()


def test_a_metric_that_a_seed_lacks_is_averaged_over_the_others(make_record: Maker) -> None:
    records = [
        make_record(seed=0, metrics={"mAP": 0.4, "mAP@50": 0.6}),
        make_record(seed=1, metrics={"mAP": 0.5}),
    ]
    (row,) = leaderboard(records)
    assert (row.cells["mAP"].n, row.cells["mAP@50"].n) == (2, 1)
    assert "i2t/mAP" not in row.cells


@pytest.mark.parametrize(
    "change",
    [
        {"preset": "paper"},
        {"method": "cca"},
        {"label": "wide"},
        {"overrides": {"model.init_args.alpha": 0.1}},
        {"protocol": "wikipedia-1300-map"},
        {"dataset": "pascal"},
        {"evaluated_on": "val"},
        {"protocol_version": 2},
        {"resembles": "wikipedia-2173-map"},
    ],
)
def test_what_differs_in_more_than_the_seed_is_another_row(
    make_record: Maker, change: dict[str, object]
) -> None:
    rows = leaderboard([make_record(seed=0), make_record(seed=1), make_record(seed=0, **change)])
    assert sorted(len(row.seeds) for row in rows) == [1, 2]
    own_table = bool({"protocol", "dataset", "evaluated_on", "protocol_version", "resembles"} & change.keys())
    assert len(tables(rows)) == (2 if own_table else 1)


def test_a_seed_counts_once_and_the_last_one_finished_counts(make_record: Maker) -> None:
    old = make_record(id="a" * 16, suite="one", metrics={"mAP": 0.1}, finished_at="2026-01-01T00:00:00+00:00")
    new = make_record(id="b" * 16, suite="two", metrics={"mAP": 0.9}, finished_at="2026-01-02T00:00:00+00:00")
    for order in ([old, new], [new, old]):
        (row,) = leaderboard(order)
        assert row.cells["mAP"].n == 1
        assert row.cells["mAP"].mean == 0.9


def test_protocols_never_share_a_table_not_even_one_runs(make_recall_record: Maker) -> None:
    also = {
        "coco-1k-5fold": {"protocol_version": 1, "metrics": {"rsum": 400.0}, "intervals": {}, "curves": {}}
    }
    record = make_recall_record(dataset="coco", protocol="coco-5k", metrics={"rsum": 300.0}, also=also)
    found = tables(leaderboard([record]))
    assert [(table.protocol, table.rows[0].cells["rsum"].mean) for table in found] == [
        ("coco-1k-5fold", 400.0),
        ("coco-5k", 300.0),
    ]


def test_a_table_says_which_version_and_whether_the_split_is_verified(make_recall_record: Maker) -> None:
    numbers = {"metrics": {"rsum": 400.0}, "intervals": {}, "curves": {}}
    also = {"coco-test-5fold": {**numbers, "protocol_version": 2, "resembles": "coco-1k-5fold"}}
    words = {"dataset": "coco", "protocol": "coco-5k"}
    records = [
        make_recall_record(**words, also=also),
        make_recall_record(**words, seed=1, protocol_version=2),
    ]
    assert [title(table) for table in tables(leaderboard(records))] == [
        "coco · coco-5k@1 · test · ranked by rsum",
        "coco · coco-5k@2 · test · ranked by rsum",
        "coco · coco-test-5fold@2 (split unverified) · test · ranked by rsum",
    ]


def test_rows_stand_by_preset_then_best_first_and_the_best_of_all_is_known(
    make_recall_record: Maker,
) -> None:
    records = [
        make_recall_record(method="cca", by=-5),
        make_recall_record(method="scan", by=5),
        make_recall_record(method="vse", by=1),
        make_recall_record(method="gru", preset="paper", by=0),
        make_recall_record(method="bfan", metrics={"i2t/R@1": 99.0}),
    ]
    rows = leaderboard(records)
    assert [row.method for row in rows] == ["gru", "scan", "vse", "cca", "bfan"]
    (table,) = tables(rows)
    assert table.first == 1
    assert {row.primary for row in rows} == {"rsum"}


def test_a_protocol_is_ranked_by_its_own_metric(make_record: Maker) -> None:
    both = {"rsum": 100.0, "mAP": 0.1}, {"rsum": 50.0, "mAP": 0.2}
    records = [
        make_record(method=name, metrics=metrics) for name, metrics in zip(("cca", "sm"), both, strict=True)
    ]
    assert [row.method for row in leaderboard(records)] == ["sm", "cca"]
    own = [
        make_record(method=name, metrics=metrics, dataset="mine", protocol="mine-test")
        for name, metrics in zip(("cca", "sm"), both, strict=True)
    ]
    assert [row.method for row in leaderboard(own)] == ["cca", "sm"]


@pytest.mark.parametrize(
    ("dataset", "protocol", "primary"),
    [
        ("cuhk_pedes", "cuhk-pedes", "t2i/R@1"),
        ("cuhk_pedes", "cuhk_pedes-test", "t2i/R@1"),
        ("cub", "cub-ap50", "t2i/AP@50"),
        ("flowers", "flowers-test", "t2i/AP@50"),
    ],
)
def test_persons_and_species_are_ranked_by_their_own_metric(
    make_record: Maker, dataset: str, protocol: str, primary: str
) -> None:
    own = {"dataset": dataset, "protocol": protocol, "intervals": {}}
    records = [
        make_record(method=name, metrics={primary: value, "i2t/R@1": 50 - value, "rsum": 200 - value}, **own)
        for name, value in (("cca", 10.0), ("timam", 20.0))
    ]
    rows = leaderboard(records)
    (table,) = tables(rows)
    assert table.first == 0 and rows[0].method == "timam"
    assert table.primary == primary
    assert table.metrics == ["i2t/R@1", primary, "rsum"]


def test_rank_metrics_are_best_when_low(make_record: Maker) -> None:
    own = {"dataset": "mine", "protocol": "mine-test", "intervals": {}}
    records = [
        make_record(method=name, metrics={"i2t/MedR": r}, **own) for name, r in (("cca", 9.0), ("sm", 2.0))
    ]
    (table,) = tables(leaderboard(records))
    assert [row.method for row in table.rows] == ["sm", "cca"] and table.first == 0


def test_the_papers_number_stands_only_where_it_is_comparable(make_record: Maker) -> None:
    comparable = {"protocol": "wikipedia-1300-map", "preset": "paper"}
    (row,) = leaderboard([make_record(**comparable)])
    assert row.published.value == 0.322
    assert row.published.source == "ACMR Table 2, SIFT + LDA"
    for change in (
        {"protocol": "wikipedia-2173-map"},
        {"evaluated_on": "val"},
        {"overrides": {"model.init_args.alpha": 1}},
    ):
        (row,) = leaderboard([make_record(**(comparable | change))])
        assert row.published.value is None
        assert "not comparable" in str(row.published.reason)


def test_a_suites_row_stands_beside_its_own_published_row(make_record: Maker) -> None:
    def published(label: str, **more: object) -> Comparison:
        overrides = experiments.overrides_of("timam_table4", "timam_no_adversary", label)
        assert overrides
        (row,) = leaderboard(
            [
                make_record(
                    method="timam_no_adversary",
                    dataset="cuhk_pedes",
                    protocol="cuhk-pedes",
                    preset="paper",
                    suite="timam_table4",
                    label=label,
                    overrides={**overrides, **more},
                    encoders=encoders("bilstm", network="resnet101", weights="r.pth", fine_tuned=True),
                    metrics={"t2i/R@1": 30.0},
                    intervals={},
                )
            ]
        )
        return row.cells["t2i/R@1"].published

    assert [published(label).value for label in ("L_I", "L_M", "L_I + L_M")] == [40.1, 44.9, 49.8]
    changed = published("L_I", **{"trainer.max_epochs": 1})
    assert changed.value is None and "overrides change" in str(changed.reason)


def test_every_label_of_the_papers_numbers_is_a_suites() -> None:
    rows = [
        one for name in experiments.names("suites") for one in experiments.suite_rows(experiments.suite(name))
    ]
    known = {(row.method, row.label) for row in rows}
    labelled = {(row.ours, row.label) for row in published_rows() if row.label}
    assert len(labelled) == 11 and labelled <= known


def test_addrs_base_row_is_each_hosts_own(make_recall_record: Maker) -> None:
    def published(method: str) -> float | None:
        coco = {"dataset": "coco", "protocol": "coco-1k-5fold", "preset": "paper", "suite": "addr_table1"}
        own = {
            "overrides": experiments.overrides_of("addr_table1", method, "base"),
            "encoders": encoders("gru" if method == "vsrn" else "bigru", **REGIONS),
        }
        (row,) = leaderboard([make_recall_record(method=method, label="base", **own, **coco)])
        return row.cells["rsum"].published.value

    assert [published(method) for method in ("scan", "bfan_prob", "vsrn")] == [500.6, 504.8, 506.6]


def _summed(make: Maker, members: list[tuple[str, int, dict[str, object]]], **changes: object) -> Comparison:
    ensemble = [
        {
            "id": f"{at}" * 16,
            "method": method,
            "seed": seed,
            "overrides": overrides,
            "directory": f"coco/{method}/{at}",
            "finished_at": "2026-01-01T00:00:00+00:00",
        }
        for at, (method, seed, overrides) in enumerate(members)
    ]
    coco = {"dataset": "coco", "protocol": "coco-5k", "preset": "paper", "label": "ensemble of two"}
    own = encoders("gru" if changes["method"] == "vsrn" else "bigru", **REGIONS)
    (row,) = leaderboard([make(**{**coco, "ensemble": ensemble, "encoders": own, **changes})])
    return row.cells["rsum"].published


def test_an_ensemble_stands_beside_the_papers_only_as_the_suites(make_recall_record: Maker) -> None:
    def published(*members: tuple[str, int, dict[str, object]], **changes: object) -> Comparison:
        return _summed(make_recall_record, list(members), **changes)

    t2i, i2t = ("scan", 1, {}), ("scan_i2t", 1, {})
    assert published(t2i, i2t, method="scan").value == published(i2t, t2i, method="scan").value == 410.9
    assert published(("vsrn", 0, {}), ("vsrn", 1, {}), method="vsrn").value == 415.7
    fold = {"protocol": "coco-1k-5fold", "method": "scan"}
    assert published(t2i, i2t, **fold).value == 507.9
    for members, changes in (
        ((t2i, ("scan_i2t", 2, {})), {}),
        ((t2i, ("scan", 2, {})), {}),
        ((t2i, ("scan_i2t", 1, {"trainer.max_epochs": 1})), {}),
        ((t2i, i2t, ("bfan", 1, {})), {}),
        ((t2i, i2t), {"method": "scan+scan_i2t"}),
        ((t2i, i2t), {"dataset": "flickr8k", "protocol": "flickr8k-1k"}),
    ):
        found = published(*members, **{"method": "scan", **changes})
        assert found.value is None and "no suite defines this ensemble" in str(found.reason)
    small = published(t2i, i2t, method="scan", preset="small")
    assert small.value is None and "preset small" in str(small.reason)


def test_an_ensemble_and_a_single_model_are_never_one_row(make_recall_record: Maker) -> None:
    member = {"id": "a", "method": "acmr", "seed": 0, "overrides": {}, "directory": "x", "finished_at": "y"}
    records = [
        make_recall_record(seed=0, label="same"),
        make_recall_record(seed=1, label="same"),
        make_recall_record(id="e" * 16, seed=0, label="same", ensemble=[member, {**member, "id": "b"}]),
    ]
    rows = leaderboard(records)
    assert sorted((row.ensemble, row.seeds) for row in rows) == [(False, (0, 1)), (True, (0,))]


@pytest.mark.parametrize("kind", ["grid", "detector"])
def test_regions_of_ones_own_never_stand_beside_bottom_up_ones(make_recall_record: Maker, kind: str) -> None:
    def published(metric: str = "rsum", **changes: object) -> Comparison:
        coco = {"dataset": "coco", "protocol": "coco-1k-5fold", "preset": "paper", "method": "addr_scan"}
        record = make_recall_record(**{**coco, **changes})
        return leaderboard([record])[0].cells[metric].published

    own = encoders("bigru", network="resnet152", weights="r.pth", regions=kind, count=36, dim=2048)
    given = encoders("bigru", **REGIONS)
    assert published(encoders=given).value == 509.5
    for found in (published(encoders=own), published(encoders=[*given, *own])):
        assert found.value is None
        assert f"36 {kind} regions of ResNet-152 (frozen)" in str(found.reason)
        assert "theirs: 36 bottom-up regions of width 2048" in str(found.reason)
    other = published("sum", method="gxn", metrics={"sum": 300.0}, encoders=own)
    assert "theirs: ResNet-152 (fine-tuned)" in str(other.reason)
    nothing = published(dataset="flickr8k", protocol="flickr8k-1k", encoders=own)
    assert "not published" in str(nothing.reason) and nothing.apart == ()


def test_names_tell_rows_apart(make_record: Maker) -> None:
    rows = leaderboard(
        [
            make_record(),
            make_record(label="wide"),
            make_record(overrides={"model.init_args.alpha": 0.1, "model.init_args.beta": 2}),
        ]
    )
    assert {row.name for row in rows} == {"acmr", "acmr (wide)", "acmr (alpha=0.1, beta=2)"}


def test_features_inside_the_model_and_squashed_pictures_are_said(make_record: Maker) -> None:
    source = {"network": "resnet101", "weights": "w.pth", "weights_sha256": "ab", "image_size": 224}
    record = make_record()
    changed = with_features(record, {**source, "image_fit": "crop"})
    assert features_text(changed) == "resnet101, weights w.pth (sha256 ab), 224 px"
    inside = {**source, "image_fit": "squash", "inside_the_model": True}
    changed = with_features(record, inside)
    assert (
        features_text(changed) == "resnet101, weights w.pth (sha256 ab), 224 px, squashed, inside the model"
    )


def test_regions_are_said_with_what_made_them(make_record: Maker) -> None:
    def text(**features: object) -> str:
        record = make_record()
        return features_text(with_features(record, features))

    source = {"weights": "w.pth", "weights_sha256": "ab", "count": 36, "dim": 1280}
    grid = {**source, "network": "mobilenet_v2", "regions": "grid", "image_size": 224, "image_fit": "crop"}
    assert text(**grid) == "36 grid regions of mobilenet_v2, weights w.pth (sha256 ab), 224 px"
    found = {**source, "network": "frcnn", "regions": "detector", "image_size": None, "image_fit": None}
    assert text(**found) == "36 detector regions of frcnn, weights w.pth (sha256 ab)"
    given = {"regions": "precomputed", "count": 36, "dim": 2048, "weights": "f30k_precomp"}
    pooled = {**grid, "regions": None, "count": 1}
    assert text(**given) == "36 precomputed regions of f30k_precomp, 2048 wide"
    both = text(**given, pooled=pooled)
    assert both == f"{text(**given)}, and mobilenet_v2, weights w.pth (sha256 ab), 224 px"
