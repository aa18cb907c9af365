from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import fakes
import numpy as np
import pytest
from PIL import Image
from ranked import Pictures, split_corpus

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data.datasets import Karpathy
from crossmodal_bench.data.language.words import tokenize
from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.page import gallery as galleries
from crossmodal_bench.reporting.page.gallery import (
    LARGEST_THUMBNAIL,
    SAME_WORDS,
    colour_grid,
    gallery_of,
    keep_gallery,
    load_gallery,
    make_gallery,
    near_captions,
    near_pictures,
    save_gallery,
    thumbnail,
)

Maker = Callable[..., Record]


def test_what_is_kept_comes_back_and_has_the_same_bytes_again(tmp_path: Path) -> None:
    corpus = split_corpus()
    made = make_gallery(corpus, "test")
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"
    save_gallery(first, made)
    save_gallery(second, make_gallery(corpus, "test"))
    assert first.read_bytes() == second.read_bytes()
    loaded = load_gallery(first)
    for name, value in vars(made).items():
        assert np.array_equal(getattr(loaded, name), value), name
    test = corpus.caption_rows("test")
    assert loaded.captions == tuple(corpus.captions[row] for row in test)  # type: ignore[index]
    assert loaded.owner.tolist() == np.repeat(np.arange(12), 3).tolist()


def test_words_are_counted_and_rare_by_the_training_captions() -> None:
    gallery = make_gallery(split_corpus(), "test")
    assert gallery.words.tolist() == [len(caption.split()) for caption in gallery.captions]
    # The first caption of an image has a word that no other has.
    assert gallery.rarest[::3].tolist() == [0] * 12
    assert gallery.rarest[1::3].min() > 0


def test_small_pictures_are_small_and_of_the_same_shape() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 600, 3), dtype=np.uint8))
    for picture, shape in ((Pictures(1, {})[0], (112, 84)), (noise, (112, 56))):
        content = thumbnail(picture)
        assert 0 < len(content) <= LARGEST_THUMBNAIL
        assert content == thumbnail(picture)
        assert Image.open(io.BytesIO(content)).size == shape


def test_pictures_that_nearly_repeat_one_another_are_known() -> None:
    pictures = [Pictures(8, {})[row] for row in range(8)]
    # Saved again, smaller: what people call the same picture.
    stream = io.BytesIO()
    pictures[2].resize((90, 70)).save(stream, "JPEG", quality=50)
    pictures[5] = Image.open(stream).convert("RGB")
    grids = np.stack([colour_grid(picture) for picture in pictures])
    assert np.flatnonzero(near_pictures(grids, 8)).tolist() == [2, 5]
    grids[2] = np.nan
    assert not near_pictures(grids, 8).any()
    assert near_pictures(grids[:0], 8).tolist() == [False] * 8
    gallery = make_gallery(split_corpus(like={7: 3}), "test")
    assert np.flatnonzero(gallery.image_twin).tolist() == [3, 7]


def test_captions_that_nearly_repeat_one_another_are_those_of_a_naive_search() -> None:
    rng = np.random.default_rng(0)
    vocabulary = np.array([f"w{number}" for number in range(9)])
    words = [list(rng.choice(vocabulary, rng.integers(0, 8))) for _ in range(250)]
    owner = rng.integers(0, 60, 250)
    naive = np.zeros(250, bool)
    for row in range(250):
        for other in range(250):
            ours, theirs = set(words[row]), set(words[other])
            if owner[row] != owner[other] and ours | theirs:
                naive[row] |= len(ours & theirs) / len(ours | theirs) >= SAME_WORDS - 1e-9
    assert 20 < naive.sum() < 230
    assert near_captions(words, owner).tolist() == naive.tolist()


def test_a_job_keeps_it_once_and_a_failure_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = split_corpus()
    files = JobDirectory.of(tmp_path, "flickr8k", "vse", "0" * 16)
    keep_gallery(files, corpus, "test")
    assert "is not saved (No such file or directory), so reports will show its queries by their ids" in (
        capsys.readouterr().err
    )
    files.path.mkdir(parents=True)
    keep_gallery(files, corpus, "test")
    path = files.shown_gallery(corpus.fingerprint, "test")
    assert path.parent == tmp_path / "flickr8k" and len(load_gallery(path).thumbnails) == 12
    monkeypatch.setattr(galleries, "make_gallery", lambda *_: pytest.fail("made twice"))
    keep_gallery(JobDirectory.of(tmp_path, "flickr8k", "cca", "1" * 16), corpus, "test")


def test_it_is_read_from_the_data_set_where_a_record_lacks_it(
    tmp_path: Path, runs: Path, make_recall_record: Maker
) -> None:
    root = tmp_path / "data"
    fakes.write_karpathy(root)
    corpus = Karpathy("flickr8k").read(root)
    data = {"fingerprint": corpus.fingerprint, "split_hash": "5" * 16, "counts": corpus.counts()}
    data |= {"labels": {}, "features": None}
    record = make_recall_record(data=data)
    assert gallery_of(record, runs, None) is None
    assert gallery_of(record, runs, tmp_path / "nowhere") is None
    other = make_recall_record(method="cca", data={**data, "fingerprint": "a" * 16})
    assert gallery_of(other, runs, root) is None
    read = gallery_of(record, runs, root)
    assert read is not None and len(read.thumbnails) == 5
    # From now on the data set is not needed.
    kept = gallery_of(record, runs, None)
    assert kept is not None and kept.captions == read.captions
    assert tokenize(read.captions[0])


@pytest.mark.parametrize("fingerprint, split", [("../../x", "test"), ("d" * 16, "../x"), ("", "test")])
def test_a_records_words_lead_nowhere(
    fingerprint: str, split: str, make_content: Callable[..., dict], make_recall_record: Maker, runs: Path
) -> None:
    data = {**make_content()["data"], "fingerprint": fingerprint}
    record = make_recall_record(data=data, evaluated_on=split)
    assert gallery_of(record, runs, None) is None


def test_a_damaged_file_is_one_sentence(
    tmp_path: Path, make_recall_record: Maker, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gallery.npz"
    whole = make_gallery(split_corpus(), "test")
    for change in (
        {"owner": whole.owner + 100},
        {"owner": whole.owner[:-1]},
        {"captions": whole.captions[:-1]},
        {"thumbnails": whole.thumbnails[:-1]},
        {"words": whole.words.astype(np.float64)},
        {"picture": whole.picture - 5},
    ):
        save_gallery(path, galleries.Gallery(**{**vars(whole), **change}))  # type: ignore[arg-type]
        with pytest.raises(BadInput, match=r"gallery.npz is damaged \(.*\); delete it and run the report"):
            load_gallery(path)
    # What is no small picture is none.
    save_gallery(path, galleries.Gallery(**{**vars(whole), "thumbnails": (b"<svg>",) * 12}))  # type: ignore[arg-type]
    assert load_gallery(path).thumbnails == (b"",) * 12
    record = make_recall_record()
    kept = record.files.shown_gallery(record.data.fingerprint, "test")
    kept.write_bytes(b"cut")
    assert gallery_of(record, runs, None) is None
    assert "queries are shown by their ids until then" in capsys.readouterr().err
    os.replace(path, tmp_path / "elsewhere.npz")
    kept.unlink()
    kept.symlink_to(tmp_path / "elsewhere.npz")
    assert gallery_of(record, runs, None) is None
