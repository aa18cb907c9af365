"""Vectors of captions by a text tower: right, kept, resumed, and made anew where anything differs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import dual_encoders
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.datasets import Synthetic
from crossmodal_bench.data.features import extract_features
from crossmodal_bench.data.text_features import extract_text_features
from crossmodal_bench.networks.dual_encoders import ImageTower, TextTower


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Synthetic(20).read(Path("no data root"))


def rows_read(monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> list[int]:
    """Sentences of each batch that a tower is given from now on; it dies behind so many batches."""
    forward, seen = TextTower.forward, list[int]()

    def noted(self: TextTower, sentences: Any) -> torch.Tensor:
        if len(sentences) > 1:
            if stop_after is not None and len(seen) == stop_after:
                raise KeyboardInterrupt
            seen.append(len(sentences))
        return forward(self, sentences)

    monkeypatch.setattr(TextTower, "forward", noted)
    return seen


def test_every_caption_has_its_vector_and_no_second_pass(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert corpus.captions is not None
    name = dual_encoders.tiny()
    told: list[tuple[int, int]] = []
    made = extract_text_features(
        corpus, tmp_path, name, batch_size=50, progress=lambda done, total: told.append((done, total))
    )
    store, loaded = made.store, made.loaded
    array = store.array()
    assert array.shape == (len(corpus.captions), dual_encoders.DIM) and array.dtype == np.float32
    assert told[-1] == (len(corpus.captions),) * 2
    with torch.no_grad():
        expected = loaded.tower(corpus.captions[40:43])
    np.testing.assert_allclose(array[40:43], expected, rtol=1e-4, atol=1e-5)
    seen = rows_read(monkeypatch)
    again = extract_text_features(corpus, tmp_path, name)
    assert again.store.path == store.path and not seen


@pytest.mark.parametrize("family", ["clip", pytest.param("siglip", marks=pytest.mark.slow)])
def test_a_pass_that_was_killed_goes_on(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    name = dual_encoders.tiny(family)
    whole = extract_text_features(corpus, tmp_path / "whole", name, batch_size=16)
    with monkeypatch.context() as patched:
        rows_read(patched, stop_after=2)
        with pytest.raises(KeyboardInterrupt):
            extract_text_features(corpus, tmp_path / "killed", name, batch_size=16)
    seen = rows_read(monkeypatch)
    resumed = extract_text_features(corpus, tmp_path / "killed", name, batch_size=16)
    assert corpus.captions is not None and sum(seen) == len(corpus.captions) - 32
    assert np.array_equal(resumed.store.array(), whole.store.array())


@pytest.mark.parametrize("family", ["clip", pytest.param("siglip", marks=pytest.mark.slow)])
def test_a_pass_over_the_images_that_was_killed_goes_on(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    name, forward, seen = dual_encoders.tiny(family), ImageTower.forward, list[int]()

    def noted(self: ImageTower, pixels: torch.Tensor) -> torch.Tensor:
        # A single picture tells how wide the vectors are.
        if len(pixels) > 1:
            if len(seen) == 2:
                raise KeyboardInterrupt
            seen.append(len(pixels))
        return forward(self, pixels)

    def extract(folder: str) -> NDArray[np.float32]:
        return extract_features(corpus, tmp_path / folder, name, data_root=tmp_path, batch_size=8).array()

    whole = extract("whole")
    with monkeypatch.context() as patched:
        patched.setattr(ImageTower, "forward", noted)
        with pytest.raises(KeyboardInterrupt):
            extract("killed")
    (note,) = (tmp_path / "killed").rglob("*.json")
    assert json.loads(note.read_text())["done"] == sum(seen) == 16
    first = np.load(note.with_suffix(".partial"))[:16].copy()
    resumed = extract("killed")
    assert np.array_equal(resumed[:16], first) and np.array_equal(resumed, whole)


def test_captions_that_are_cut_are_counted_and_the_count_is_kept(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert corpus.captions is not None
    short = ("a red square",) * (len(corpus.captions) - 1)
    long = replace(corpus, captions=("the quick brown fox " * 30, *short))
    name = dual_encoders.tiny()
    made = extract_text_features(long, tmp_path, name)
    assert (made.cut, made.longest) == (1, dual_encoders.POSITIONS)
    with monkeypatch.context() as patched:
        patched.setattr(TextTower, "cut", None)
        assert extract_text_features(long, tmp_path, name).cut == 1
    made.store.path.with_suffix(".json").unlink()
    assert extract_text_features(long, tmp_path, name).cut == 1


def test_other_weights_or_captions_are_another_store(corpus: Corpus, tmp_path: Path) -> None:
    assert corpus.captions is not None
    other = dual_encoders.save("clip", tmp_path / "other", seed=1)
    changed = replace(corpus, captions=("another one", *corpus.captions[1:]))
    paths = {
        extract_text_features(data, tmp_path, name).store.path
        for data, name in ((corpus, dual_encoders.tiny()), (corpus, f"hf:{other}"), (changed, f"hf:{other}"))
    }
    assert len(paths) == 3


def test_what_has_no_captions_or_no_tower_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"data.text.network is 'bert'; name a dual encoder"):
        extract_text_features(corpus, tmp_path, "bert")
