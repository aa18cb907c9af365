from __future__ import annotations

import numpy as np
import pytest
import torch

from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.evaluation import evaluate
from crossmodal_bench.evaluation.items import owners, positives_of
from crossmodal_bench.jobs.inputs import fitting_protocols


def test_a_scorer_that_knows_every_sentence_is_right_under_equal_inputs_alone() -> None:
    # Four images for each of ten sets of three sentences.
    sentence = np.arange(120) % 30
    repeated = Corpus(
        name="mine",
        image_ids=tuple(f"image{row}" for row in range(41)),
        caption_ids=tuple(f"caption{row}" for row in range(121)),
        caption_image=np.append(np.arange(120) // 3, 40),
        split=np.array(["test"] * 40 + ["train"]),
        captions=(*(f"sentence {number}" for number in sentence), "what is trained on"),
    )
    plain, equal = fitting_protocols(repeated)
    texts = Encoding(torch.eye(30)[torch.from_numpy(sentence)])
    images = Encoding(torch.stack([texts.values[3 * row : 3 * row + 3].sum(0) for row in range(40)]))

    def dot(left: Encoding, right: Encoding) -> torch.Tensor:
        return left.values @ right.values.T

    owner = owners(repeated, "test")
    strict = evaluate(plain, images, texts, dot, owner).metrics
    widened = evaluate(
        equal, images, texts, dot, owner, positives=positives_of(repeated, "test", equal)
    ).metrics
    assert widened["i2t/R@1"] == widened["t2i/R@1"] == 100.0
    # Any of the four images, or of their captions, comes first with the same chance.
    assert strict["i2t/R@1"] == pytest.approx(25.0) and strict["t2i/R@1"] == pytest.approx(25.0)
