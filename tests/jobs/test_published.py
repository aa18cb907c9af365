"""The transcription of the papers' tables, its checks on load, and what may stand beside our numbers."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib import resources

import pytest
import yaml

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.encoders import Encoders, ImageFacts, TextFacts
from crossmodal_bench.jobs.experiments import names
from crossmodal_bench.jobs.published import (
    METRICS,
    Comparison,
    PublishedRow,
    Setting,
    citations,
    comparison,
    parse,
    published_rows,
)

ROWS = published_rows()
METHODS = set(names("methods"))
RSUM = [f"{direction}/R@{k}" for direction in ("i2t", "t2i") for k in (1, 5, 10)]
SUM = [f"{direction}/R@{k}" for direction in ("i2t", "t2i") for k in (1, 10)]

# The printed averages that are not the mean of the two directions: table, method, backbone, protocol.
WRONG_AVERAGES: dict[tuple[str, str, str | None, str], str] = {
    ("2", "ACMR", "VGG fc7 + BoW", "wikipedia-1300-map"): "0.554",
    ("3", "Bimodal-AE", "VGG fc7 + BoW", "pascal-map"): "0.463",
}

# Rows per table, counted in the papers (a table of two column groups counts twice).
ROW_COUNTS = {
    **{("acmr", "2"): 20, ("acmr", "3"): 16, ("acmr", "4"): 7, ("acmr", "5"): 6},
    **{("gxn", "1"): 8, ("gxn", "2"): 9, ("gxn", "3"): 10, ("gxn", "4"): 2},
    **{("timam", "1"): 9, ("timam", "2"): 9, ("timam", "3"): 18, ("timam", "4"): 6, ("timam", "5"): 4},
    **{("timam", "in-text §4.2"): 4, ("addr", "I"): 15, ("addr", "II"): 16, ("addr", "III"): 8},
}

# Cells read from the papers: paper, table, method, protocol, backbone ("*": any), metric, value.
SIFT, VGG, REGIONS = "SIFT + LDA", "VGG fc7 + BoW", "Faster R-CNN regions"
WIKIPEDIA = "wikipedia-1300-map"
CELLS: list[tuple[str, str, str, str, str | None, str, float | None]] = [
    ("acmr", "2", "CCA", WIKIPEDIA, SIFT, "i2t/mAP", 0.255),
    ("acmr", "2", "JRL", WIKIPEDIA, SIFT, "t2i/mAP", 0.277),
    ("acmr", "2", "CMDN", WIKIPEDIA, SIFT, "mAP", None),
    ("acmr", "2", "CMDN", WIKIPEDIA, VGG, "mAP", 0.458),
    ("acmr", "2", "ACMR", WIKIPEDIA, SIFT, "mAP", 0.322),
    ("acmr", "2", "ACMR", WIKIPEDIA, VGG, "i2t/mAP", 0.619),
    ("acmr", "2", "ACMR", WIKIPEDIA, VGG, "mAP", 0.546),
    ("acmr", "3", "CCA", "pascal-map", VGG, "t2i/mAP", 0.219),
    ("acmr", "3", "CMDN", "nuswide10k-map", VGG, "t2i/mAP", 0.515),
    ("acmr", "3", "ACMR", "pascal-map", VGG, "mAP", 0.539),
    ("acmr", "3", "ACMR", "nuswide10k-map", VGG, "i2t/mAP", 0.544),
    ("acmr", "4", "DVSA", "acmr-coco", None, "mAP", 0.777),
    ("acmr", "4", "DSPE", "acmr-coco", None, "t2i/mAP", 0.869),
    ("acmr", "4", "ACMR", "acmr-coco", VGG, "i2t/mAP", 0.932),
    ("acmr", "5", "ACMR (with L_imi only)", WIKIPEDIA, None, "i2t/mAP", 0.352),
    ("acmr", "5", "ACMR (with L_imd only)", "pascal-map", VGG, "t2i/mAP", 0.453),
    ("acmr", "5", "Full ACMR", WIKIPEDIA, None, "mAP", 0.470),
    ("acmr", "5", "Full ACMR", "pascal-map", VGG, "mAP", 0.511),
    ("gxn", "1", "GRU (VGG19)", "coco-1k-5fold", "VGG-19", "i2t/R@10", 91.4),
    ("gxn", "1", "GXN (ResNet152)", "coco-1k-5fold", "ResNet-152", "t2i/MedR", 2.0),
    ("gxn", "1", "GXN (i2t, mix)", "coco-1k-5fold", "*", "t2i/R@1", 55.6),
    ("gxn", "1", "GXN (t2i)", "coco-1k-5fold", "*", "i2t/R@10", 98.3),
    ("gxn", "2", "GXN (fine-tune)", "coco-1k-5fold", "*", "BLEU-1", 54.6),
    ("gxn", "2", "GXN (i2t+t2i)", "coco-1k-5fold", "*", "CIDEr", 61.1),
    ("gxn", "2", "GXN (i2t+t2i), retrieved caption No. 4", "coco-1k-5fold", "*", "BLEU-4@4", 11.9),
    ("gxn", "3", "m-CNN", "coco-1k-5fold", None, "i2t/R@10", 84.1),
    ("gxn", "3", "DSPE+Fisher Vector", "coco-1k-5fold", None, "i2t/MedR", None),
    ("gxn", "3", "*VSE++ (ResNet152, fine-tune)", "coco-5k", "*", "t2i/MedR", 4.0),
    ("gxn", "3", "GXN (i2t+t2i)", "coco-5k", "*", "sum", 233.0),
    ("gxn", "4", "*VSE++", "flickr30k-1k", "*", "t2i/R@1", 39.6),
    ("gxn", "4", "GXN (i2t+t2i)", "flickr30k-1k", "*", "i2t/R@1", 56.8),
    ("gxn", "4", "GXN (i2t+t2i)", "flickr30k-1k", "*", "t2i/MedR", 2.0),
    ("timam", "1", "deeper LSTM Q+norm I", "cuhk-pedes", None, "t2i/R@1", 17.19),
    ("timam", "1", "CMPM + CMPC", "cuhk-pedes", None, "t2i/R@5", None),
    ("timam", "1", "CAN", "cuhk-pedes", None, "t2i/R@10", 76.98),
    ("timam", "1", "TIMAM", "cuhk-pedes", "ResNet-101 + BERT", "t2i/R@1", 54.51),
    ("timam", "2", "DAN", "flickr30k-1k", "VGG-19", "i2t/R@1", 41.4),
    ("timam", "2", "DAN", "flickr30k-1k", "ResNet-152", "t2i/R@5", 69.2),
    ("timam", "2", "GXN", "flickr30k-1k", "ResNet-152", "i2t/R@5", None),
    ("timam", "2", "TIMAM", "flickr30k-1k", "ResNet-152 + BERT", "t2i/R@10", 81.9),
    ("timam", "3", "Word CNN-RNN", "cub-ap50", None, "i2t/R@1", 56.8),
    ("timam", "3", "Attributes", "flowers-ap50", None, "t2i/AP@50", None),
    ("timam", "3", "TIMAM", "cub-ap50", "*", "t2i/AP@50", 70.3),
    ("timam", "3", "TIMAM", "flowers-ap50", "*", "i2t/R@1", 70.6),
    ("timam", "4", "L_I", "cuhk-pedes", "*", "t2i/R@1", 40.1),
    ("timam", "4", "L_I + L_M + ARL", "cuhk-pedes", "*", "t2i/R@10", 82.4),
    ("timam", "4", "L_I + L_M + BERT", "cuhk-pedes", "*", "t2i/R@1", 52.9),
    ("timam", "5", "TIMAM", "flickr30k-1k", "ResNet-101 + FC-Emb.", "i2t/R@1", 47.9),
    ("timam", "5", "TIMAM", "flickr30k-1k", "ResNet-101 + BERT", "t2i/R@1", 40.6),
    ("timam", "5", "TIMAM", "flickr30k-1k", "ResNet-152 + FC-Emb.", "t2i/R@1", 37.9),
    ("timam", "in-text §4.2", "TIMAM without ARL", "flickr30k-1k", "*", "i2t/R@1", 51.2),
    ("timam", "in-text §4.2", "TIMAM without ARL", "flickr30k-1k", "*", "t2i/R@1", 41.0),
    ("timam", "in-text §4.2", "L_I + L_M + BERT", "cuhk-pedes", "*", "t2i/R@1", 52.97),
    ("addr", "I", "SCAN", "coco-1k-5fold", REGIONS, "rsum", 500.5),
    ("addr", "I", "BFAN", "coco-1k-5fold", REGIONS, "rsum", None),
    ("addr", "I", "Multiple-BFAN", "coco-1k-5fold", REGIONS, "t2i/R@1", 58.4),
    ("addr", "I", "ADDR-VSRN", "coco-1k-5fold", REGIONS, "i2t/R@1", 75.1),
    ("addr", "II", "ADAPT", "coco-1k-5fold", None, "t2i/R@10", 96.0),
    ("addr", "II", "SCAN", "coco-5k", REGIONS, "i2t/R@5", 82.2),
    ("addr", "II", "ADDR-SCAN", "coco-5k", REGIONS, "i2t/R@1", 57.3),
    ("addr", "II", "ADDR-VSRN", "coco-1k-5fold", REGIONS, "rsum", 523.3),
    ("addr", "III", "RDAN", "flickr30k-1k", None, "t2i/R@5", 80.9),
    ("addr", "III", "ADDR-BFAN", "flickr30k-1k", REGIONS, "i2t/R@10", 96.4),
    ("addr", "III", "ADDR-VSRN", "flickr30k-1k", REGIONS, "rsum", 488.6),
]


def as_published(row: PublishedRow) -> Setting:
    """The paper's settings, with encoders that a record would have to agree with the row."""
    assert row.image is not None and row.text is not None
    given = row.image.dim is not None
    image = ImageFacts(
        network=None if given else row.image.network,
        weights=None if given else "of_the_time.pth",
        regions="precomputed" if row.image.count > 1 else None,
        count=row.image.count,
        dim=row.image.dim,
        fine_tuned=row.image.fine_tuned,
    )
    language_model = row.text.encoder == "bert"
    text = TextFacts(
        encoder=row.text.encoder,
        weights="bert-base-uncased" if language_model else None,
        dim=row.text.dim,
        fine_tuned=bool(row.text.fine_tuned),
    )
    return Setting((Encoders(image=image, text=text),), "paper", papers_settings=True)


