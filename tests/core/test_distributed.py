"""Training on several processes is training on one: gradients, replicas and metrics, of every method."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import replicas
import torch
from filelock import FileLock
from replicas import CASES, MORE, WORLDS, case
from tiny import configuration
from torch import Tensor

import crossmodal_bench
from crossmodal_bench.core.distributed import gather, gather_encoding, gather_interleaved, world_size
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.experiments import names
from crossmodal_bench.training.lightning_cli import instantiate

Found = dict[tuple[int, int], dict[str, Any]]
"""By world size and rank, what a process found."""
SEVERAL = [(world, rank) for world in WORLDS[1:] for rank in range(world)]
OTHERS = sorted({*names("methods"), *MORE} - set(CASES))


def run(folder: Path, cases: list[str]) -> Found:
    """Everything that replicas.py finds."""
    paths = [str(Path(crossmodal_bench.__file__).parents[1]), str(Path(replicas.__file__).parent)]
    finished = subprocess.run(
        [sys.executable, replicas.__file__, str(folder), *cases],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    return load(folder)


def load(folder: Path) -> Found:
    return {
        (world, rank): torch.load(folder / f"{world}-{rank}.pt", weights_only=True)
        for world in WORLDS
        for rank in range(world)
    }


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Of the cases; found once where several processes share the tests."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return run(tmp_path_factory.mktemp("replicas"), list(CASES))
    folder = tmp_path_factory.getbasetemp().parent / "replicas"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            unfinished = folder.with_suffix(".unfinished")
            unfinished.mkdir()
            run(unfinished, list(CASES))
            unfinished.rename(folder)
    return load(folder)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Of all other methods."""
    return run(tmp_path_factory.mktemp("others"), OTHERS)


