"""Which published numbers stand beside ours: the wrong neighbours that were seen, and right ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from crossmodal_bench.evaluation.metric_table import formatted
from crossmodal_bench.jobs import experiments
from crossmodal_bench.jobs.published import Comparison
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.charts.collection import collect
from crossmodal_bench.reporting.report import html
from crossmodal_bench.reporting.rows.leaderboard import leaderboard, tables
from crossmodal_bench.reporting.table import frame, shown_tables
from crossmodal_bench.reporting.tables.layout import notes
from crossmodal_bench.reporting.tables.markdown import markdown
from crossmodal_bench.reporting.tables.shown import show

Maker = Callable[..., Record]
Side = dict[str, Any]

V1 = "resnet152_imagenet1k_v1.pth"
SIFT, LDA = {"network": None, "dim": 128}, {"encoder": None, "dim": 10}
FC7, BOW = {"network": None, "dim": 4096}, {"encoder": None, "dim": 3000}
BOW_1000 = {"encoder": None, "dim": 1000}
BOTTOM_UP = {
    "network": "precomputed",
    "weights": "f30k_precomp",
    "regions": "precomputed",
    "count": 36,
    "dim": 2048,
}
RESNET_152 = {"network": "resnet152", "weights": V1, "dim": 2048, "fine_tuned": True}
RESNET_101 = {**RESNET_152, "network": "resnet101"}
VGG_19 = {"network": "vgg19", "weights": "vgg19_imagenet1k_v1.pth", "dim": 4096}
MOBILENET = {"network": "mobilenet_v2", "weights": "mobilenet_v2_x.pth", "dim": 1280}
BERT = {"encoder": "bert", "weights": "bert-base-uncased", "fine_tuned": True}
WORDS = {"encoder": "words", "fine_tuned": True}
GRU = {"encoder": "gru", "fine_tuned": True}
BIGRU = {"encoder": "bigru", "fine_tuned": True}
BILSTM = {"encoder": "bilstm", "fine_tuned": True}


class Case(NamedTuple):
    """One of our numbers, and the published one that is looked for."""

    method: str
    dataset: str
    protocol: str
    image: Side
    text: Side
    metric: str
    value: float
    preset: str = "paper"
    suite: str | None = None
    label: str = ""
    members: tuple[tuple[str, int], ...] = ()


def made(make: Maker, case: Case, **changes: Any) -> Record:
    """The record of a case."""
    ensemble = [
        {
            "id": f"{at}" * 16,
            "method": method,
            "seed": seed,
            "overrides": {},
            "directory": f"{case.dataset}/{method}/{at}",
            "finished_at": "2026-01-01T00:00:00+00:00",
        }
        for at, (method, seed) in enumerate(case.members)
    ]
    return make(
        **{
            "method": case.method,
            "dataset": case.dataset,
            "protocol": case.protocol,
            "preset": case.preset,
            "suite": case.suite,
            "label": "ensemble of two" if ensemble else case.label,
            "overrides": experiments.overrides_of(case.suite, case.method, case.label),
            "encoders": [{"image": case.image, "text": case.text}],
            "metrics": {case.metric: 0.5},
            "intervals": {},
            "curves": {},
            "ensemble": ensemble,
            **changes,
        }
    )


def beside(record: Record, metric: str) -> Comparison:
    """What stands beside the record's number."""
    (row,) = leaderboard([record])
    return row.cells[metric].published


WIKIPEDIA = "wikipedia-1300-map"
FLICKR = "flickr30k-1k"
COCO = "coco-1k-5fold"

