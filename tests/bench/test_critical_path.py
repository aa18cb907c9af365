from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from crossmodal_bench.bench.critical_path import by_urgency, chain_after, chain_lengths
from crossmodal_bench.bench.kinds import Kind, kind_of
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.jobs.record import Job

Make = Callable[..., PlannedJob]


@pytest.fixture
def seconds() -> dict[Kind, float]:
    return {}


@pytest.fixture
def job(runs: Path, seconds: dict[Kind, float]) -> Make:
    def make(method: str, takes: float, *parents: PlannedJob) -> PlannedJob:
        one = Job(
            id=method,
            method=method,
            dataset="mine",
            protocol="mine-test",
            preset="small",
            seed=0,
            suite=None,
            label="",
            overrides={},
        )
        by_name = {parent.job.method: parent for parent in parents}
        planned = PlannedJob(one, {}, [], "test", runs / method, "", "", {}, "", parents=by_name)
        seconds[kind_of(planned)] = takes
        return planned

    return make


def order(jobs: list[PlannedJob], seconds: dict[Kind, float], slots: int, running: float = 0.0) -> str:
    return "".join(planned.job.method for planned in by_urgency(jobs, seconds, slots, running))


def test_a_chain_ends_with_its_longest_branch(job: Make, seconds: dict[Kind, float]) -> None:
    a = job("a", 10)
    b, c = job("b", 5, a), job("c", 7, a)
    jobs = [a, b, c, job("d", 1, b, c), job("e", 3)]
    lengths = chain_lengths(jobs, seconds)
    assert lengths == {"a": 18, "b": 6, "c": 8, "d": 1, "e": 3}
    # A running job is no longer among those that wait.
    assert chain_after(a, jobs[1:], chain_lengths(jobs[1:], seconds)) == 8
    assert chain_after(jobs[-1], jobs, lengths) == 0


def test_a_chain_as_long_as_all_that_is_left_does_not_wait(job: Make, seconds: dict[Kind, float]) -> None:
    quick = [job(name, 10) for name in "abc"]
    first = job("x", 20)
    jobs = [*quick, first, job("y", 30, first)]
    assert order(jobs, seconds, 2) == "xabcy"
    # One slot has nothing to gain, and keeps the order of the table.
    assert order(jobs, seconds, 1) == "abcxy"
    # Neither does a chain that other work outlasts.
    assert order(jobs, seconds, 2, running=100) == "abcxy"
    assert order([*jobs, job("z", 100)], seconds, 2) == "zabcxy"


def test_without_estimates_the_order_is_kept(job: Make) -> None:
    first = job("b", 1)
    assert order([job("a", 1), first, job("c", 1, first)], {}, 4) == "abc"