def compared(
    ours: str, protocol: str, metric: str, *, source: str = "", ensemble: bool = False
) -> Comparison:
    """What stands beside our number, made as the method's first row was, or the first of a source."""
    rows = [row for row in ROWS if row.ours == ours and row.image is not None and source in row.source]
    own = [row for row in rows if row.protocol == protocol]
    setting = as_published((own or rows)[0]) if rows else Setting((), "paper", papers_settings=True)
    return comparison(ours, protocol, metric, replace(setting, ensemble=ensemble))


def label(row: PublishedRow) -> str:
    return f"{row.source} {row.method} {row.protocol}"


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: "-".join(map(str, cell[:4])))
def test_cell_is_the_papers(cell: tuple[str, str, str, str, str | None, str, float | None]) -> None:
    paper, table, method, protocol, backbone, metric, value = cell
    found = [
        row
        for row in ROWS
        if (row.paper, row.table, row.method, row.protocol) == (paper, table, method, protocol)
        and backbone in ("*", row.backbone)
    ]
    assert len(found) == 1
    assert metric in found[0].values
    assert found[0].values[metric] == value


def test_three_cells_of_each_table_are_checked() -> None:
    for paper, table in ROW_COUNTS:
        assert sum(cell[:2] == (paper, table) for cell in CELLS) >= 3, (paper, table)


