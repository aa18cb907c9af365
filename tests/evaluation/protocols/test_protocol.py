from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import yaml

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.evaluation import (
    PROTOCOLS,
    KnownSplit,
    Protocol,
    SplitItems,
    get_protocol,
    metric_table,
    resolve_protocols,
)
from crossmodal_bench.evaluation.protocols.judgements import is_installed
from crossmodal_bench.evaluation.protocols.protocol import (
    RULES,
    expected_protocols,
    matches,
    own_protocol,
    parse_protocols,
    primary_metric,
)
from crossmodal_bench.evaluation.protocols.splits import describe


def items(images: int, captions: int, start: int = 0) -> SplitItems:
    """Images named by numbers, with captions dealt out as evenly as may be."""
    owner = np.sort(np.arange(captions) % images)
    return SplitItems([f"{start + number}.jpg" for number in range(images)], owner)


def named(dataset: str, split: SplitItems, **kinds: bool) -> list[str]:
    return [protocol.name for protocol in resolve_protocols(dataset, split, **kinds)]


def known(monkeypatch: pytest.MonkeyPatch, name: str, split: SplitItems) -> None:
    """Let a protocol know that split as its own."""
    protocol = PROTOCOLS[name]
    own = dataclasses.replace(protocol, split=describe(split, protocol.split.ids))
    monkeypatch.setitem(PROTOCOLS, name, own)


@pytest.mark.parametrize(
    ("dataset", "images", "captions"),
    [("flickr30k", 243, 1215), ("flickr30k", 1000, 4999), ("coco", 5000, 25005), ("coco", 1000, 5000)],
)
def test_other_numbers_are_ones_own_test_split(dataset: str, images: int, captions: int) -> None:
    (protocol,) = resolve_protocols(dataset, items(images, captions))
    assert (protocol.name, protocol.resembles) == (f"{dataset}-test", "")
    assert (protocol.images, protocol.captions, protocol.primary) == (images, (captions,), "rsum")
    assert protocol.families == ("ranks",)
    assert not protocol.split.verifiable


@pytest.mark.parametrize(
    ("dataset", "images", "captions", "resembled"),
    [
        ("flickr30k", 1000, 5000, {"flickr30k-test": "flickr30k-1k"}),
        ("flickr8k", 1000, 5000, {"flickr8k-test": "flickr8k-1k"}),
        ("coco", 5000, 25000, {"coco-test": "coco-5k", "coco-test-5fold": "coco-1k-5fold"}),
        ("coco", 5000, 25010, {"coco-test": "coco-5k", "coco-test-5fold": "coco-1k-5fold"}),
        ("acmr_coco", 16557, 82785, {"acmr_coco-test": "acmr-coco"}),
        ("wikipedia", 693, 693, {"wikipedia-test": "wikipedia-2173-map"}),
        ("pascal_sentence", 200, 200, {"pascal_sentence-test": "pascal-map"}),
        ("nuswide10k", 1000, 1000, {"nuswide10k-test": "nuswide10k-map"}),
    ],
)
def test_numbers_alone_prove_nothing(
    dataset: str, images: int, captions: int, resembled: dict[str, str]
) -> None:
    found = resolve_protocols(dataset, items(images, captions), real_labels=True)
    assert {protocol.name: protocol.resembles for protocol in found} == resembled
    for protocol in found:
        original = PROTOCOLS[protocol.resembles]
        assert (protocol.images, protocol.captions) == (images, (captions,))
        for field in ("positives", "families", "primary", "folds"):
            assert getattr(protocol, field) == getattr(original, field), field
        assert "published numbers are not comparable" in protocol.note


def test_each_protocol_of_a_known_split_applies(monkeypatch: pytest.MonkeyPatch) -> None:
    split = items(5000, 25000)
    for name in ("coco-5k", "coco-1k-5fold"):
        known(monkeypatch, name, split)
    # Numbered from zero, no image can be recognised; these are not.
    assert named("coco", split) == ["coco-test", "coco-test-5fold"]
    split = items(5000, 25000, start=7)
    for name in ("coco-5k", "coco-1k-5fold"):
        known(monkeypatch, name, split)
    assert named("coco", split) == ["coco-5k", "coco-1k-5fold"]


def test_folds_alone_depend_on_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    split = items(5000, 25000, start=7)
    for name in ("coco-5k", "coco-1k-5fold"):
        known(monkeypatch, name, split)
    turned = SplitItems(split.image_ids[::-1], 4999 - split.caption_image)
    whole, folds = resolve_protocols("coco", turned)
    assert (whole.name, whole.resembles) == ("coco-5k", "")
    assert (folds.name, folds.resembles, folds.folds) == ("coco-test-5fold", "coco-1k-5fold", 5)
    match = next(each for each in matches("coco", turned) if each.protocol.folds > 1)
    assert match.sentence == (
        "images 5,000 and captions 25,000 agree with coco-1k-5fold, but its images are in another order, "
        "and folds are blocks of that order: this is another split"
    )


def test_what_is_expected_is_what_could_be_verified() -> None:
    def names(dataset: str, wanted: str = "") -> list[str]:
        return [protocol.name for protocol in expected_protocols(dataset, wanted)]

    judged = ["coco-5k-eccv", "coco-5k-cxc"] if is_installed() else []
    assert names("coco") == ["coco-5k", "coco-1k-5fold", *judged]
    assert names("cuhk_pedes") == ["cuhk_pedes-test"] and names("mine") == ["mine-test"]
    assert names("wikipedia_deep", "wikipedia-1300-map") == ["wikipedia-1300-map"]