CCA = Case("cca", "wikipedia", WIKIPEDIA, SIFT, LDA, "mAP", 0.220)
CCA_PASCAL = Case("cca", "pascal_sentence", "pascal-map", FC7, BOW_1000, "mAP", 0.291)
ACMR = Case("acmr", "wikipedia", WIKIPEDIA, SIFT, LDA, "mAP", 0.322)
SCAN = Case("scan", "coco", COCO, BOTTOM_UP, BIGRU, "i2t/R@1", 70.9)
SCAN_BASE = Case("scan", "coco", COCO, BOTTOM_UP, BIGRU, "rsum", 500.6, suite="addr_table1", label="base")
TWO_SCANS = Case(
    "scan", "flickr30k", FLICKR, BOTTOM_UP, BIGRU, "rsum", 465.0, members=(("scan", 0), ("scan_i2t", 0))
)
TWO_VSRNS = Case(
    "vsrn", "flickr30k", FLICKR, BOTTOM_UP, GRU, "i2t/R@1", 71.3, members=(("vsrn", 0), ("vsrn", 1))
)
ADDR_SCAN = Case("addr_scan", "coco", COCO, BOTTOM_UP, BIGRU, "rsum", 509.5)
TIMAM = Case("timam", "flickr30k", FLICKR, RESNET_152, BERT, "i2t/R@1", 53.1)
GXN = Case("gxn", "flickr30k", FLICKR, RESNET_152, BIGRU, "i2t/R@1", 56.8)
GRU_VGG = Case("gru", "coco", COCO, VGG_19, GRU, "t2i/R@1", 39.1)
VSE_TUNED = Case("vse_finetune", "flickr30k", FLICKR, RESNET_152, GRU, "i2t/R@1", 52.9)

RIGHT = [
    CCA,
    CCA._replace(preset="small"),
    CCA_PASCAL,
    Case("cca", "wikipedia_deep", WIKIPEDIA, FC7, BOW, "mAP", 0.245),
    ACMR,
    Case("acmr", "wikipedia_deep", WIKIPEDIA, FC7, BOW, "i2t/mAP", 0.619),
    Case("acmr", "nuswide10k", "nuswide10k-map", FC7, BOW_1000, "mAP", 0.541),
    Case("acmr_imi", "wikipedia_deep", WIKIPEDIA, FC7, BOW, "mAP", 0.391),
    Case("acmr_imd", "pascal_sentence", "pascal-map", FC7, BOW_1000, "t2i/mAP", 0.453),
    SCAN,
    SCAN_BASE,
    TWO_SCANS,
    Case("bfan", "coco", COCO, BOTTOM_UP, BIGRU, "i2t/R@1", 73.7),
    Case("united_bfan", "coco", COCO, BOTTOM_UP, BIGRU, "rsum", 506.4),
    Case("bfan", "coco", "coco-5k", BOTTOM_UP, BIGRU, "rsum", 411.7, members=(("bfan", 1), ("bfan_prob", 1))),
    Case("vsrn", "coco", COCO, BOTTOM_UP, GRU, "rsum", 506.6, suite="addr_table1", label="base"),
    TWO_VSRNS,
    ADDR_SCAN,
    Case("addr_vsrn", "coco", COCO, BOTTOM_UP, GRU, "t2i/R@1", 60.7),
    Case(
        "addr_vsrn", "coco", COCO, BOTTOM_UP, GRU, "rsum", 523.3, members=(("addr_vsrn", 0), ("addr_vsrn", 1))
    ),
    TIMAM,
    Case("timam_no_adversary", "flickr30k", FLICKR, RESNET_152, BERT, "t2i/R@1", 41.0),
    Case("timam", "cuhk_pedes", "cuhk-pedes", RESNET_101, BERT, "t2i/R@1", 54.51),
    Case("timam", "cub", "cub-ap50", RESNET_101, BERT, "t2i/AP@50", 70.3),
    Case(
        method="timam_no_adversary",
        dataset="cuhk_pedes",
        protocol="cuhk-pedes",
        image=RESNET_101,
        text=BILSTM,
        metric="t2i/R@1",
        value=49.8,
        suite="timam_table4",
        label="L_I + L_M",
    ),
    TIMAM._replace(image=RESNET_101, value=52.0, suite="timam_table5", label="ResNet-101 + BERT"),
    GXN,
    Case("gxn", "coco", "coco-5k", RESNET_152, BIGRU, "sum", 233.0),
    Case("gxn_resnet", "coco", COCO, {**RESNET_152, "fine_tuned": False}, BIGRU, "i2t/R@1", 59.4),
    GRU_VGG,
    Case("gru_bi", "coco", COCO, VGG_19, BIGRU, "t2i/R@1", 40.0),
    VSE_TUNED,
    VSE_TUNED._replace(image={**RESNET_152, "weights": "ResNet152_Weights.IMAGENET1K_V1"}),
]


def named(case: Case) -> str:
    """The case as pytest's name of it."""
    kind = case.label or ("ensemble" if case.members else "single")
    return "-".join((case.method, case.protocol, case.preset, kind, case.metric))