def test_every_row_of_every_table_is_there() -> None:
    counts: dict[tuple[str, str], int] = {}
    for row in ROWS:
        counts[row.paper, row.table] = counts.get((row.paper, row.table), 0) + 1
    assert counts == ROW_COUNTS


def test_values_have_the_unit_of_their_metric() -> None:
    fractions = {metric for metric in METRICS if "mAP" in metric}
    for row in ROWS:
        for metric, value in row.values.items():
            if value is None:
                continue
            if metric in fractions:
                assert 0 < value < 1, label(row)
            elif metric.endswith("R@1"):
                assert 10 < value < 100, label(row)
            elif metric.endswith("MedR"):
                assert 1 <= value < 10, label(row)
            elif metric in ("rsum", "sum"):
                assert 100 < value < 600, label(row)
            else:
                assert 10 < value < 100, label(row)


def test_recalls_rise_with_k() -> None:
    for row in ROWS:
        for direction in ("i2t", "t2i"):
            recalls = [row.values.get(f"{direction}/R@{k}") for k in (1, 5, 10)]
            printed = [recall for recall in recalls if recall is not None]
            assert printed == sorted(set(printed)), label(row)


def test_averages_are_means_of_the_directions_but_for_two_that_are_noted() -> None:
    wrong = set()
    checked = 0
    for row in ROWS:
        i2t, t2i, mean = (row.values.get(metric) for metric in ("i2t/mAP", "t2i/mAP", "mAP"))
        if i2t is None or t2i is None or mean is None:
            continue
        checked += 1
        if abs(mean - (i2t + t2i) / 2) > 0.0005 + 1e-9:
            key = (row.table, row.method, row.backbone, row.protocol)
            wrong.add(key)
            assert f"{mean:.3f} is not ({i2t:.3f} + {t2i:.3f}) / 2 = {WRONG_AVERAGES[key]}" in row.note
    assert checked == 48
    assert wrong == set(WRONG_AVERAGES)


