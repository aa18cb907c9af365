"""A tiny COCO with judgements of its own, from files to a record that its ranks confirm."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossmodal_bench import evaluate_embeddings
from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.plan import make_plan
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data.datasets import Karpathy
from crossmodal_bench.evaluation import PROTOCOLS
from crossmodal_bench.evaluation.protocols import judgements
from crossmodal_bench.evaluation.protocols.splits import describe
from crossmodal_bench.jobs.inputs import fitting_protocols, items_of_test
from crossmodal_bench.jobs.record import read_record
from crossmodal_bench.jobs.state import state_of
from crossmodal_bench.jobs.verification import check_record
from crossmodal_bench.reporting.comparison.chance import searched
from crossmodal_bench.reporting.report import print_leaderboard
from crossmodal_bench.training.worker import run_job

N, EACH, WIDTH = 6, 2, 8
OF_IMAGES = {100: [1000, 1003, 1010, 1012], 103: [1006, 1007]}
"""By image that is asked, the captions that are right; 1012 is not in the gallery."""
OF_CAPTIONS = {1003: [101, 100], 1011: [105], 1006: [103, 104]}


@pytest.fixture
def tiny_coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root: images 100 to 105 are test, with captions 1000 to 1011 and a thirteenth, of image 105."""
    folder = tmp_path / "data" / "coco"
    folder.mkdir(parents=True)
    entries = []
    for row in range(4 * N):
        test = row < N
        numbers = [1000 + row * EACH + k for k in range(EACH)] + ([1012] if row == N - 1 else [])
        entries.append(
            {
                "filename": f"COCO_val2014_{100 + row:012d}.jpg",
                "filepath": "val2014",
                "split": "test" if test else ("val" if row < 2 * N else "train"),
                "sentences": [
                    {"raw": f"a picture of {_word(number)}", "sentid": number if test else 10**6 + number}
                    for number in numbers
                ],
            }
        )
    (folder / "dataset_coco.json").write_text(json.dumps({"images": entries}), encoding="utf-8")
    features = np.random.default_rng(0).normal(size=(len(entries), WIDTH)).astype(np.float32)
    np.save(folder / "features.npy", features)
    judged = tmp_path / "judged"
    judged.mkdir()
    np.save(judged / "coco_test_ids.npy", np.arange(1000, 1012))
    for name in ("eccv", "cxc"):
        for side, answers in (("image_to_caption", OF_IMAGES), ("caption_to_image", OF_CAPTIONS)):
            (judged / f"{name}_{side}.json").write_text(json.dumps(answers), encoding="utf-8")
    monkeypatch.setattr(judgements, "_folder", lambda: judged)
    known = describe(items_of_test(Karpathy("coco").read(tmp_path / "data")), "coco")
    known = known.model_copy(
        update={"caption_ids": "", "texts": "", "counts": "", "captions_per_image": EACH}
    )
    for name in ("coco-5k", "coco-1k-5fold", "coco-5k-eccv", "coco-5k-cxc"):
        folds = 2 if PROTOCOLS[name].folds > 1 else 1
        tiny = dataclasses.replace(PROTOCOLS[name], images=N, captions=(13, 12), split=known, folds=folds)
        monkeypatch.setitem(PROTOCOLS, name, tiny)
    return tmp_path / "data"


def _word(number: int) -> str:
    return "".join("abcdefghij"[int(digit)] for digit in str(number))


def given(root: Path) -> dict[str, Any]:
    corpus = Karpathy("coco").read(root)
    rows = corpus.image_rows("test"), corpus.caption_rows("test")
    rng = np.random.default_rng(1)
    return {
        "images": rng.normal(size=(len(rows[0]), 3)),
        "texts": rng.normal(size=(len(rows[1]), 3)),
        "similarity": "dot",
        "image_ids": [corpus.image_ids[row] for row in rows[0]],
        "caption_ids": [corpus.caption_ids[row] for row in rows[1]],
    }