@pytest.mark.parametrize("case", RIGHT, ids=named)
def test_a_right_neighbour_stands_beside_ours(make_record: Maker, case: Case) -> None:
    published = beside(made(make_record, case), case.metric)
    assert (published.value, published.reason) == (case.value, None)


FROZEN = {**RESNET_152, "fine_tuned": False}
V2 = {**RESNET_152, "weights": "ResNet152_Weights.IMAGENET1K_V2"}
TIMAM_SMALL = TIMAM._replace(image=MOBILENET, text=WORDS, preset="small")
WRONG = {
    "timam small": (TIMAM_SMALL, "features"),
    "gxn small": (GXN._replace(image=MOBILENET, preset="small"), "features"),
    "vse_finetune on frozen features": (VSE_TUNED._replace(image=FROZEN), "features"),
    "cca on deep features": (CCA._replace(dataset="wikipedia_deep", image=FC7, text=BOW), "features"),
    "acmr on deep features": (ACMR._replace(dataset="wikipedia_deep", image=FC7, text=BOW), "features"),
    "acmr_imi on shallow features": (ACMR._replace(method="acmr_imi", value=0.391), "features"),
    # One thing at a time.
    "preset of timam": (TIMAM._replace(preset="small"), "setting"),
    "preset of acmr": (ACMR._replace(preset="small"), "setting"),
    "preset of a suite's row": (SCAN_BASE._replace(preset="tuned"), "setting"),
    "network": (TIMAM._replace(image=RESNET_101), "features"),
    "frozen network": (TIMAM._replace(image=FROZEN), "features"),
    "trained network": (GRU_VGG._replace(image={**VGG_19, "fine_tuned": True}), "features"),
    "random network": (TIMAM._replace(image={**RESNET_152, "weights": "none"}), "features"),
    "later weights": (TIMAM._replace(image=V2), "features"),
    "no BERT": (TIMAM._replace(text=BILSTM), "features"),
    "frozen BERT": (TIMAM._replace(text={**BERT, "fine_tuned": False}), "features"),
    "random BERT": (TIMAM._replace(text={**BERT, "weights": "none"}), "features"),
    "another language model": (TIMAM._replace(text={**BERT, "encoder": "roberta"}), "features"),
    "given features of VGG's width": (GRU_VGG._replace(image=FC7), "features"),
    "direction of the GRU": (TWO_VSRNS._replace(text=BIGRU), "features"),
    "number of regions": (ADDR_SCAN._replace(image={**BOTTOM_UP, "count": 49}), "features"),
    "width of regions": (ADDR_SCAN._replace(image={**BOTTOM_UP, "dim": 512}), "features"),
    "grid regions": (ADDR_SCAN._replace(image={**FROZEN, "regions": "grid", "count": 36}), "features"),
    "width of texts": (CCA_PASCAL._replace(text={"encoder": None, "dim": 300}), "features"),
    "bags of words for LDA": (CCA._replace(text={"encoder": "bow", "dim": 10}), "features"),
    "a single model": (TWO_SCANS._replace(members=()), "setting"),
    "another split": (ACMR._replace(protocol="wikipedia-2173-map"), "protocol"),
}


