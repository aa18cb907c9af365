from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import crossmodal_bench as cb
from crossmodal_bench.cli.main import main
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data import CrossModalDataModule
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.datasets import Synthetic
from crossmodal_bench.jobs import experiments
from crossmodal_bench.jobs.encoded_gallery import EncodedGallery, read_gallery
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.serving import galleries
from crossmodal_bench.serving.embeddings import export_embeddings
from crossmodal_bench.serving.trained_run import COMPARE_VECTORS, Picture, TrainedRun, check_vectors
from crossmodal_bench.serving.weights import export_weights

Trained = Callable[[str], Record]
METHODS = experiments.names("methods")
QUICK = ("cca", "vse")
"""Those that are trained in a second."""


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Synthetic(20).read(Path("no data root"))


def pictures(corpus: Corpus, folder: Path, split: str = "test") -> Path:
    assert corpus.images is not None
    folder.mkdir()
    for row in corpus.image_rows(split):
        corpus.images[int(row)].save(folder / f"{corpus.image_ids[row]}.png")
    return folder


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in METHODS]
)
def test_a_copy_of_a_run_answers_without_its_data(
    method: str, trained: Trained, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(trained(method).directory, tmp_path / "copy")
    monkeypatch.setattr(Synthetic, "read", lambda self, root: pytest.fail("the data are gone"))
    run = cb.load(copy, runs=tmp_path, data_root=tmp_path)
    gallery = read_gallery(copy / "gallery.npz")
    rows = corpus.caption_rows("test")
    sentences = [corpus.captions[row] for row in rows]
    found = run.encode_texts(sentences)
    assert gallery.texts is not None and gallery.images is not None
    torch.testing.assert_close(found.values, gallery.texts.values, rtol=1e-4, atol=1e-5)
    scores = run.model.score(gallery.images, found[0:1]).flatten()
    answers = run.search(sentences[0], top=3)
    assert [answer.rank for answer in answers] == [1, 2, 3]
    best = scores.sort(descending=True)
    np.testing.assert_allclose([answer.score for answer in answers], best.values[:3], rtol=1e-3, atol=1e-4)
    assert answers[0].id == gallery.image_ids[int(best.indices[0])]
    assert answers[0].captions == tuple(gallery.captions_of(int(best.indices[0])))
    assert run.metrics == trained(method).metrics


def test_a_folder_is_encoded_once_and_again_where_it_has_changed(
    trained: Trained, corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(trained("cca").directory, tmp_path / "copy")
    folder = pictures(corpus, tmp_path / "pictures")
    (folder / "broken.png").write_bytes(b"no picture")
    run = cb.load(copy, runs=tmp_path)
    calls: list[tuple[int, int]] = []
    sentence = corpus.captions[corpus.caption_rows("test")[0]]

    def noted(done: int, total: int) -> None:
        calls.append((done, total))

    first = run.search(sentence, gallery=folder, progress=noted)
    assert calls == [(5, 5)] and "broken.png cannot be read" in capsys.readouterr().err
    assert [answer.id.removesuffix(".png") for answer in first] == [
        answer.id for answer in run.search(sentence)
    ]
    assert run.search(sentence, gallery=folder, progress=noted) == first and len(calls) == 1
    described = run.gallery(folder, of_pictures=True).described
    assert described == f"the 4 pictures in {folder} (1 more are unreadable)"
    (folder / "broken.png").unlink()
    assert run.search(sentence, gallery=folder, progress=noted) == first and calls[1:] == [(4, 4)]
    assert len(list(copy.glob("gallery_pictures-*.npz"))) == 1


def test_a_picture_finds_captions_and_lines_of_a_file(
    trained: Trained, corpus: Corpus, tmp_path: Path
) -> None:
    run = cb.load(trained("cca").directory)
    folder = pictures(corpus, tmp_path / "pictures")
    name = corpus.image_ids[corpus.image_rows("test")[0]]
    answers = run.search(image=folder / f"{name}.png", top=2)
    assert answers[0].image in corpus.image_ids and answers[0].captions[0] in corpus.captions
    lines = tmp_path / "sentences.txt"
    lines.write_text("\n".join([*(answer.captions[0] for answer in reversed(answers)), "", "a white cross"]))
    found = run.search(image=Image.open(folder / f"{name}.png"), gallery=lines, top=2)
    assert [answer.captions for answer in found] == [answer.captions for answer in answers]
    np.testing.assert_allclose([a.score for a in found], [a.score for a in answers], rtol=1e-4)


def test_the_command_encodes_a_gallery_once_and_prints_answers_alone(
    trained: Trained,
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = pictures(corpus, tmp_path / "pictures")
    encoded: list[int] = []
    encode = TrainedRun.encode_images

    def noted(self: TrainedRun, given: Sequence[Picture]) -> Encoding:
        encoded.append(len(given))
        return encode(self, given)

    def refuse(path: Path, gallery: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(TrainedRun, "encode_images", noted)
    # As of a run in a folder of somebody else's.
    monkeypatch.setattr(galleries, "write_gallery", refuse)
    words = ["retrieve", str(trained("cca").directory), "--text", "a red circle", "--json"]
    assert main([*words, "--gallery", str(folder)]) == 0
    printed = capsys.readouterr()
    assert encoded == [4] and "will be encoded again next time" in printed.err
    assert len(json.loads(printed.out)["answers"]) == 4
    # Where the encodings of the split are not there, what is said of that is no part of the answer.
    kept = galleries.read_gallery(trained("cca").files.encoded_gallery)

    def encoded_again(record: Record, root: Path, say: Callable[[str], None]) -> EncodedGallery:
        say("Encoding the test split")
        return kept

    monkeypatch.setattr("crossmodal_bench.serving.trained_run.kept_gallery", encoded_again)
    assert main(words) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["answers"] and "Encoding the test split" in printed.err


def test_what_is_handed_out_keeps_nobodys_pictures(
    trained: Trained, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own cache"))
    folder = pictures(corpus, tmp_path / "pictures")
    export_weights(cb.load(trained("cca").directory), tmp_path / "weights")
    before = {path.name for path in (tmp_path / "weights").iterdir()}
    run = cb.load(tmp_path / "weights")
    first = run.search("a red circle", gallery=folder)
    lines = tmp_path / "sentences.txt"
    lines.write_text("a red circle")
    run.search(image=next(folder.iterdir()), gallery=lines)
    assert {path.name for path in (tmp_path / "weights").iterdir()} == before
    assert len(list((tmp_path / "own cache").rglob("gallery_*.npz"))) == 2
    monkeypatch.setattr(galleries, "_encoded_pictures", lambda *_: pytest.fail("it is kept"))
    assert run.search("a red circle", gallery=folder) == first
    with pytest.raises(BadInput, match=r"exported run without its test split.* name the original run"):
        export_embeddings(run, tmp_path / "vectors")


@pytest.mark.slow
@pytest.mark.parametrize("method", COMPARE_VECTORS)
def test_methods_to_choose_instead_compare_vectors(method: str, trained: Trained) -> None:
    check_vectors(cb.load(trained(method).directory))


def test_a_row_of_given_vectors_is_not_offered_a_job(make_record: Callable[..., Record]) -> None:
    record = make_record(preset="given", method="theirs-exported")
    with pytest.raises(BadInput, match="was evaluated from vectors") as refused:
        cb.load(record.directory)
    assert "reproduce" not in str(refused.value)


def test_what_cannot_be_encoded_is_told_with_what_would_be_needed(
    trained: Trained, corpus: Corpus, tmp_path: Path
) -> None:
    run = cb.load(trained("vse").directory)
    folder = pictures(corpus, tmp_path / "pictures")
    # As of SCAN, which reads the scenes' own regions.
    run.pictures.state = replace_state(run.pictures.state, requires=("regions", "words"))
    with pytest.raises(BadInput, match=r"reads the regions .*--set data\.images\.regions=grid"):
        run.search("a red circle", gallery=folder)
    with pytest.raises(BadInput, match="reads the regions"):
        run.encode_images([next(folder.iterdir())])
    # As of a data set of text features, and of one whose image features nobody can make.
    run.preprocessing.state = replace_state(run.preprocessing.state, requires=("bow",), bag=None)
    with pytest.raises(BadInput, match=r"reads the text features .* a data set with captions"):
        run.search("a red circle")
    run.pictures.state = replace_state(run.pictures.state, requires=("features",))
    run.pictures.dataset = type("Features", (Synthetic,), {"describes_pictures": False})(20)
    with pytest.raises(BadInput, match=r"image features .*--network mobilenet_v2"):
        run.encode_images([Image.new("RGB", (64, 64))])


def replace_state(state, **changes):  # type: ignore[no-untyped-def]
    return state.model_copy(update=changes)


def test_unknown_words_are_told_and_a_sentence_of_nothing_else_is_refused(trained: Trained) -> None:
    run = cb.load(trained("vse").directory)
    assert run.unknown_words("A red crcle, a DINOSAUR and a dinosaur") == ["crcle", "dinosaur"]
    remarks = run.word_remarks("a red crcle and a dinosaur")
    assert "'crcle'" in remarks[0] and "did you mean 'circle'?" in remarks[0]
    assert "'dinosaur'" in remarks[1] and "did you mean" not in remarks[1]
    with pytest.raises(BadInput, match=r"no word of 'zebra crossing' is one of the .* words"):
        run.search("zebra crossing")
    with pytest.raises(BadInput, match="empty"):
        run.search("  ")


def test_a_search_is_for_one_thing(trained: Trained, tmp_path: Path) -> None:
    run = cb.load(trained("vse").directory)
    for words in ({}, {"text": "a circle", "image": "a.png"}):
        with pytest.raises(BadInput, match="a sentence or a picture"):
            run.search(**words)
    with pytest.raises(BadInput, match="contains no pictures"):
        run.search("a circle", gallery=tmp_path)
    with pytest.raises(BadInput, match="is not a folder"):
        run.search("a circle", gallery=tmp_path / "missing")
    with pytest.raises(BadInput, match="a list"):
        run.encode_texts("a circle")
    with pytest.raises(BadInput, match=r"missing\.png does not exist"):
        run.search(image=tmp_path / "missing.png")
    with pytest.raises(BadInput, match="is a folder; name a picture"):
        run.search(image=tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(BadInput, match=r"broken\.png cannot be read[^;]*; name another picture$"):
        run.search(image=tmp_path / "broken.png")


def test_loading_changes_nothing_of_the_session(trained: Trained) -> None:
    record = trained("vse")
    torch.use_deterministic_algorithms(False)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    cb.load(record.directory)
    assert torch.equal(torch.rand(3), expected) and not torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
def test_a_run_of_an_earlier_version_takes_its_vocabulary_from_the_data(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(trained("vse").directory, tmp_path / "copy")
    today = cb.load(copy).preprocessing.state
    for path in copy.glob("*.ckpt"):
        content = torch.load(path, weights_only=True)
        del content[CrossModalDataModule.__qualname__]
        torch.save(content, path)
    assert cb.load(copy).preprocessing.state == today
    other = Synthetic(21).read(tmp_path)
    monkeypatch.setattr(Synthetic, "read", lambda self, root: other)
    with pytest.raises(BadInput, match="have changed in"):
        cb.load(copy)


def test_runs_without_a_model_and_rows_of_several_seeds_are_told(trained: Trained, tmp_path: Path) -> None:
    copy = shutil.copytree(trained("vse").directory, tmp_path / "runs" / "d" / "m" / "one")
    for path in copy.glob("*.ckpt"):
        path.unlink()
    with pytest.raises(BadInput, match="has no weights"):
        cb.load("d/m", runs=tmp_path / "runs")
    shutil.copytree(copy, copy.with_name("two"))
    with pytest.raises(BadInput, match="contains 2 runs; name one of them"):
        cb.load("d/m", runs=tmp_path / "runs")
    with pytest.raises(BadInput, match="is not a run"):
        cb.load("d/n", runs=tmp_path / "runs")


@pytest.mark.slow
def test_fragments_that_are_not_kept_are_encoded_once_from_the_data(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    copy = shutil.copytree(trained("scan").directory, runs / "synthetic-20" / "scan" / "one")
    kept = cb.load(copy).search("a red circle", top=4)
    (copy / "gallery.npz").unlink()
    again = cb.load(copy).search("a red circle", top=4)
    printed = capsys.readouterr()
    assert "Encoding the test split" in printed.err and printed.out == ""
    assert [answer.id for answer in again] == [answer.id for answer in kept]
    assert len(list(copy.glob("gallery_test-*.npz"))) == 1
    monkeypatch.setattr(Synthetic, "read", lambda self, root: pytest.fail("it is kept by now"))
    assert cb.load(copy).search("a red circle", top=4) == again