def test_vectors_of_ones_own_are_measured_by_judgements(
    tiny_coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = given(tiny_coco)
    scored = evaluate_embeddings(
        **inputs, protocol="coco-5k-eccv", data_root=tiny_coco, runs=tmp_path / "runs"
    )
    names = ["coco-5k", "coco-1k-5fold", "coco-5k-eccv", "coco-5k-cxc"]
    assert list(scored.metrics) == names
    scores = inputs["images"] @ inputs["texts"].T
    precision, average = [], []
    for image, captions in OF_IMAGES.items():
        order = np.argsort(-scores[image - 100, :12])[: len(captions)]
        hits = np.isin(order, np.array(captions) - 1000)
        precision.append(hits.sum() / len(captions))
        average.append((hits * np.cumsum(hits) / np.arange(1, len(hits) + 1)).sum() / len(captions))
    found = scored.metrics["coco-5k-eccv"]
    assert found["i2t/R-Precision"] == pytest.approx(100 * np.mean(precision))
    assert found["i2t/mAP@R"] == pytest.approx(100 * np.mean(average))
    assert scored.record is not None and check_record(scored.record) == []
    part = {each.job.protocol: each for each in scored.record.by_protocol()}["coco-5k-eccv"]
    assert part.asked == {
        "i2t": {"gallery": 12, "queries": 2, "positives": 5},
        "t2i": {"gallery": 6, "queries": 3, "positives": 5},
    }
    assert (searched(part, "i2t").gallery, searched(part, "i2t").positives) == (12, 2.5)
    print_leaderboard([scored.record])
    printed = capsys.readouterr().out
    assert "ranked by mAP@R" in printed and "asked: 2 images" in " ".join(printed.split())


def test_judgements_need_ids_and_the_data_set(tiny_coco: Path) -> None:
    inputs = given(tiny_coco)
    with pytest.raises(BadInput, match=r"'coco-5k-eccv' cannot be measured .*dataset_coco\.json"):
        evaluate_embeddings(**inputs, protocol="coco-5k-eccv", data_root=None)
    del inputs["image_ids"], inputs["caption_ids"]
    with pytest.raises(BadInput, match="'coco-5k-cxc' cannot be measured"):
        evaluate_embeddings(**inputs, protocol="coco-5k-cxc", data_root=tiny_coco)
    scored = evaluate_embeddings(**inputs, protocol="coco-5k", data_root=tiny_coco)
    assert [each.name for each in scored.protocols] == ["coco-test", "coco-test-2fold"]


def test_pairs_in_the_data_sets_folder_are_measured_beside_it(tiny_coco: Path) -> None:
    lines = ["image,caption", "COCO_val2014_000000000100.jpg,1000"]
    lines += ["val2014/COCO_val2014_000000000100.jpg,val2014/COCO_val2014_000000000101.jpg#1"]
    (tiny_coco / "coco" / "positives.csv").write_text("\n".join(lines), encoding="utf-8")
    corpus = Karpathy("coco").read(tiny_coco)
    assert corpus.positive_rows().tolist() == [[0, 0], [0, 3]]
    protocol = fitting_protocols(corpus)[-1]
    assert protocol.name.startswith("coco-5k-pairs-")
    assert (protocol.families, protocol.test_only) == (("ranks", "all_positives"), True)
    # Vectors from elsewhere, with the same pairs in a file, are measured under the same name.
    scored = evaluate_embeddings(
        **given(tiny_coco),
        protocol="coco-5k",
        positives=[[0, 0], [0, 3]],
        data_root=tiny_coco,
    )
    assert [each.name for each in scored.protocols] == [protocol.name]
    assert Karpathy("coco").read(tiny_coco).fingerprint == corpus.fingerprint
    (tiny_coco / "coco" / "positives.csv").write_text("\n".join(lines[:2]), encoding="utf-8")
    fewer = Karpathy("coco").read(tiny_coco)
    assert fewer.fingerprint == corpus.fingerprint, "features and other protocols stay as they are"
    assert fitting_protocols(fewer)[-1].name != protocol.name
    (tiny_coco / "coco" / "positives.csv").write_text("x.jpg,1000", encoding="utf-8")
    with pytest.raises(BadInput, match=r"positives\.csv: pair 0 names image 'x.jpg', which is not in"):
        Karpathy("coco").read(tiny_coco)
    other = "COCO_val2014_000000000106.jpg,1000"
    (tiny_coco / "coco" / "positives.csv").write_text(other, encoding="utf-8")
    with pytest.raises(BadInput, match=r"positives\.csv: pair 0 names image .* is not in the test split"):
        Karpathy("coco").read(tiny_coco)


def test_a_method_of_the_bench_is_measured_by_all_of_them(tiny_coco: Path, tmp_path: Path) -> None:
    (tiny_coco / "coco" / "positives.csv").write_text(
        "COCO_val2014_000000000100.jpg,1000\nCOCO_val2014_000000000100.jpg,1011", encoding="utf-8"
    )
    options = BenchOptions(
        dataset="coco", data_root=tiny_coco, methods="cca", preset="small", runs=tmp_path / "runs"
    )
    (planned,) = make_plan(options, gpu=False)
    assert not planned.missing
    planned.directory.mkdir(parents=True)
    run_job(planned, "cpu")
    record = read_record(planned.directory)
    assert check_record(record) == []
    assert state_of(dataclasses.replace(planned, measure_missing=True)).name == "done", "nothing is lacking"
    parts = {each.job.protocol: each for each in record.by_protocol()}
    names = ["coco-5k", "coco-1k-5fold", "coco-5k-eccv", "coco-5k-cxc"]
    assert list(parts)[:4] == names and list(parts)[4].startswith("coco-5k-pairs-")
    assert "mAP@R" in parts["coco-5k-eccv"].metrics and "mAP@R" not in parts["coco-5k-cxc"].metrics
    assert list(parts.values())[4].asked["i2t"] == {"gallery": 13, "queries": 1, "positives": 2}
