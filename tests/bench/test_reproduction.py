from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from crossmodal_bench.bench import runner
from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.reproduction import Repetition, reproduce
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.record import Record, read_record, read_records


@pytest.fixture(scope="module")
def solved(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """CCA on tiny synthetic data, with one thread."""
    runs = tmp_path_factory.mktemp("runs")
    options = BenchOptions(dataset="synthetic-tiny", methods="cca", runs=runs, wandb="off", devices="cpu")
    assert runner.bench(options, log=lambda line: None) == 0
    (record,) = read_records(runs)
    return record


@pytest.fixture
def how(tmp_path: Path) -> Repetition:
    return Repetition(runs=tmp_path / "again", data_root=tmp_path)


def test_a_row_that_is_run_again_is_equal_to_the_digit(solved: Record, how: Repetition) -> None:
    (agreed,) = reproduce([solved], how, lambda line: None)
    assert agreed.verdict == "equal to the digit" and agreed.environment == ()
    (again,) = read_records(how.runs)
    assert again.job == solved.job and again.directory != solved.directory
    assert again.environment["threads"] == solved.environment["threads"]
    with pytest.raises(BadInput, match=r"was run with .* threads, not with 7"):
        reproduce([solved], replace(how, threads=7), lambda line: None)


def test_what_cannot_be_repeated_is_one_sentence(solved: Record, how: Repetition, tmp_path: Path) -> None:
    runs = solved.directory.parent.parent.parent
    with pytest.raises(BadInput, match="is the folder of the record itself"):
        reproduce([solved], replace(how, runs=runs))
    data = solved.data.model_copy(update={"fingerprint": "0" * 64})
    with pytest.raises(BadInput, match="are not those of"):
        reproduce([solved.model_copy(update={"data": data})], how)
    job = solved.job.model_copy(update={"id": "0" * 16})
    with pytest.raises(BadInput, match=r"give synthetic-tiny.* with the same settings"):
        reproduce([solved.model_copy(update={"job": job})], how)
    job = solved.job.model_copy(update={"method": "ccaa"})
    with pytest.raises(BadInput, match="method 'ccaa', which is not built in; name its file with --method"):
        reproduce([solved.model_copy(update={"job": job})], how)
    with pytest.raises(BadInput, match="was evaluated on val"):
        reproduce([solved.model_copy(update={"evaluated_on": "val"})], how)
    lost = solved.model_copy(update={"directory": tmp_path})
    with pytest.raises(BadInput, match="is missing"):
        reproduce([lost], how)
    assert not read_records(how.runs)


@pytest.mark.slow
def test_the_number_of_threads_is_the_records_unless_one_is_given(solved: Record, how: Repetition) -> None:
    environment = {**solved.environment, "threads": "2"}
    reproduce([solved.model_copy(update={"environment": environment})], how, lambda line: None)
    (again,) = read_records(how.runs)
    assert read_record(again.directory).environment["threads"] == "2"
