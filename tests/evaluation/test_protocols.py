from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import crossmodal_bench
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.evaluation import (
    PROTOCOLS,
    Protocol,
    get_protocol,
    metric_table,
    resolve_protocols,
    split_hash,
)
from crossmodal_bench.evaluation.protocols import own_protocol, parse_protocols, primary_metric


def ids(count: int) -> list[str]:
    return [f"{number}.jpg" for number in range(count)]


def names(dataset: str, images: int, captions: int, real_labels: bool = False) -> list[str]:
    return [protocol.name for protocol in resolve_protocols(dataset, ids(images), captions, real_labels)]


def test_split_hash_is_that_of_the_sorted_ids() -> None:
    assert split_hash(["b", "a", "c"]) == hashlib.sha256(b"a\nb\nc").hexdigest()[:16]
    assert split_hash(["a", "b"]) != split_hash(["a", "c"])


def test_exact_counts_give_the_named_protocols() -> None:
    assert names("flickr30k", 1000, 5000) == ["flickr30k-1k"]
    for captions in (25010, 25000):
        assert names("coco", 5000, captions) == ["coco-5k", "coco-1k-5fold"]
    assert names("pascal_sentence", 200, 200, True) == ["pascal-map"]
    assert names("nuswide10k", 1000, 1000, True) == ["nuswide10k-map"]
    assert names("acmr_coco", 16557, 82785) == ["acmr-coco"]


@pytest.mark.parametrize(
    ("dataset", "images", "captions"),
    [("flickr30k", 243, 1215), ("flickr30k", 1000, 4999), ("coco", 5000, 25005), ("coco", 1000, 5000)],
)
def test_anything_else_is_ones_own_test_split(dataset: str, images: int, captions: int) -> None:
    (protocol,) = resolve_protocols(dataset, ids(images), captions, False)
    assert protocol.name == f"{dataset}-test"
    assert (protocol.images, protocol.captions, protocol.primary) == (images, (captions,), "rsum")
    assert protocol.families == ("ranks",)
    assert protocol.split_hash == split_hash(ids(images))


def test_right_counts_with_other_images_are_another_split() -> None:
    assert names("flickr8k", 1000, 5000) == ["flickr8k-test"]
    assert names("wikipedia", 693, 693, True) == ["wikipedia-test"]
    assert PROTOCOLS["flickr8k-1k"].split_hash and PROTOCOLS["wikipedia-2173-map"].split_hash


def test_a_known_hash_lets_its_own_split_through(monkeypatch: pytest.MonkeyPatch) -> None:
    official = PROTOCOLS["flickr8k-1k"]
    monkeypatch.setattr("crossmodal_bench.evaluation.protocols.split_hash", lambda _: official.split_hash)
    assert names("flickr8k", 1000, 5000) == ["flickr8k-1k"]


def test_labels_made_from_words_give_no_label_precision() -> None:
    (made,) = resolve_protocols("mine", ids(40), 200, False)
    (real,) = resolve_protocols("mine", ids(40), 200, True)
    (paired,) = resolve_protocols("mine", ids(40), 40, True)
    assert made.families == ("ranks",) and real.families == ("ranks", "label_precision")
    assert (real.primary, paired.primary, paired.positives) == ("rsum", "mAP", "label")
    assert names("pascal_sentence", 200, 200, False) == ["pascal_sentence-test"]


def test_persons_and_species_have_their_protocols() -> None:
    for name, dataset, images, captions, labels, identities in (
        ("cuhk-pedes", "cuhk_pedes", 3074, 6156, False, True),
        ("cub-ap50", "cub", 2933, 29330, True, True),
        ("flowers-ap50", "flowers", 1155, 11550, True, False),
    ):
        (found,) = resolve_protocols(dataset, ids(images), captions, labels, identities)
        assert found is PROTOCOLS[name]
        (without,) = resolve_protocols(dataset, ids(images), captions, False, False)
        assert (without.name, without.positives, without.primary) == (f"{dataset}-test", "caption", "rsum")
        assert without.families == ("ranks",)


@pytest.mark.parametrize(
    ("dataset", "named"),
    [
        ("cuhk_pedes", "cuhk-pedes"),
        ("cub", "cub-ap50"),
        ("flowers", "flowers-ap50"),
        ("wikipedia", "wikipedia-2173-map"),
        ("coco", "coco-5k"),
    ],
)
def test_another_split_reports_what_the_named_protocol_does(dataset: str, named: str) -> None:
    (found,) = resolve_protocols(dataset, ids(12), 30, True, True)
    known = PROTOCOLS[named]
    assert (found.name, found.images, found.captions) == (f"{dataset}-test", 12, (30,))
    assert (found.folds, found.split_hash) == (1, split_hash(ids(12)))
    for field in ("positives", "families", "primary"):
        assert getattr(found, field) == getattr(known, field), field
    assert "no published number" in found.note
    assert primary_metric(found.name, dataset) == primary_metric(named, dataset) == known.primary


def test_the_primary_metric_of_ones_own_data_is_not_known_by_name() -> None:
    assert primary_metric("mine-test", "mine") is None


def test_two_kinds_of_the_same_metric_are_refused() -> None:
    with pytest.raises(ValueError, match="2 kinds of i2t/R@1; choose ranks or class_level"):
        Protocol(name="x", dataset="x", positives="label", families=("ranks", "class_level"), primary="rsum")