@pytest.mark.parametrize(("total", "parts", "count"), [("rsum", RSUM, 24), ("sum", SUM, 10)])
def test_sums_are_sums_of_their_recalls(total: str, parts: list[str], count: int) -> None:
    complete = [row for row in ROWS if total in row.values and all(part in row.values for part in parts)]
    assert len(complete) == count
    for row in complete:
        assert row.values[total] == pytest.approx(sum(row.values[part] or 0.0 for part in parts), abs=1e-6)


def test_a_quotation_agrees_with_the_quoted_paper() -> None:
    own = next(row for row in ROWS if (row.ours, row.protocol) == ("gxn", "flickr30k-1k"))
    quoted = next(row for row in ROWS if (row.paper, row.table, row.method) == ("timam", "2", "GXN"))
    assert own.paper == "gxn"
    assert {metric: own.values[metric] for metric in SUM} == {metric: quoted.values[metric] for metric in SUM}


def test_every_row_says_what_it_must() -> None:
    for row in ROWS:
        assert row.ours is None or row.ours in METHODS
        assert METRICS.issuperset(row.values)
        assert row.comparable or row.note
        assert row.caption and row.source.startswith(row.paper.upper())
        assert row.paper in citations()
        assert "  " not in row.note and row.note == row.note.strip()


def test_no_number_is_there_twice() -> None:
    keys = [(row.paper, row.table, row.method, row.protocol, row.backbone) for row in ROWS]
    assert len(set(keys)) == len(keys)


def test_only_methods_of_our_own_have_no_number() -> None:
    published = {row.ours for row in ROWS if any(value is not None for value in row.values.values())}
    assert len(published & METHODS) == 28
    assert {"sm", "acmr_no_adversary", "scan_i2t"} <= METHODS - published


def test_known_facts_are_noted() -> None:
    def notes(paper: str, table: str) -> set[str]:
        return {row.note for row in ROWS if (row.paper, row.table) == (paper, table)}

    for table in ("2", "3", "5"):
        assert all(
            "whether its mAP is over the whole list or the top 50" in note for note in notes("acmr", table)
        )
    assert all("350 labels" in row.note for row in ROWS if row.protocol == "nuswide10k-map")
    assert all("113,287" in row.note for row in ROWS if row.paper == "addr" and row.dataset == "coco")
    assert all(
        "sums of two models' similarities" in note for note in notes("addr", "II") | notes("addr", "III")
    )
    assert not any(row.comparable for row in ROWS if row.table == "4" and row.paper == "acmr")