def differ(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    return float((found - expected).norm()) > tolerance * max(float(expected.norm()), 1e-12)


def check_the_step(found: Found, name: str) -> None:
    alone = found[1, 0][name]["exact"]
    assert alone["gradients"] and alone["logged"]
    for world, rank in SEVERAL:
        here = found[world, rank][name]["exact"]
        place = f"process {rank} of {world}"
        for mine, theirs in zip(here["gradients"], alone["gradients"], strict=True):
            assert set(mine) == set(theirs) and any(float(one.norm()) for one in theirs.values())
            wrong = [parameter for parameter in theirs if differ(mine[parameter], theirs[parameter])]
            assert not wrong, f"gradients on {place}"
        assert here["logged"] == pytest.approx(alone["logged"], rel=1e-5, abs=1e-7), f"losses on {place}"
        wrong = [one for one, weight in alone["weights"].items() if differ(here["weights"][one], weight)]
        assert not wrong, f"parameters behind the step on {place}"
        if "discriminators" in alone:
            assert alone["discriminators"].any()
            assert not differ(here["discriminators"], alone["discriminators"]), f"discriminators on {place}"


def check_replicas(found: Found, name: str) -> None:
    for world in WORLDS[1:]:
        first, *others = (found[world, rank][name]["replicas"]["whole"] for rank in range(world))
        for other in others:
            both = zip(first["fingerprints"], other["fingerprints"], strict=True)
            for step, (mine, theirs) in enumerate(both):
                assert mine == theirs, f"weights or statistics differ behind step {step} on {world}"
            assert first["bank"] == other["bank"]
            assert first["noise"] != other["noise"], "though noise is another on each"
        steps = min(2 * case(name).batches, len(first["fingerprints"]))
        assert len(set(first["fingerprints"])) >= steps - 1, "they move"


def check_resuming(found: Found, name: str) -> None:
    for place in SEVERAL:
        whole, resumed = (found[place][name]["replicas"][which] for which in ("whole", "resumed"))
        steps = len(resumed["fingerprints"])
        assert whole["logged"] and 0 < steps < len(whole["fingerprints"]), "from the middle"
        assert resumed == {**whole, "fingerprints": whole["fingerprints"][-steps:]}, place


def check_metrics(found: Found, name: str) -> None:
    alone = found[1, 0][name]["metrics"]
    assert len(alone) > 5
    for place in SEVERAL:
        assert found[place][name]["metrics"] == alone, place


@pytest.mark.parametrize("name", [name for name in CASES if case(name).exact])
def test_a_step_with_gathered_negatives_is_that_of_one_process(found: Found, name: str) -> None:
    check_the_step(found, name)


@pytest.mark.parametrize("name", [name for name in CASES if case(name).summed])
def test_without_gathering_the_gradients_of_own_batches_add_up(found: Found, name: str) -> None:
    check_the_sum(found, name)


def check_the_sum(found: Found, name: str) -> None:
    halves = [one["gradients"] for one in found[1, 0][name]["halves"]]
    whole = found[1, 0][name]["exact"]["gradients"][0]
    for rank in range(2):
        (mine,) = found[2, rank][name]["summed"]["gradients"]
        for parameter, gradient in mine.items():
            assert not differ(gradient, halves[0][0][parameter] + halves[1][0][parameter]), parameter
            assert differ(gradient, whole[parameter]), "there are fewer negatives than when gathered"


@pytest.mark.parametrize("name", [name for name in CASES if case(name).batches])
def test_replicas_stay_equal_to_the_bit(found: Found, name: str) -> None:
    check_replicas(found, name)


@pytest.mark.parametrize("name", [name for name in CASES if case(name).batches])
def test_several_processes_go_on_in_mid_epoch_as_if_nothing_had_happened(found: Found, name: str) -> None:
    check_resuming(found, name)


@pytest.mark.parametrize("name", [name for name in CASES if case(name).tested])
def test_metrics_of_a_checkpoint_do_not_depend_on_the_number_of_processes(found: Found, name: str) -> None:
    check_metrics(found, name)


LEAVES_OUT = {"gxn", "gxn_micro_batches", "gxn_t2i"}
"""Those that draw: some of their backward passes are of the pictures alone."""


def check_the_strategy(found: Found, name: str) -> None:
    plain = found[2, 0][name]["exact"]["strategy"] == "ddp"
    assert plain == (name not in LEAVES_OUT), "DDP looks for parameters only where some are left out"


@pytest.mark.parametrize("name", [name for name in CASES if case(name).exact])
def test_ddp_looks_for_no_parameters_that_a_backward_pass_leaves_out(found: Found, name: str) -> None:
    check_the_strategy(found, name)


@pytest.mark.parametrize("world", WORLDS)
def test_gather_joins_unequal_parts_and_sums_their_gradients(found: Found, world: int) -> None:
    parts = [found[world, rank]["gather"] for rank in range(world)]
    whole = torch.arange(18, dtype=torch.float64).view(6, 3).sin()
    gradient = 2 * whole * torch.arange(1.0, 7.0, dtype=torch.float64)[:, None]
    for place, one in enumerate(parts):
        assert torch.equal(one["gathered"], whole)
        # Every process has the same loss, and each hands its gradient back to whose rows these are.
        start, stop = one["rows"]
        torch.testing.assert_close(one["gradient"], world * gradient[start:stop])
        assert one["own_rows"] == one["rows"]
        assert one["lengths"].tolist() == [stop - start for start, stop in (other["rows"] for other in parts)]
        assert one["flags"].tolist() == [r % 2 == 0 for r in range(world) for _ in range(*parts[r]["rows"])]
        assert one["turns"].tolist() == [r + world * i for i in range(2) for r in range(world)], place
    for name, expected in (("sum", whole.sum()), ("mean", whole.mean())):
        torch.testing.assert_close(torch.stack([one[name] for one in parts]).mean(), expected)


@pytest.mark.parametrize("name", ["timam", "acmr", "vse", "addr_scan", "gxn", "infonce", "siglip"])
def test_gathering_is_asked_for_by_configuration_and_off_otherwise(name: str) -> None:
    assert instantiate(configuration(name)).model.gather_negatives is False
    asked = configuration(name, **{"model.init_args.gather_negatives": True})
    assert instantiate(asked).model.gather_negatives is True


def test_a_method_without_negatives_knows_no_such_option() -> None:
    with pytest.raises(BadInput, match=r"key 'model\.init_args\.gather_negatives' is unknown"):
        instantiate(configuration("cca", **{"model.init_args.gather_negatives": True}))


def test_one_process_has_nothing_to_gather() -> None:
    x = torch.randn(3, 2)
    assert world_size() == 1
    assert gather(x) is x and torch.equal(gather_interleaved(x), x)
    encoding = gather_encoding(Encoding(x, torch.tensor([1, 2])))
    assert encoding.values is x and encoding.lengths is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_every_other_method_is_as_exact(others: Found, name: str) -> None:
    if case(name).tested:
        check_metrics(others, name)
    if case(name).exact:
        check_the_step(others, name)
        check_the_strategy(others, name)
    if case(name).summed:
        check_the_sum(others, name)
    if case(name).batches:
        check_replicas(others, name)
        check_resuming(others, name)
