"""Panels of what a model retrieves and generates: which queries, which items, which marks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from crossmodal_bench.data import Corpus
from crossmodal_bench.data.datasets import Synthetic
from crossmodal_bench.data.text import Vocabulary
from crossmodal_bench.evaluation import Ranks, retrieval_ranks
from crossmodal_bench.reporting.figures import drawing, qualitative
from crossmodal_bench.training.generated_outputs import shown_queries


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Synthetic(size="tiny").read(Path())


@pytest.fixture(scope="module")
def ranks(corpus: Corpus) -> Ranks:
    owners = np.searchsorted(corpus.image_rows("test"), corpus.caption_image[corpus.caption_rows("test")])
    scores = torch.rand(48, len(owners), generator=torch.Generator().manual_seed(0))
    # The own captions first, for every other image.
    for column, image in enumerate(owners):
        scores[image, column] += 2 * (image % 2 == 0)
    return retrieval_ranks(scores, owners)


def texts(figure: Figure) -> str:
    return "\n".join(
        text.get_text() for axis in figure.axes for text in (*axis.texts, axis.title, axis._left_title)
    )


def test_queries_are_spread_and_the_same_for_all() -> None:
    assert shown_queries(100) == [0, 33, 66, 99] and shown_queries(2) == [0, 1] and shown_queries(1) == [0]


def test_captions_are_marked_where_they_are_the_images_own(
    corpus: Corpus, ranks: Ranks, drawn: list[Figure]
) -> None:
    assert corpus.captions is not None
    written = [f"nothing like $ {number}" for number in range(48)]
    content = qualitative.captions_panel(corpus, "test", ranks, written)
    assert content.startswith(b"\x89PNG")
    captions = corpus.caption_rows("test")
    blocks = [axis.texts[0].get_text() for axis in drawn[0].axes if axis.texts]
    assert len(blocks) == 4
    for block, query in zip(blocks, shown_queries(48), strict=True):
        for row in ranks.i2t_top[query][:5]:
            own = corpus.caption_image[captions[row]] == corpus.image_rows("test")[query]
            first = " ".join(corpus.captions[captions[row]].split()[:4])
            assert f"{'✓' if own else '–'} {first}" in " ".join(block.split())
        assert f"writes: nothing like $ {query}" in block
    drawn.clear()
    qualitative.captions_panel(corpus, "test", ranks, [])
    assert "writes" not in texts(drawn[0])


def test_pictures_stand_beside_those_that_are_drawn(
    corpus: Corpus, ranks: Ranks, drawn: list[Figure]
) -> None:
    pictures = torch.linspace(-1, 1, 4)[:, None, None, None].expand(4, 3, 64, 64)
    qualitative.pictures_panel(corpus, "test", ranks, pictures)
    assert len(drawn[0].axes) == 4 * 7
    last = [drawn[0].axes[7 * line + 6].images[0].get_array() for line in range(4)]
    assert [float(np.asarray(one).mean()) for one in last] == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=1e-6)
    captions, images = corpus.caption_rows("test"), corpus.image_rows("test")
    for line, query in enumerate(shown_queries(len(captions))):
        for place, row in enumerate(ranks.t2i_top[query][:5], start=1):
            axis = drawn[0].axes[7 * line + place]
            own = corpus.caption_image[captions[query]] == images[row]
            assert axis.axison and all(side.get_visible() == own for side in axis.spines.values())
    drawn.clear()
    qualitative.pictures_panel(corpus, "test", ranks, None)
    assert len(drawn[0].axes) == 4 * 6


def test_words_are_the_frequent_ones_with_content(drawn: list[Figure]) -> None:
    vocabulary = Vocabulary(("<pad>", "<unk>", "<start>", "<end>", "the", "dog", "ox", "cat", "bird", "b2b"))
    assert qualitative.words_panel(vocabulary, np.random.default_rng(0).normal(size=(10, 5))) is not None
    assert {text.get_text() for text in drawn[0].axes[0].texts} == {"dog", "cat", "bird"}
    assert qualitative.words_panel(Vocabulary(vocabulary.words[:6]), np.ones((6, 5))) is None


def test_drawing_is_the_houses(corpus: Corpus, ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "png", lambda figure: b"png")
    assert qualitative.captions_panel(corpus, "test", ranks, []) == b"png"
