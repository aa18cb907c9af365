from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from answered import CAPTIONS, write_ranks
from finished import IMAGES, finished

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.evaluation import rank_metrics
from crossmodal_bench.evaluation.ranking.query_ranks import QueryRanks
from crossmodal_bench.evaluation.ranking.ranks import Ranks, write_results
from crossmodal_bench.jobs.record import Record, read_record, write_record
from crossmodal_bench.reporting.comparison.run_comparison import compare_rows, report_lines

Make = Callable[..., Record]


def test_every_metric_has_its_difference_and_those_that_are_means_a_p(make_record: Make) -> None:
    better, worse = finished(make_record, 0.3), finished(make_record, 0.1, method="cca")
    (comparison,) = compare_rows([better], [worse])
    assert [metric.metric for metric in comparison.metrics] == [
        key for key in better.metrics if key in worse.metrics
    ]
    by_key = {metric.metric: metric for metric in comparison.metrics}
    rsum = by_key["rsum"]
    assert rsum.first == better.metrics["rsum"] and rsum.second == worse.metrics["rsum"]
    assert rsum.difference is not None and rsum.difference.low > 0 and rsum.difference.p < 0.01
    assert by_key["i2t/MedR"].difference is None
    text = "\n".join(report_lines(comparison))
    assert "mine-test@1" in text and "p values are per metric, unadjusted" in text
    json.dumps(comparison.plain())


def test_queries_that_changed_sides_are_counted_and_named(make_record: Make) -> None:
    first = finished(make_record)
    ranks = Ranks.load(first.ranks)
    second = finished(make_record, method="cca")
    i2t = ranks.i2t.copy()
    wrong, right = np.flatnonzero(i2t > 1)[:2], np.flatnonzero(i2t == 1)[:3]
    i2t[wrong], i2t[right] = 1, 50
    write_ranks(second, i2t, ranks.t2i)
    content = dict(second.content)
    content.pop("schema")
    metrics = rank_metrics(QueryRanks.untied(i2t), QueryRanks.untied(ranks.t2i))
    second = read_record(write_record(second.directory, {**content, "metrics": metrics}))
    (comparison,) = compare_rows([first], [second], examples=9)
    i2t_side, t2i_side = comparison.sides
    assert (i2t_side.only_first, i2t_side.only_second) == (3, 2)
    assert i2t_side.both + i2t_side.neither == len(i2t) - 5
    assert (t2i_side.only_first, t2i_side.only_second, t2i_side.examples) == (0, 0, ())
    assert {example.query for example in i2t_side.examples} == {
        f"image {row}" for row in (*wrong.tolist(), *right.tolist())
    }
    named = next(example for example in i2t_side.examples if example.query == f"image {right[0]}")
    assert named.ranks == (1.0, 50.0) and named.answers == ("caption 0", "caption 0")


def test_seeds_are_compared_as_a_row(make_record: Make) -> None:
    ours = [finished(make_record, 0.3, seed=seed) for seed in range(2)]
    (comparison,) = compare_rows(ours, [finished(make_record, 0.3, method="cca")])
    assert comparison.seeds == ((0, 1), (0,))
    assert "over images and seeds" in "\n".join(report_lines(comparison))


def coco(
    make_record: Make, share: float, method: str, order: np.random.Generator | None, **data: str
) -> Record:
    """A record under coco-5k; with ``order``, of other files that spell the ids otherwise, in any order."""
    record = finished(make_record, share, method=method, dataset="coco", protocol="coco-5k")
    with np.load(record.ranks) as stored:
        arrays = dict(stored)
    images, captions = np.arange(IMAGES), np.arange(CAPTIONS * IMAGES)
    spelled = "{}"
    if order is not None:
        images, captions = order.permutation(images), order.permutation(captions)
        spelled = "val2014/COCO_val2014_{:012d}.jpg"
    position = np.argsort(images)
    new = {}
    for name, values in arrays.items():
        rows = images if len(values) == IMAGES else captions
        new[name] = values[rows]
    # The best answer to each query is the one that stands first in the other order, too.
    new["i2t_top"], new["t2i_top"] = np.argsort(captions)[new["i2t_top"]], position[new["t2i_top"]]
    new |= {"image_cluster": np.arange(IMAGES), "text_cluster": position[captions // CAPTIONS]}
    new.pop("image_ids"), new.pop("caption_ids")
    ids = [spelled.format(1000 + row) for row in images]
    caption_ids = [f"{spelled.format(1000 + row // CAPTIONS)}#{row % CAPTIONS}" for row in captions]
    write_results(record.ranks, new, ids, caption_ids, (IMAGES, CAPTIONS * IMAGES))
    return record.model_copy(update={"data": record.data.model_copy(update=data)})


def test_on_a_verified_split_ids_match_queries_whatever_files_they_are_from(make_record: Make) -> None:
    first = coco(make_record, 0.3, "acmr", None)
    same = coco(make_record, 0.1, "cca", None)
    (expected,) = compare_rows([first], [same], examples=5)
    other = coco(make_record, 0.1, "cca", np.random.default_rng(0), fingerprint="0" * 64)
    (found,) = compare_rows([first], [other], examples=5)
    assert found.metrics == expected.metrics and found.sides == expected.sides
    assert found.sides[0].examples and found.sides[0].only_first
    (itself,) = compare_rows([same], [other])
    assert all(metric.difference is None or metric.difference.value == 0 for metric in itself.metrics)
    unverified = [
        record.model_copy(update={"job": record.job.model_copy(update={"protocol": "coco-test"})})
        for record in (first, other)
    ]
    with pytest.raises(BadInput, match=r"the data of .* differ"):
        compare_rows(*([record] for record in unverified))
    foreign = other.data.model_copy(update={"split_hash": "0" * 16})
    with pytest.raises(BadInput, match=r"the test split of .* differ"):
        compare_rows([first], [other.model_copy(update={"data": foreign})])


def test_what_cannot_be_compared_is_one_sentence(make_record: Make) -> None:
    record = finished(make_record)
    other = finished(make_record, method="cca")
    with pytest.raises(BadInput, match=r"mine-test@1 .* and .* mine-test@2 .*only runs of one data set"):
        compare_rows([record], [other.model_copy(update={"protocol_version": 2})])
    data = other.data.model_copy(update={"fingerprint": "0" * 64})
    with pytest.raises(BadInput, match=r"the data of .* differ; compare runs of the same data"):
        compare_rows([record], [other.model_copy(update={"data": data})])
    data = other.data.model_copy(update={"split_hash": "0" * 16})
    with pytest.raises(BadInput, match=r"the test split of .* differ"):
        compare_rows([record], [other.model_copy(update={"data": data})])
    ranks = Ranks.load(other.ranks)
    write_ranks(other, ranks.i2t[:20], ranks.t2i[:100])
    with pytest.raises(BadInput, match="have different queries"):
        compare_rows([record], [other])
    write_ranks(other, ranks.i2t[::-1].copy() + 1, ranks.t2i)
    with pytest.raises(BadInput, match="but the record has"):
        compare_rows([record], [other])
    other.ranks.write_bytes(other.ranks.read_bytes()[:3000])
    with pytest.raises(BadInput, match=r"is not an .npz of per-query results"):
        compare_rows([record], [other])
    other.ranks.unlink()
    with pytest.raises(BadInput, match="is missing"):
        compare_rows([record], [other])