def test_rows_come_in_the_order_of_their_tables() -> None:
    sources = [row.source for row in ROWS if (row.ours, row.protocol) == ("acmr", WIKIPEDIA)]
    assert sources == [f"ACMR Table 2, {SIFT}", f"ACMR Table 2, {VGG}", "ACMR Table 5"]


def test_rows_are_read_once() -> None:
    assert published_rows() is published_rows()


def test_the_same_protocol_is_set_beside_ours() -> None:
    found = compared("acmr", WIKIPEDIA, "i2t/mAP")
    assert (found.value, found.source, found.reason) == (0.366, f"ACMR Table 2, {SIFT}", None)
    assert "Another draw of the same sizes." in found.note
    assert "Our features are assumed to be the paper's because their number and width match." in found.note
    assert found.also == ()
    apart = [(number.value, number.source, number.kind) for number in found.apart]
    assert apart == [(0.619, f"ACMR Table 2, {VGG}", "features"), (0.509, "ACMR Table 5", "features")]


def test_what_a_paper_prints_twice_is_said() -> None:
    found = compared("acmr", WIKIPEDIA, "i2t/mAP", source=VGG)
    assert (found.value, found.source) == (0.619, f"ACMR Table 2, {VGG}")
    assert found.also == ((0.509, "ACMR Table 5"),)
    assert [number.value for number in found.apart] == [0.366]


def test_an_unclear_map_stands_beside_one_of_ours() -> None:
    assert compared("acmr", "pascal-map", "mAP").value == 0.539
    at_50 = compared("acmr", "pascal-map", "mAP@50")
    assert (at_50.value, at_50.apart) == (None, ())


@pytest.mark.parametrize("row", [row for row in ROWS if row.ours], ids=label)
def test_a_number_stands_beside_one_that_was_made_as_it_was(row: PublishedRow) -> None:
    for metric, value in row.values.items():
        if value is None:
            continue
        if not row.comparable:
            papers = Setting((), "paper", papers_settings=True)
            nothing = comparison(str(row.ours), row.protocol, metric, papers, label=row.label)
            assert (nothing.value, nothing.apart) == (None, ()) and row.note in str(nothing.reason)
            continue
        assert row.image is not None and row.text is not None and row.ensemble is not None
        alike = replace(as_published(row), ensemble=row.ensemble)
        beside = comparison(str(row.ours), row.protocol, metric, alike, label=row.label)
        assert value in (beside.value, *(number for number, _ in beside.also))
        for other in (
            replace(alike, ensemble=not row.ensemble),
            replace(alike, preset="small", papers_settings=False),
            replace(alike, overrides=("trainer.max_epochs",)),
            replace(alike, encoders=()),
        ):
            beside = comparison(str(row.ours), row.protocol, metric, other, label=row.label)
            assert row.source not in (beside.source, *(source for _, source in beside.also))
            assert (value, row.source) in [(number.value, number.source) for number in beside.apart]


def test_a_papers_own_number_goes_before_a_quotation() -> None:
    assert compared("gxn", "flickr30k-1k", "i2t/R@1").source == "GXN Table 4, ResNet-152, fine-tuned"
    assert compared("gxn", "flickr30k-1k", "t2i/R@1").value == 41.5


