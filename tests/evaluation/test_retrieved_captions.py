"""Quality of retrieved captions: which captions are compared with which, and in what unit."""

from __future__ import annotations

import numpy as np
import pytest

from crossmodal_bench.evaluation.captions import bleu_scores, cider_score
from crossmodal_bench.evaluation.retrieved_captions import retrieved_caption_quality, written_caption_quality

CAPTIONS = [
    "A red dog runs.",
    "The dog runs fast",
    "two cats sleep",
    "Cats, asleep!",
    "a man rides a horse",
    "a rider on a horse",
]
OWNER = np.array([0, 0, 1, 1, 2, 2])
OWN = [["a red dog runs", "the dog runs fast"], ["two cats sleep", "cats asleep"]]
OWN.append(["a man rides a horse", "a rider on a horse"])


def test_each_rank_is_scored_against_all_captions_of_the_image() -> None:
    top = np.array([[2, 0, 5], [3, 4, 1], [4, 5, 0]])
    found = retrieved_caption_quality(top, CAPTIONS, OWNER)
    at = {1: ["two cats sleep", "cats asleep", "a man rides a horse"]}
    at[2] = ["a red dog runs", "a man rides a horse", "a rider on a horse"]
    at[3] = ["a rider on a horse", "the dog runs fast", "a red dog runs"]
    assert len(found) == 15
    for rank, words in at.items():
        suffix = "" if rank == 1 else f"@{rank}"
        for n, value in enumerate(bleu_scores(words, OWN), start=1):
            assert found[f"BLEU-{n}{suffix}"] == pytest.approx(100 * value)
        assert found[f"CIDEr{suffix}"] == pytest.approx(100 * cider_score(words, OWN)[0])


def test_folds_are_scored_by_themselves_and_averaged() -> None:
    top, owner = np.array([[2], [3], [0], [1]]), np.array([0, 1, 2, 3])
    captions = ["a red dog runs", "two cats", "a red cat runs", "two dogs"]
    halves = [
        written_caption_quality([captions[2], captions[3]], [[captions[0]], [captions[1]]]),
        written_caption_quality([captions[0], captions[1]], [[captions[2]], [captions[3]]]),
    ]
    found = retrieved_caption_quality(top, captions, owner, folds=2)
    assert {f"written/{key}" for key in found} == set(halves[0])
    for key, value in found.items():
        first, second = (half[f"written/{key}"] for half in halves)
        assert value == pytest.approx((first + second) / 2), key
    whole = retrieved_caption_quality(top, captions, owner)
    assert whole["CIDEr"] != pytest.approx(found["CIDEr"]), "document frequencies are another gallery's"


def test_no_more_than_five_ranks() -> None:
    found = retrieved_caption_quality(np.tile(np.arange(6), (3, 1)), CAPTIONS, OWNER)
    assert len(found) == 25 and "CIDEr@5" in found and "CIDEr@6" not in found


def test_an_image_without_captions_has_no_references() -> None:
    assert retrieved_caption_quality(np.array([[0], [1], [2], [3]]), CAPTIONS, OWNER) == {}


def test_a_caption_of_the_image_itself_has_every_word() -> None:
    found = written_caption_quality(["a red dog runs", "TWO cats sleep!", "a man rides a horse"], OWN)
    assert found["written/BLEU-1"] == pytest.approx(100) and found["written/BLEU-3"] == pytest.approx(100)
    assert found["written/CIDEr"] > 100
