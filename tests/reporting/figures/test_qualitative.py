"""Panels of what a model retrieves and generates: which queries, which items, which marks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from crossmodal_bench.data import Corpus
from crossmodal_bench.data.datasets import Synthetic
from crossmodal_bench.data.text import Vocabulary
from crossmodal_bench.reporting.figures import drawing, qualitative
from crossmodal_bench.training.shown_retrieval import RetrievedItems


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Synthetic(size="tiny").read(Path())


@pytest.fixture
def found() -> RetrievedItems:
    """Two queries whose best item is right, and two whose first right item comes third and ninth."""
    top = np.arange(20).reshape(4, 5)
    right = np.zeros((4, 5), dtype=bool)
    right[[0, 1], 0] = right[2, 2] = True
    return RetrievedItems(np.array([3, 30, 7, 41]), top, right, np.array([1, 1, 3, 9]))


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def test_right_captions_are_marked_and_a_miss_is_said(
    corpus: Corpus, found: RetrievedItems, drawn: list[Figure]
) -> None:
    assert corpus.captions is not None
    written = [f"nothing like $ {number}" for number in range(48)]
    content = qualitative.captions_panel(corpus, "test", found, written)
    assert content.startswith(b"\x89PNG")
    captions = corpus.caption_rows("test")
    headings, blocks = texts(drawn[0])[::2], texts(drawn[0])[1::2]
    assert headings == ["found", "found", "missed: rank 3", "missed: rank 9"]
    assert len(drawn[0].images) == len(blocks) == 4
    for index, (block, query) in enumerate(zip(blocks, found.queries, strict=True)):
        for row, right in zip(found.top[index], found.right[index], strict=True):
            first = " ".join(corpus.captions[captions[row]].split()[:4])
            assert f"{'✓' if right else '–'} {first}" in " ".join(block.split())
        assert f"writes: nothing like $ {query}" in block
    drawn.clear()
    qualitative.captions_panel(corpus, "test", found, [])
    assert not any("writes" in text for text in texts(drawn[0]))


def test_pictures_stand_beside_those_that_are_drawn(
    corpus: Corpus, found: RetrievedItems, drawn: list[Figure]
) -> None:
    pictures = torch.linspace(-1, 1, 4)[:, None, None, None].expand(4, 3, 64, 64)
    qualitative.pictures_panel(corpus, "test", found, pictures)
    assert len(drawn[0].images) == 4 * 7
    last = [np.asarray(drawn[0].images[7 * line + 6].get_array()) for line in range(4)]
    assert [float(picture.mean()) for picture in last] == pytest.approx([0, 85, 170, 255], abs=0.5)
    frames = [patch.get_xy() for patch in drawn[0].findobj(Rectangle) if patch is not drawn[0].patch]
    places = [(image.ox, image.oy) for image in drawn[0].images]
    framed = [place in frames for line in range(4) for place in places[7 * line + 1 : 7 * line + 6]]
    assert framed == found.right.ravel().tolist()
    assert "(found; the last one is drawn)" in texts(drawn[0])[0]
    assert "(missed: rank 9; the last one is drawn)" in texts(drawn[0])[3]
    drawn.clear()
    qualitative.pictures_panel(corpus, "test", found, None)
    assert len(drawn[0].images) == 4 * 6 and "is drawn" not in texts(drawn[0])[0]


def test_words_are_the_frequent_ones_with_content(drawn: list[Figure]) -> None:
    vocabulary = Vocabulary(("<pad>", "<unk>", "<start>", "<end>", "the", "dog", "ox", "cat", "bird", "b2b"))
    assert qualitative.words_panel(vocabulary, np.random.default_rng(0).normal(size=(10, 5))) is not None
    assert {text.get_text() for text in drawn[0].axes[0].texts} == {"dog", "cat", "bird"}
    assert qualitative.words_panel(Vocabulary(vocabulary.words[:6]), np.ones((6, 5))) is None


def test_drawing_is_the_houses(
    corpus: Corpus, found: RetrievedItems, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    draw = drawing.png
    monkeypatch.setattr(drawing, "png", lambda figure: drawn.append(figure) or draw(figure))
    assert qualitative.captions_panel(corpus, "test", found, []).startswith(b"\x89PNG")
    assert len(drawn) == 1