def test_the_match_says_what_is_wrong() -> None:
    (match,) = matches("flickr30k", items(243, 1215))
    assert not match.verified and match.sentence == (
        "not the split of flickr30k-1k, which has 1,000 images and 5,000 captions; this one has 243 and 1,215"
    )
    (match,) = matches("cuhk_pedes", items(3074, 6156, start=1), identities=True)
    assert match.counts_agree and match.sentence == (
        "images 3,074 and captions 6,156 agree with cuhk-pedes, but nothing is known yet by which to verify "
        "its split"
    )


def test_labels_made_from_words_give_no_label_precision() -> None:
    (made,) = resolve_protocols("mine", items(40, 200))
    (real,) = resolve_protocols("mine", items(40, 200), real_labels=True)
    (paired,) = resolve_protocols("mine", items(40, 40), real_labels=True)
    assert made.families == ("ranks",) and real.families == ("ranks", "label_precision")
    assert (real.primary, paired.primary, paired.positives) == ("rsum", "mAP", "label")
    (unlabelled,) = resolve_protocols("pascal_sentence", items(200, 200))
    assert (unlabelled.name, unlabelled.resembles) == ("pascal_sentence-test", "")


def test_persons_and_species_have_their_protocols(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, dataset, images, captions, labels, identities in (
        ("cuhk-pedes", "cuhk_pedes", 3074, 6156, False, True),
        ("cub-ap50", "cub", 2933, 29330, True, True),
        ("flowers-ap50", "flowers", 1155, 11550, True, False),
    ):
        split = items(images, captions, start=1)
        known(monkeypatch, name, split)
        (found,) = resolve_protocols(dataset, split, real_labels=labels, identities=identities)
        assert found is PROTOCOLS[name]
        (without,) = resolve_protocols(dataset, split)
        assert (without.name, without.positives, without.primary) == (f"{dataset}-test", "caption", "rsum")
        assert without.families == ("ranks",)


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("cuhk_pedes", "cuhk-pedes"),
        ("cub", "cub-ap50"),
        ("flowers", "flowers-ap50"),
        ("wikipedia", "wikipedia-2173-map"),
        ("coco", "coco-5k"),
    ],
)
def test_another_split_reports_what_the_named_protocol_does(dataset: str, name: str) -> None:
    (found,) = resolve_protocols(dataset, items(12, 30), real_labels=True, identities=True)
    original = PROTOCOLS[name]
    assert (found.name, found.images, found.captions) == (f"{dataset}-test", 12, (30,))
    assert (found.folds, found.version, found.split.verifiable) == (1, RULES, False)
    for field in ("positives", "families", "primary"):
        assert getattr(found, field) == getattr(original, field), field
    assert "published numbers are not comparable" in found.note
    assert primary_metric(found.name, dataset) == primary_metric(name, dataset) == original.primary


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
        resolve_protocols("mine", SplitItems([], np.zeros(5, np.int64)))
    with pytest.raises(BadInput, match="repeats an image id"):
        resolve_protocols("mine", SplitItems(["a", "a"], np.array([0, 1])))


def test_the_table_is_consistent() -> None:
    for name, protocol in PROTOCOLS.items():
        assert name == protocol.name
        assert protocol.primary in {
            metric.key for family in protocol.families for metric in metric_table.of_family(family)
        }
        assert protocol.images is None or protocol.images % protocol.folds == 0
        assert ("not known" in protocol.note) == (not protocol.split.verifiable), name
        # What a published number was measured on never changes its version silently.
        assert protocol.version == 1 and protocol.label == f"{name}@1"


def test_a_protocol_of_any_size_keeps_its_metrics() -> None:
    free = PROTOCOLS["coco-1k-5fold"].of_any_size()
    assert free.counts_agree(7, 9) and free.folds == 1 and not free.split.verifiable
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
    assert own.counts_agree(3, 7) and (own.label, own.primary) == ("mine-test@1", "rsum")
    assert not own.needs_labels and own_protocol("mine", real_labels=True).needs_labels


COMPLETE = {
    "version": 3,
    "dataset": "mine",
    "images": 10,
    "captions": [50, 51],
    "positives": "caption",
    "families": ["ranks"],
    "primary": "rsum",
    "folds": 2,
    "split": {"ids": "coco", "images": "0123456789abcdef", "order": "fedcba9876543210"},
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
        version=3,
        split=KnownSplit(ids="coco", images="0123456789abcdef", order="fedcba9876543210"),
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
        ({"version": None}, "field 'version' is None"),
        ({"version": 0}, "field 'version' is 0"),
        ({"split": {"images": "0123"}}, "field 'split.images' is '0123'"),
        ({"split": {"ids": "isbn"}}, "field 'split.ids' is 'isbn'"),
        ({"split": {"hash": "0123456789abcdef"}}, "field 'split.hash' is unknown"),
        ({"split": {"images": "0123456789abcdef"}}, "blocks of the images' order; set split.order"),
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
        ("a: {}\na: {}", "duplicate key 'a'"),
        ("[1, 2]", r"is \[1, 2\]; it must map names to protocols"),
        ("a: 5", "protocol 'a': its content is 5; it must be keys and values"),
        ("a: {dataset: x}", "protocol 'a': field 'positives' is missing; add it"),
    ],
)
def test_a_bad_file_of_protocols_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(BadInput, match=f"mine.yaml.*{sentence}"):
        parse_protocols(text, "mine.yaml")
