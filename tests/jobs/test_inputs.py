from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from crossmodal_bench.data.corpus import Corpus, Labels
from crossmodal_bench.data.datasets import Synthetic
from crossmodal_bench.evaluation import PROTOCOLS
from crossmodal_bench.evaluation.protocols.splits import _members, describe
from crossmodal_bench.jobs.inputs import fitting_protocols, items_of_test, matched_protocols, protocol_lines
from crossmodal_bench.jobs.published import Setting, comparison, published_rows


def corpus(name: str, test: list[str], per_image: int, labelled: bool = False) -> Corpus:
    """One training image, then the test images named."""
    ids = ("train.jpg", *test)
    owner = np.repeat(np.arange(len(ids)), per_image)
    return Corpus(
        name=name,
        image_ids=ids,
        caption_ids=tuple(f"{ids[row]}#{number}" for number, row in enumerate(owner)),
        caption_image=owner,
        split=np.array(["train"] + ["test"] * len(test)),
        labels=Labels(np.arange(len(ids)) % 2) if labelled else None,
    )


def entities() -> Corpus:
    """As many images and captions as Flickr30K's test split, 245 of the images out of its training split."""
    photos = _members("flickr30k_photos.txt.gz")
    names = sorted(photos.members)[:11] + sorted(photos.others)[:245]
    return corpus("flickr30k", [*names, *(f"{9_000_000_000 + i}" for i in range(744))], 5)


def test_the_entities_split_gets_no_published_number() -> None:
    (protocol,) = fitting_protocols(entities())
    assert (protocol.label, protocol.resembles) == ("flickr30k-test@1", "flickr30k-1k")
    (match,) = matched_protocols(entities())
    assert match.sentence == (
        "images 1,000 and captions 5,000 agree with flickr30k-1k, but 232 known test images are missing and "
        "245 known training or validation images are among them: this is another split"
    )
    published = [row for row in published_rows() if row.protocol == match.protocol.name and row.ours]
    metrics = {
        (str(row.ours), metric)
        for row in published
        if row.comparable
        for metric, value in row.values.items()
        if value
    }
    setting = Setting((), "paper", papers_settings=True)
    for ours, metric in metrics:
        there = comparison(ours, match.protocol.name, metric, setting)
        here = comparison(ours, protocol.name, metric, setting)
        assert there.apart and (here.value, here.apart) == (None, ())


def test_the_test_splits_items_are_counted_from_its_first_image() -> None:
    items = items_of_test(corpus("mine", ["a.jpg", "b.jpg"], 2))
    assert items.image_ids == ["a.jpg", "b.jpg"] and items.caption_image.tolist() == [0, 0, 1, 1]
    assert items.caption_ids == ["a.jpg#2", "a.jpg#3", "b.jpg#4", "b.jpg#5"]
    assert items.captions is None and items.caption_keys is None


def test_the_synthetic_sets_are_recognised_by_what_is_generated(tmp_path: Path) -> None:
    for size in ("tiny", "small"):
        (protocol,) = fitting_protocols(Synthetic(size).read(tmp_path))
        assert protocol is PROTOCOLS[f"synthetic-{size}"]
    (other,) = fitting_protocols(Synthetic("tiny", seed=1).read(tmp_path))
    assert (other.name, other.resembles) == ("synthetic-test", "synthetic-tiny")


def test_a_variant_on_another_split_than_its_own_is_called_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    named = "wikipedia-2173-map"
    same_size = corpus("wikipedia", [f"text{i}/image{i}" for i in range(693)], 1, labelled=True)
    (protocol,) = fitting_protocols(same_size, named)
    assert (protocol.name, protocol.resembles) == (f"{named}-test", named)
    smaller = corpus("wikipedia", [f"text{i}/image{i}" for i in range(20)], 1, labelled=True)
    (protocol,) = fitting_protocols(smaller, named)
    assert (protocol.name, protocol.resembles, protocol.images) == (f"{named}-test", "", 20)
    split = describe(items_of_test(same_size), "exact")
    monkeypatch.setitem(PROTOCOLS, named, dataclasses.replace(PROTOCOLS[named], split=split))
    (protocol,) = fitting_protocols(same_size, named)
    assert (protocol.name, protocol.resembles) == (named, "")


def test_what_a_split_is_recognised_by_is_printed_for_those_who_have_it() -> None:
    birds = corpus("cub", [f"{i % 50:03}.Bird/Bird_{i}" for i in range(2933)], 10, labelled=True)
    lines = protocol_lines(birds)
    assert lines[0] == "protocol cub-test@1 (split unverified)"
    assert "agree with cub-ap50, but nothing is known yet" in lines[1]
    split = describe(items_of_test(birds))
    assert lines[2].startswith(f'split {{ids: "names", images: "{split.images}", order: ')
    assert "captions_per_image: 10" in lines[2]
    assert "pull request with this line as cub-ap50's 'split'" in lines[3]
    # What is only numbered would pass for anything of its size.
    numbered = corpus("pascal_sentence", [f"test/{i}" for i in range(200)], 1, labelled=True)
    first, second, other = protocol_lines(numbered)
    assert first == "protocol pascal_sentence-test@1 (split unverified)"
    assert "agree with pascal-map" in second and "but its images are only numbered" in second
    assert "pascal-100-map" in other and "agree" not in other


def repeating(sentences: int) -> Corpus:
    """40 images with 3 captions each, of so many different ones."""
    plain = corpus("mine", [f"image{i}" for i in range(40)], 3)
    return dataclasses.replace(plain, captions=tuple(f"sentence {row % sentences}" for row in range(-3, 120)))


def test_equal_inputs_have_a_protocol_of_their_own_where_captions_repeat() -> None:
    (alone,) = fitting_protocols(repeating(120))
    plain, equal = fitting_protocols(repeating(30))
    assert alone.name == plain.name == "mine-test" and plain.positives == "caption"
    assert (equal.name, equal.positives, equal.families, equal.primary) == (
        "mine-test-equal",
        "pairs",
        ("ranks",),
        "rsum",
    )