@pytest.mark.parametrize(
    ("ours", "protocol", "metric", "reason"),
    [
        ("acmr", "wikipedia-2173-map", "mAP", "not comparable: the paper's split is 1,300/1,566"),
        ("gxn", "flickr30k-test", "i2t/R@1", "not comparable: the published protocol is flickr30k-1k"),
        ("timam", "cuhk_pedes-test", "t2i/R@1", "not comparable: the published protocol is cuhk-pedes"),
        (
            "addr_scan",
            "coco-test",
            "rsum",
            "not comparable: the published protocol is coco-1k-5fold or coco-5k",
        ),
        ("acmr", "acmr-coco", "mAP", "not comparable: The table says mAP, but its baselines are R@10"),
        (
            "scan",
            "flickr30k-1k",
            "i2t/R@1",
            "not comparable: ours: a single model; theirs: an ensemble",
        ),
        ("timam", "flickr8k-1k", "i2t/R@1", "not published: no table has timam on this data set"),
        ("mine", "flickr30k-1k", "i2t/R@1", "not published: no table has mine on this data set"),
        ("gxn", "coco-5k", "i2t/R@5", "not published: no table has i2t/R@5 of gxn under coco-5k"),
    ],
)
def test_no_number_stands_beside_ours_without_a_reason(
    ours: str, protocol: str, metric: str, reason: str
) -> None:
    found = compared(ours, protocol, metric)
    assert found.value is None and found.source is None
    assert found.reason is not None and found.reason.startswith(reason)


def test_ensembles_are_compared_with_ensembles() -> None:
    single = compared("addr_scan", "coco-1k-5fold", "i2t/R@1")
    both = compared("addr_scan", "coco-1k-5fold", "i2t/R@1", ensemble=True)
    assert (single.value, both.value) == (74.8, 76.1)
    assert [number.value for number in single.apart] == [76.1]
    gxn = compared("gxn", "flickr30k-1k", "i2t/R@1", ensemble=True)
    assert gxn.reason == "not comparable: ours: an ensemble; theirs: a single model"
    assert [number.heading for number in gxn.apart] == ["published, with other settings"] * 2


def test_only_a_named_protocol_has_the_nearest_rows_of_another_listed_apart() -> None:
    official = compared("acmr", "wikipedia-2173-map", "mAP")
    assert [(number.value, number.heading) for number in official.apart] == [
        (0.322, "published, under another protocol")
    ]
    assert official.apart[0].differs == "ours: wikipedia-2173-map; theirs: wikipedia-1300-map"
    for protocol in ("flickr30k-test", "flickr30k-test (split unverified)"):
        assert compared("timam", protocol, "i2t/R@1").apart == ()


def test_a_lower_captions_quality_is_not_the_first_ones() -> None:
    found = compared("gxn", "coco-1k-5fold", "BLEU-1")
    assert (found.value, found.also, found.apart) == (57.1, (), ())


SMALL = """
papers: {p: {name: P, year: 2020, citation: c}}
protocols: {flickr30k-1k: {dataset: flickr30k}}
tables:
  - paper: p
    table: "1"
    caption: c
    protocol: flickr30k-1k
    columns: [i2t/R@1, t2i/R@1]
    backbone: VGG
    image: {network: vgg19, fine_tuned: false}
    text: {encoder: gru}
    ensemble: false
    note: Outer.
    groups:
      - rows:
          - {method: A, ours: scan, note: Inner., values: [1, null]}
          - {method: B, backbone: null, image: null, text: null, values: [3.0, 4.0]}
"""


def test_rows_inherit_from_group_and_table() -> None:
    first, second = parse(SMALL, "small.yaml").rows
    assert (first.ours, first.backbone, first.note) == ("scan", "VGG", "Outer. Inner.")
    assert first.values == {"i2t/R@1": 1.0, "t2i/R@1": None}
    assert (second.ours, second.backbone, second.note, second.source) == (None, None, "Outer.", "P Table 1")
    assert first.image is not None and first.text is not None
    assert (first.image.text, first.text.text) == ("VGG-19 (frozen)", "GRU")
    assert (second.image, second.text) == (None, None)


