from __future__ import annotations

from collections.abc import Callable

import pytest
from finished import finished

from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.comparison import agreement as module
from crossmodal_bench.reporting.comparison.agreement import agreement

Make = Callable[..., Record]


def test_the_same_run_is_equal_to_the_digit(make_record: Make) -> None:
    record, again = finished(make_record), finished(make_record, method="cca")
    record.files.ranks.write_bytes(again.ranks.read_bytes())
    record = record.model_copy(update={"metrics": again.metrics})
    assert agreement(record, again) == module.Agreement("equal to the digit", (), ())


def test_what_was_made_otherwise_is_named(make_record: Make) -> None:
    record = finished(make_record)
    there = record.model_copy(
        update={"environment": {**record.environment, "threads": "9"}, "source_fingerprint": "0" * 16}
    )
    agreed = agreement(record, there)
    assert agreed.verdict == "equal to the digit"
    threads, sources = agreed.environment
    assert threads.startswith("threads ") and threads.endswith("→ 9") and "000000" in sources


def test_a_run_within_chance_agrees_and_one_beyond_differs(make_record: Make) -> None:
    record = finished(make_record, 0.3)
    near = agreement(record, finished(make_record, 0.3, method="cca"))
    assert near.verdict == "agrees" and near.lines
    far = agreement(record, finished(make_record, 0.05, method="cca"))
    assert far.verdict == "differs"
    assert any(line.endswith("more than chance explains") for line in far.lines)


def test_what_other_seeds_did_counts_as_chance(make_record: Make) -> None:
    shares = (0.05, 0.3, 0.15)
    seeds = [finished(make_record, share, seed=seed) for seed, share in enumerate(shares)]
    again = finished(make_record, 0.05, method="cca")
    assert agreement(seeds[1], again).verdict == "differs"
    agreed = agreement(seeds[1], again, seeds)
    assert agreed.verdict == "agrees" and any("seeds are up to" in line for line in agreed.lines)
    # Two seeds don't tell how far seeds are apart.
    assert agreement(seeds[1], again, seeds[:2]).verdict == "differs"


def test_a_metric_without_queries_is_bounded_by_seeds_or_not_judged(make_record: Make) -> None:
    def with_bleu(record: Record, bleu: float) -> Record:
        return record.model_copy(update={"metrics": {**record.metrics, "BLEU-1": bleu}})

    record = finished(make_record)
    far = agreement(with_bleu(record, 50.0), with_bleu(record, 10.0))
    (line,) = far.lines
    assert far.verdict == "agrees" and "BLEU-1" in line and "not judged" in line
    seeds = [with_bleu(finished(make_record, seed=seed), 50.0 + seed) for seed in range(3)]
    record = seeds[0]
    near = agreement(record, with_bleu(record, 53.0), seeds)
    (line,) = near.lines
    assert near.verdict == "agrees" and "seeds are up to" in line
    far = agreement(record, with_bleu(record, 10.0), seeds)
    (line,) = far.lines
    assert far.verdict == "differs" and line.endswith("more than chance explains")


def test_ranks_that_moved_are_no_equality_even_where_metrics_are_the_same(
    make_record: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = finished(make_record)
    monkeypatch.setattr(module, "_same_ranks", lambda reference, again: False)
    assert agreement(record, record).verdict == "agrees"
