"""Corpus BLEU and CIDEr of strings against the usual package (golden values) and by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossmodal_bench.evaluation.captions import bleu_scores, cider_score

GOLDEN = Path(__file__).parents[1] / "golden" / "captions_cider_bleu.json"


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    found = json.loads(GOLDEN.read_text())
    found["references"] = list(found["refs"].values())
    found["candidates"] = [found["hyps"][image][0] for image in found["refs"]]
    return found


def test_the_golden_candidates_hold_the_odd_ones(golden: dict[str, Any]) -> None:
    empty, one, repeated, same = golden["candidates"][3:7]
    assert empty == "" and one == "dog" and set(repeated.split()) == {"the"}
    assert same in golden["references"][6]


@pytest.mark.parametrize("name", ["ciderD_corpus", "cider_coco"])
def test_cider_and_cider_d_are_the_usual_packages(golden: dict[str, Any], name: str) -> None:
    each = golden["ciderD_each" if name == "ciderD_corpus" else "cider_coco_each"]
    score, scores = cider_score(golden["candidates"], golden["references"])
    assert score == pytest.approx(golden[name], abs=1e-12)
    np.testing.assert_allclose(scores, each, rtol=0, atol=1e-12)


def test_cider_with_the_document_frequencies_of_training_captions(golden: dict[str, Any]) -> None:
    assert len(golden["train_refs"]) == golden["train_ref_len"]
    score, scores = cider_score(golden["candidates"], golden["references"], golden["train_refs"])
    assert score == pytest.approx(golden["ciderD_fixed_df"], abs=1e-12)
    np.testing.assert_allclose(scores, golden["ciderD_fixed_df_each"], rtol=0, atol=1e-12)


def test_a_single_image_has_no_cider_of_its_own(golden: dict[str, Any]) -> None:
    expected = golden["ciderD corpus df with ONE image (idf=log(1/1)=0)"]
    for row in (0, 3, 6):
        score, scores = cider_score(golden["candidates"][row : row + 1], golden["references"][row : row + 1])
        assert score == expected == 0 and scores.tolist() == [0]


def test_bleu_is_the_usual_packages(golden: dict[str, Any]) -> None:
    found = bleu_scores(golden["candidates"], golden["references"])
    assert found == pytest.approx(golden["bleu"], rel=1e-12)
    assert bleu_scores(golden["candidates"], golden["references"], order=2) == found[:2]


def test_bleu_of_one_image_is_that_of_the_sentence(golden: dict[str, Any]) -> None:
    each = np.array(golden["bleu_each"])
    for row, (candidate, references) in enumerate(
        zip(golden["candidates"], golden["references"], strict=True)
    ):
        assert bleu_scores([candidate], [references]) == pytest.approx(each[:, row].tolist(), rel=1e-12)


def test_bleu_sums_over_the_corpus_before_it_divides() -> None:
    # 1 of 2 and 4 of 4 words; 6 words against references of 3 and 4.
    found = bleu_scores(["a x", "b c d e"], [["a b c"], ["b c d e", "b"]], order=1)
    assert found == pytest.approx([5 / 6 * math.exp(1 - 7 / 6)])


def test_words_are_what_whitespace_separates() -> None:
    references = [["a  cat\tsits "], ["the dog"]]
    assert bleu_scores(["a cat sits", "the dog"], references, order=1) == pytest.approx([1])
    assert bleu_scores(["A cat sits.", "the dog"], references, order=1) == pytest.approx([3 / 5])
    assert cider_score(["a cat sits", "the dog"], references)[1] == pytest.approx([7.5, 5])


def test_silence_alone_scores_nothing() -> None:
    references = [["a cat"], ["a dog", "the dog"]]
    assert cider_score(["", " "], references)[0] == 0
    assert bleu_scores(["", " "], references) == [0, 0, 0, 0]


@pytest.mark.parametrize("score", [bleu_scores, cider_score])
@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        ([], [], "references are empty"),
        (["a"], [[]], "references has no sentence for image 0"),
        (["a"], [["a"], ["b"]], "candidates has 1 captions, but references has 2 images"),
        ("ab", [["a"], ["b"]], "candidates is one string"),
        (["a", "b"], ["ab", "cd"], "references must hold a sequence"),
        (["a", "b"], "ab", "references must hold a sequence"),
    ],
)
def test_bad_arguments_are_refused_by_name(
    score: Any, candidates: Any, references: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        score(candidates, references)


def test_a_bad_corpus_and_a_bad_order_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"^document_frequency_corpus must hold a sequence"):
        cider_score(["a"], [["a"]], ["a b"])
    with pytest.raises(ValueError, match=r"^document_frequency_corpus are empty"):
        cider_score(["a"], [["a"]], [])
    with pytest.raises(ValueError, match=r"^order is 0"):
        bleu_scores(["a"], [["a"]], order=0)
