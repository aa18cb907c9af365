from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from answered import write_ranks
from finished import CONFIG, edit, finished

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.npy import names_in_npz
from crossmodal_bench.evaluation.ranking.ranks import Ranks
from crossmodal_bench.jobs.query_ids import load_query_ids
from crossmodal_bench.jobs.record import Record, read_record, read_records
from crossmodal_bench.jobs.submission import _for_readers, folder_size, submit
from crossmodal_bench.jobs.verification import check_record

Make = Callable[..., Record]


def test_a_submitted_job_is_complete_portable_and_says_the_same(make_record: Make, tmp_path: Path) -> None:
    record = finished(make_record, overrides={"data.images.weights": "/home/somebody/data/weights/net.pth"})
    (submitted,) = submit([record], tmp_path / "results")
    assert submitted.directory == tmp_path / "results" / "mine" / "acmr" / record.job.id
    assert sorted(path.name for path in submitted.directory.iterdir()) == [
        "config.yaml",
        "ranks.npz",
        "record.json",
    ]
    (copy,) = read_records(tmp_path / "results")
    assert copy.metrics == record.metrics
    assert copy.job.overrides == {"data.images.weights": "data/weights/net.pth"}
    assert check_record(copy) == []
    assert not submitted.verified and not submitted.replaced
    for path in submitted.directory.iterdir():
        assert b"somebody" not in path.read_bytes()
    config = yaml.safe_load(copy.files.config.read_text())
    assert config == {"data": {**CONFIG["data"], "root": "data", "cache": "runs/cache"}}
    assert load_query_ids(copy.files, copy.ranks) == load_query_ids(record.files, record.ranks)
    assert np.array_equal(Ranks.load(copy.ranks).i2t, Ranks.load(record.ranks).i2t)


@pytest.mark.parametrize(
    ("network", "portable"),
    [
        ("hf:/scratch/somebody/siglip", "hf:siglip"),
        ("hf:/home/somebody/data/models/siglip", "hf:data/models/siglip"),
        ("hf:openai/clip-vit-base-patch32", "hf:openai/clip-vit-base-patch32"),
    ],
)
def test_a_folder_of_a_dual_encoder_is_no_folder_of_this_machine(
    make_record: Make, tmp_path: Path, network: str, portable: str
) -> None:
    (submitted,) = submit([finished(make_record, overrides={"data.images.network": network})], tmp_path)
    assert read_record(submitted.directory).job.overrides == {"data.images.network": portable}


def test_scores_of_the_top_lists_are_kept_in_half_precision_where_it_holds_them() -> None:
    scores = np.array([[0.12345678, -3.0]], dtype=np.float32)
    half = _for_readers("i2t_top_scores", scores)
    assert half.dtype == np.float16 and np.allclose(half, scores, rtol=1e-3)
    # Negative squared distances, for one, leave its range.
    large = np.array([[-1e6, 1.0]], dtype=np.float32)
    assert _for_readers("t2i_top_scores", large) is large
    assert _for_readers("i2t_expected", scores) is scores


def test_ids_are_kept_once_for_all_runs_of_a_split(make_record: Make, tmp_path: Path) -> None:
    results = tmp_path / "results"
    submit([finished(make_record, seed=seed) for seed in range(3)], results)
    assert len(list(results.glob("mine/ids_*.npz"))) == 1
    assert all("image_ids" not in names_in_npz(record.ranks) for record in read_records(results))
    copies = submit(read_records(results), tmp_path / "again")
    assert [copy.replaced for copy in copies] == [False] * 3
    assert folder_size(tmp_path / "again") == folder_size(results) > 0


def test_ids_that_were_exchanged_are_noticed(make_record: Make, tmp_path: Path) -> None:
    submit([finished(make_record)], tmp_path)
    (shared,) = tmp_path.glob("mine/ids_*.npz")
    np.savez(shared, image_ids=np.array(["a"]), caption_ids=np.array(["b"]))
    (copy,) = read_records(tmp_path)
    assert "does not have the ids that" in check_record(copy)[0]
    shared.unlink()
    assert "is missing" in check_record(copy)[0]


