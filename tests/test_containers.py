"""The images, built and run where a container engine and their base images are.

What an engine needs to be told on some machine stands in the environment, as words of a shell:
CONTAINER_ENGINE is the engine with its global options (podman, else docker), CONTAINER_BUILD and
CONTAINER_RUN are further options of `build` (a mounted configuration of pip, say) and of `run`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from drills import in_epoch, results, wait_for
from users import FIRST, GROUP

from crossmodal_bench.core.signals import AGAIN
from crossmodal_bench.jobs.record import read_records

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
ROOT = Path(__file__).parents[1]
BENCH = ("bench", "--dataset", "synthetic-tiny", "--methods", "cca,timam", "--preset", "smoke")
LONG = ("--set", "trainer.max_epochs=8", "--wandb", "off")


def words(variable: str) -> list[str]:
    return shlex.split(os.environ.get(variable, ""))


def engine(*command: object) -> subprocess.CompletedProcess[str]:
    program = words("CONTAINER_ENGINE") or [name for name in ("podman", "docker") if shutil.which(name)][:1]
    if not program:
        pytest.skip("no container engine: neither podman nor docker is in PATH")
    return subprocess.run([*program, *map(str, command)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module", params=["Dockerfile.cpu", "Dockerfile"])
def image(request: pytest.FixtureRequest) -> str:
    """Built from this checkout. It stays, and with it the layers that the next build finds done."""
    file = ROOT / "docker" / request.param
    (base,) = [line.split()[1] for line in file.read_text().splitlines() if line.startswith("FROM ")]
    if engine("image", "inspect", base).returncode:
        pytest.skip(f"the base image {base} is not on this machine: pull it, and run this test again")
    tag = f"crossmodal-bench:test-{request.param.lower()}"
    built = engine("build", "--file", file, "--tag", tag, *words("CONTAINER_BUILD"), ROOT)
    assert built.returncode == 0, built.stdout + built.stderr
    return tag


class Workplace:
    """A folder with data and runs of an ordinary user's, and the containers that have it mounted."""

    def __init__(self, image: str, folder: Path) -> None:
        self.image, self.folder = image, folder
        self.name = f"crossmodal-bench-{uuid.uuid4().hex}"
        self.user = (FIRST, GROUP) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
        for name in ("data", "undisturbed", "runs"):
            (folder / name).mkdir()
            os.chown(folder / name, *self.user)

    def run(self, *command: str, runs: str = "runs") -> subprocess.CompletedProcess[str]:
        """One command in a container that can write into its mounted folders, its cache and /tmp alone."""
        mounts = [f"--volume={self.folder / 'data'}:/workspace/data:ro"]
        mounts += [f"--volume={self.folder / runs}:/workspace/runs"]
        who = (f"--name={self.name}", f"--user={self.user[0]}:{self.user[1]}", "--env=OMP_NUM_THREADS")
        options = ("--rm", "--init", "--read-only", "--tmpfs=/tmp", "--shm-size=1g", *who, *mounts)
        return engine("run", *options, *words("CONTAINER_RUN"), self.image, *command)

    def stop(self) -> None:
        assert engine("stop", "--time=60", self.name).returncode == 0


@pytest.fixture
def place(image: str, tmp_path: Path) -> Iterator[Workplace]:
    workplace = Workplace(image, tmp_path)
    yield workplace
    engine("rm", "--force", workplace.name)


def test_runs_as_an_ordinary_user_and_knows_its_way(place: Workplace) -> None:
    shown = engine(
        "run", "--rm", "--read-only", *words("CONTAINER_RUN"), "--entrypoint=id", place.image, "-u"
    )
    assert shown.stdout.strip() == "10001", shown.stderr
    shown = place.run()
    assert shown.returncode == 0 and "usage: crossmodal-bench" in shown.stdout, shown.stderr
    shown = place.run("list", "methods")
    assert shown.returncode == 0 and "timam" in shown.stdout, shown.stderr


def test_a_stopped_container_goes_on_in_the_next_and_loses_nothing(place: Workplace) -> None:
    undisturbed = place.run(*BENCH, *LONG, runs="undisturbed")
    assert undisturbed.returncode == 0, undisturbed.stdout + undisturbed.stderr
    runs = place.folder / "runs"
    with ThreadPoolExecutor() as pool:
        running = pool.submit(place.run, *BENCH, *LONG)
        wait_for(lambda: running.done() or in_epoch(runs, 2), 600)
        assert not running.done(), running.result().stdout + running.result().stderr
        place.stop()
        stopped = running.result()
    assert stopped.returncode == AGAIN and "run the same command again" in stopped.stdout, stopped.stderr
    assert [record.job.method for record in read_records(runs)] == ["cca"]
    again = place.run(*BENCH, *LONG)
    assert again.returncode == 0, again.stdout + again.stderr
    assert results(runs) == results(place.folder / "undisturbed")
    assert (runs / "report" / "index.html").is_file()
    assert {path.stat().st_uid for path in runs.rglob("*")} == {place.user[0]}