def test_an_unknown_name_raises_with_the_nearest() -> None:
    assert get_protocol("coco-1k-5fold").folds == 5
    with pytest.raises(BadInput, match="did you mean 'flickr30k-1k'"):
        get_protocol("flickr30-1k")


def test_an_unusable_split_raises() -> None:
    with pytest.raises(BadInput, match="0 images"):
        resolve_protocols("mine", [], 5, False)
    with pytest.raises(BadInput, match="repeats an image id"):
        resolve_protocols("mine", ["a", "a"], 5, False)


def test_the_table_is_consistent() -> None:
    for name, protocol in PROTOCOLS.items():
        assert name == protocol.name
        assert protocol.primary in {
            metric.key for family in protocol.families for metric in metric_table.of_family(family)
        }
        assert protocol.images is None or protocol.images % protocol.folds == 0
        rendered = protocol.dataset == "synthetic"
        unchecked = protocol.split_hash is None and not rendered
        assert ("counts alone" in protocol.note) == unchecked, name


def test_a_protocol_of_any_size_keeps_its_metrics() -> None:
    free = PROTOCOLS["coco-1k-5fold"].of_any_size()
    assert free.fits("coco", ids(7), 9, False) and free.folds == 1
    assert (free.name, free.primary, free.families) == ("coco-1k-5fold", "rsum", ("ranks",))


@pytest.mark.parametrize("primary", ["mAP", "t2i/AP@50", "nonsense"])
def test_a_primary_metric_that_is_not_computed_is_refused(primary: str) -> None:
    with pytest.raises(ValueError, match=f"cannot be ranked by '{primary}'"):
        Protocol(name="x", dataset="x", positives="caption", families=("ranks",), primary=primary)


def test_a_primary_metric_that_is_best_when_low_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be ranked by 'i2t/MedR'"):
        Protocol(name="x", dataset="x", positives="caption", families=("ranks",), primary="i2t/MedR")


def test_a_data_set_without_named_protocols_has_its_own() -> None:
    assert "mine" not in {protocol.dataset for protocol in PROTOCOLS.values()}
    own = own_protocol("mine")
    assert own.fits("mine", ids(3), 7, False) and (own.name, own.primary) == ("mine-test", "rsum")
    assert not own.needs_labels and own_protocol("mine", real_labels=True).needs_labels


COMPLETE = {
    "dataset": "mine",
    "images": 10,
    "captions": [50, 51],
    "positives": "caption",
    "families": ["ranks"],
    "primary": "rsum",
    "folds": 2,
    "split_hash": "0123456789abcdef",
    "note": "Mine.",
}


def test_a_protocol_of_the_file_has_all_of_its_fields() -> None:
    (protocol,) = parse_protocols(yaml.safe_dump({"mine-1": COMPLETE}), "mine.yaml").values()
    assert protocol == Protocol(
        name="mine-1",
        dataset="mine",
        images=10,
        captions=(50, 51),
        positives="caption",
        families=("ranks",),
        primary="rsum",
        folds=2,
        split_hash="0123456789abcdef",
        note="Mine.",
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"dataset": None}, "field 'dataset' is None; it must be text"),
        ({"image": 10}, "field 'image' is unknown; did you mean 'images'?"),
        ({"images": True}, "field 'images' is True"),
        ({"images": 0}, "field 'images' is 0"),
        ({"captions": 50}, "field 'captions' is 50"),
        ({"captions": [5, "many"]}, "field 'captions\\[1\\]' is 'many'"),
        ({"positives": "captions"}, "field 'positives' is 'captions'"),
        ({"families": []}, "field 'families' lists 0; it must list at least 1"),
        ({"families": ["recall"]}, "field 'families\\[0\\]' is 'recall'"),
        ({"families": ["ranks", "class_level"]}, "2 kinds of i2t/R@1"),
        ({"primary": "rsun"}, "cannot be ranked by 'rsun'; did you mean 'rsum'?"),
        ({"folds": 3}, "cuts 10 images into 3 folds"),
        ({"split_hash": "0123"}, "field 'split_hash' is '0123'"),
        ({"note": ""}, "field 'note' is ''"),
    ],
)
def test_a_bad_protocol_of_the_file_is_one_sentence(change: dict[str, object], sentence: str) -> None:
    text = yaml.safe_dump({"mine-1": {**COMPLETE, **change}})
    with pytest.raises(BadInput, match=f"mine.yaml: protocol 'mine-1'.*{sentence.replace('?', '.')}"):
        parse_protocols(text, "mine.yaml")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", "not valid YAML"),
        ("a: {}\na: {}", "the key 'a' stands twice"),
        ("[1, 2]", r"is \[1, 2\]; give it protocols by name"),
        ("a: 5", "protocol 'a': its content is 5; it must be keys and values"),
        ("a: {dataset: x}", "protocol 'a': field 'positives' is missing; add it"),
    ],
)
def test_a_bad_file_of_protocols_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(BadInput, match=f"mine.yaml.*{sentence}"):
        parse_protocols(text, "mine.yaml")


def test_evaluation_needs_neither_the_trainer_nor_transformers_nor_wandb() -> None:
    heavy = ("pytorch_lightning", "transformers", "wandb", "torchmetrics", "matplotlib", "pandas")
    code = f"import sys, crossmodal_bench.evaluation; print(sorted(set({heavy}) & set(sys.modules)))"
    root = str(Path(crossmodal_bench.__file__).parents[1])
    printed = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout.strip() == "[]"