def test_a_run_again_takes_the_place_of_the_earlier_one(make_record: Make, tmp_path: Path) -> None:
    submit([finished(make_record)], tmp_path)
    later = finished(make_record, share=0.2, finished_at="2026-02-02T00:00:00+00:00")
    (submitted,) = submit([later], tmp_path)
    assert submitted.replaced and read_record(submitted.directory).metrics == later.metrics


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('"evaluated_on": "test"', '"evaluated_on": "val"', "was evaluated on val"),
        ('"threads"', '"yarns"', "does not name its threads"),
        ('"protocol_version": 1', '"protocol_version": 7', "run its job again"),
        ('"rsum": ', '"rsum": 1', "gives rsum"),
    ],
)
def test_what_cannot_be_sent_in_is_one_sentence(
    make_record: Make, tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    path = edit(finished(make_record), old, new)
    with pytest.raises(BadInput, match=sentence):
        submit([read_record(path)], tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_stale_jobs_missing_configurations_and_broken_ranks_are_refused(
    make_record: Make, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="is stale: the sources or settings differ"):
        submit([finished(make_record, source_fingerprint="0" * 16)], tmp_path)
    record = finished(make_record)
    record.files.config.write_text("[]")
    with pytest.raises(BadInput, match="is damaged: it has no 'data'"):
        submit([record], tmp_path)
    record.files.config.unlink()
    with pytest.raises(BadInput, match="nobody could reproduce the job"):
        submit([record], tmp_path)
    record = finished(make_record)
    write_ranks(record, np.ones(3, np.int64), np.ones(15, np.int64))
    with pytest.raises(BadInput, match="has 3 images, but the record 40"):
        submit([record], tmp_path)
    record.ranks.write_bytes(b"PK no archive")
    with pytest.raises(BadInput, match=r"is not an .npz"):
        submit([record], tmp_path)
    record.ranks.unlink()
    with pytest.raises(BadInput, match="is missing"):
        submit([record], tmp_path)


def test_what_a_gpu_was_asked_for_makes_no_job_stale(make_record: Make, tmp_path: Path) -> None:
    record = finished(make_record)
    record.files.config.write_text(yaml.safe_dump({**CONFIG, "trainer": {"precision": "bf16-mixed"}}))
    assert submit([record], tmp_path)
    trainer = {"precision": "bf16-mixed", "max_epochs": 3}
    record.files.config.write_text(yaml.safe_dump({**CONFIG, "trainer": trainer}))
    with pytest.raises(BadInput, match=r"is stale: settings differ: trainer\.max_epochs; run its job"):
        submit([record], tmp_path)


def test_what_went_on_from_other_sources_is_not_sent_in(make_record: Make, tmp_path: Path) -> None:
    record = finished(make_record, taken_up=["crossmodal_bench.losses.ranking has changed"])
    with pytest.raises(BadInput, match=r"although crossmodal_bench\.losses\.ranking has changed; run its"):
        submit([record], tmp_path)


def test_a_sum_of_models_needs_its_models(make_record: Make, tmp_path: Path) -> None:
    members = [finished(make_record, seed=seed) for seed in range(2)]
    named = [
        {
            "id": member.job.id,
            "method": "acmr",
            "seed": member.job.seed,
            "overrides": {},
            "directory": f"mine/acmr/{member.job.id}",
            "finished_at": member.finished_at,
        }
        for member in members
    ]
    whole = finished(make_record, label="ensemble of 2 seeds", ensemble=named)
    with pytest.raises(BadInput, match="which is not submitted"):
        submit([whole], tmp_path)
    assert len(submit([*members, whole], tmp_path)) == 3
    assert len(submit([whole], tmp_path)) == 1