@pytest.mark.parametrize(("case", "kind"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_neighbour_is_listed_apart(make_record: Maker, case: Case, kind: str) -> None:
    record = made(make_record, case)
    published = beside(record, case.metric)
    assert published.value != case.value
    number = next(number for number in published.apart if number.value == case.value)
    assert number.kind == kind
    assert number.differs.startswith("ours: ")
    board = shown_tables([record])
    (note,) = [note for note in board[0].notes if number.source in note and number.heading in note]
    assert formatted(case.metric, case.value) in note and number.differs.removeprefix("ours: ") in note
    assert not [line for line in markdown(board).splitlines() if line.startswith(f"| *{number.source}")]
    (line,) = [line for line in frame(board).to_dict("records") if line["metric"] == case.metric]
    assert line["published"] != case.value and number.source in line["published_apart"]


def test_vse_on_frozen_features_has_no_published_number_of_its_own(make_record: Maker) -> None:
    """No table has one; the fine-tuned model's stand beside the fine-tuned row alone."""
    for image in (FROZEN, RESNET_152):
        published = beside(made(make_record, VSE_TUNED._replace(method="vse", image=image)), "i2t/R@1")
        assert (published.value, published.apart) == (None, ())
        assert published.reason == "not published: no table has vse on this data set"


def test_what_differs_is_said_on_both_sides(make_record: Maker) -> None:
    record = made(make_record, TIMAM_SMALL)
    (number, *_) = beside(record, "i2t/R@1").apart
    assert number.heading == "published, on other features"
    assert number.source == "TIMAM Table 2, ResNet-152 + BERT"
    assert number.differs == (
        "ours: mobilenet_v2 (frozen), word vectors, preset small; "
        "theirs: ResNet-152 (fine-tuned), BERT (fine-tuned)"
    )
    shown = shown_tables([record])
    assert f"{number.source}), {number.differs}" in html(
        shown, collect([table.source for table in shown]), "runs"
    )


def test_a_record_that_does_not_say_its_encoders_has_no_neighbour(make_record: Maker) -> None:
    case = CCA
    for encoders in ([], [{"image": None, "text": None}], [{"image": case.image, "text": None}]):
        published = beside(made(make_record, case, encoders=encoders), case.metric)
        assert published.value is None and published.apart[0].value == case.value
        assert "encoder not" in published.apart[0].differs


def test_every_model_that_a_number_rests_on_counts(make_record: Maker) -> None:
    case = SCAN
    other = [{"image": {**BOTTOM_UP, "dim": 512}, "text": BIGRU}]
    seeds = [made(make_record, case, seed=0, encoders=other), made(make_record, case, seed=1)]
    (row,) = leaderboard(seeds)
    assert row.seeds == (0, 1) and row.cells[case.metric].published.value is None
    own = [{"image": BOTTOM_UP, "text": BIGRU}]
    published = beside(made(make_record, TWO_SCANS, encoders=[*own, *other]), TWO_SCANS.metric)
    assert published.value is None


def test_a_split_that_nobody_verified_is_shown_with_no_number_at_all(make_record: Maker) -> None:
    published = beside(made(make_record, TIMAM._replace(protocol="flickr30k-test")), TIMAM.metric)
    assert (published.value, published.apart) == (None, ())
    assert "published protocol is flickr30k-1k" in str(published.reason)


def test_overrides_take_the_neighbour_away_but_for_those_of_features(make_record: Maker) -> None:
    case = ACMR
    changed = beside(made(make_record, case, overrides={"trainer.max_epochs": 1}), case.metric)
    assert changed.value is None and "overrides change trainer.max_epochs" in changed.apart[0].differs
    weights = {"data.images.weights": "elsewhere.pth", "data.images.network": "resnet152"}
    assert beside(made(make_record, case, overrides=weights), case.metric).value == case.value
    missing = beside(made(make_record, SCAN_BASE, overrides={}), SCAN_BASE.metric)
    assert missing.value is None and "model.init_args.optimizer.beta1" in missing.apart[0].differs


def test_a_number_whose_metric_is_unknown_is_shown_once(make_record: Maker) -> None:
    metrics = {f"{side}mAP{at}": 0.4 for side in ("i2t/", "t2i/", "") for at in ("", "@50")}
    record = made(make_record, ACMR, metrics=metrics)
    (row,) = leaderboard([record])
    published = {metric: cell.published.value for metric, cell in row.cells.items()}
    assert {metric: value for metric, value in published.items() if value is not None} == {
        "i2t/mAP": 0.366,
        "t2i/mAP": 0.277,
        "mAP": 0.322,
    }
    said = "\n".join(notes(tables([row])[0]))
    assert "i2t/mAP 0.366, t2i/mAP 0.277, mAP 0.322 (ACMR Table 2, SIFT + LDA)" in said
    assert "mAP is over the whole list or the top 50" in said
    assert markdown([show(table) for table in tables([row])]).count("0.322 |") == 1


def test_queries_without_a_label_are_stated(make_record: Maker) -> None:
    data = {"counts": {"test": {"images": 100, "captions": 100}}}
    record = make_record(
        method="cca",
        dataset="nuswide10k",
        protocol="nuswide10k-test",
        dropped={"i2t": 20, "t2i": 20},
        data={**make_record().content["data"], **data},
    )
    said = "\n".join(notes(tables(leaderboard([record]))[0]))
    assert "no label: 20 of 100 image queries and 20 of 100 text queries, which are ignored by mAP" in said
    none = make_record(method="cca", dropped={"i2t": 0, "t2i": 0})
    assert "no label" not in "\n".join(notes(tables(leaderboard([none]))[0]))