def test_rows_come_in_the_order_of_the_papers_years() -> None:
    later = yaml.safe_load(SMALL)
    later["papers"]["q"] = {"name": "Q", "year": 2019, "citation": "c"}
    later["tables"].append({**later["tables"][0], "paper": "q"})
    assert [row.paper for row in parse(yaml.safe_dump(later), "small.yaml").rows] == ["q", "q", "p", "p"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("values: [1, null]", "values: [1]", "row 'A': field 'values' has 1 entries for 2 columns"),
        (
            "values: [1, null]",
            "values: [1, '-']",
            "rows[0].values[1]' (table '1', method 'A') is '-'; it must be a number",
        ),
        (
            "values: [1, null]",
            "values: [1, true]",
            "rows[0].values[1]' (table '1', method 'A') is True; it must be a number",
        ),
        ("values: [1, null]", "values: 1", "rows[0].values' (table '1', method 'A') is 1; it must be a list"),
        ("ours: scan", "our: scan", ".our' (table '1', method 'A') is unknown; did you mean 'ours'"),
        (
            "i2t/R@1",
            "i2t/R@2",
            "'tables[0].columns[0]' (table '1') has the unknown name 'i2t/R@2'; did you mean",
        ),
        (
            "protocol: flickr30k-1k",
            "protocol: flickr30k",
            "field 'protocol' has the unknown name 'flickr30k'",
        ),
        ("ensemble: false", "ensemble: no idea", ".ensemble' (table '1') is 'no idea'; it must be true or"),
        ("    ensemble: false\n", "", "row 'A': field 'ensemble' is missing"),
        ("    backbone: VGG\n", "", "row 'A': field 'backbone' is missing"),
        ("    caption: c\n", "", "field 'tables[0].caption' (table '1') is missing; add it"),
        ('table: "1"', "table: 1", "field 'tables[0].table' is 1; it must be text"),
        ("paper: p", "paper: x", "field 'paper' has the unknown name 'x'; choose one of p"),
        ("year: 2020", "year: soon", "field 'papers.p.year' is 'soon'"),
        ("note: Outer.", "could_mean: {mAP: i2t/mAP}", "could_mean' (table '1') is unknown"),
        ("    image: {network: vgg19, fine_tuned: false}\n", "", "row 'A': field 'image' is missing"),
        ("    text: {encoder: gru}\n", "", "row 'A': field 'text' is missing"),
        ("network: vgg19, f", "network: vgg20, f", "image.network' (table '1') is 'vgg20'; it must be"),
        ("network: vgg19, f", "networks: vgg19, f", "image.networks' (table '1') is unknown; did you mean"),
        (", fine_tuned: false}", "}", "image.fine_tuned' (table '1') is missing"),
        ("network: vgg19, f", "network: sift, f", "image.dim' (table '1') is missing; add the width"),
        ("{encoder: gru}", "{encoder: lda}", "text.dim' (table '1') is missing; add the width"),
        ("{encoder: gru}", "{encoder: bert}", "text.fine_tuned' (table '1') is missing; say whether"),
        ("{encoder: gru}", "GRU", "text' (table '1') is 'GRU'; it must be keys and values"),
        (
            "{method: B,",
            "{method: B, comparable: 0,",
            "rows[1].comparable' (table '1', method 'B') is 0; it must be true or false",
        ),
        ("note: Outer.", "comparable: false", "row 'B': field 'note' is missing; say why"),
        ("{method: B, backbone: null,", "{method: A,", "row 'A': field 'method' occurs twice"),
        ("- rows:", "- lines:", "field 'tables[0].groups[0].lines' (table '1') is unknown"),
        ("tables:", "table:", "field 'table' is unknown; did you mean 'tables'"),
        ("papers: {", "papers: [", "small.yaml is not valid YAML"),
        (
            "groups:\n      - rows:",
            "groups:\n      - 3\n      - rows:",
            "field 'tables[0].groups[0]' (table '1') is 3; it must be keys and values",
        ),
    ],
)
def test_a_faulty_file_is_refused_with_the_row_and_the_field(old: str, new: str, message: str) -> None:
    assert old in SMALL
    with pytest.raises(BadInput, match=re.escape(message)) as caught:
        parse(SMALL.replace(old, new, 1), "small.yaml")
    assert str(caught.value).startswith("small.yaml")


def test_the_file_lies_in_the_package() -> None:
    text = (resources.files("crossmodal_bench.jobs") / "published.yaml").read_text(encoding="utf-8")
    assert len(parse(text, "published.yaml").rows) == sum(ROW_COUNTS.values())
