"""The set-up is part of the product: Makefile, package metadata, images and workflows agree."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import site
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import fields
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path
from typing import Any

import documents
import plugins
import pytest
import yaml

import crossmodal_bench
from crossmodal_bench.bench.options import NAMES, BenchOptions
from crossmodal_bench.cli.main import main
from crossmodal_bench.reporting import report

ROOT = Path(__file__).parents[1]
DOCKERFILES = [ROOT / "docker" / "Dockerfile", ROOT / "docker" / "Dockerfile.cpu"]
BENCH_VARIABLES = [name.upper() for name in NAMES if name != "overrides"]

# Stands in for a Python: makes environments and installs in no time, and keeps a log of what it was asked.
FAKE_PYTHON = """\
#!/bin/sh
echo "$*" >> "$LOG"
case "$*" in
  "-m venv"*) rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
  "-m pip install"*) exit "${PIP_STATUS:-0}" ;;
  *ensurepip*) exit "${ENSUREPIP_STATUS:-0}" ;;
esac
"""
OPTIONS = "crossmodal_bench/bench/options.py"
SYNTHETIC = "{class_path: crossmodal_bench.data.datasets.Synthetic, init_args: {size: tiny}}"
BROKEN_SHIM = "#!/bin/sh\necho 'command not found' >&2\nexit 127\n"


def make(*arguments: str, cwd: Path = ROOT, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run make as a user would: without what an outer make or the caller's shell happens to export."""
    ours = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "PYTHON", *BENCH_VARIABLES}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.run(
        ["make", *arguments], cwd=cwd, env=environment | extra, capture_output=True, text=True, check=False
    )


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, continued lines joined, comments dropped."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def copied_paths(dockerfile: Path) -> list[str]:
    return [path for word, rest in instructions(dockerfile) if word == "COPY" for path in rest.split()[:-1]]


def pip_commands(dockerfile: Path) -> list[str]:
    runs = [rest for word, rest in instructions(dockerfile) if word == "RUN"]
    return [command for run in runs for command in re.findall(r"(?:\S+ -m )?\bpip3? install [^&|;]*", run)]


def asked_for(install: str) -> list[str]:
    """What a pip install line asks for: its arguments, without the program and without options."""
    words = shlex.split(install)
    return [word for word in words[words.index("install") + 1 :] if not word.startswith("-")]


# ---- what make says and passes on ------------------------------------------------------------------


def test_bare_make_prints_the_help_with_every_target_and_variable() -> None:
    bare, asked = make(), make("help")
    assert bare.returncode == 0 and bare.stdout == asked.stdout
    listed = re.findall(r"^  (\S+) +\S", bare.stdout, re.MULTILINE)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted([*targets, *BENCH_VARIABLES, "BASE", "GPU", "PYTHON"])
    shown = {
        line.split()[0]: line.split(maxsplit=1)[1] for line in bare.stdout.splitlines() if line[:1] == " "
    }
    for field in fields(BenchOptions):
        if field.name == "overrides":
            continue
        default = f" ({field.default})" if isinstance(field.default, str | Path) else ""
        assert shown[field.name.upper()] == field.metadata["help"] + default


def bench_words(*arguments: str, **extra: str) -> list[str]:
    result = make("-n", "bench", *arguments, cwd=ROOT, **extra)
    assert result.returncode == 0, result.stderr
    return shlex.split(result.stdout.splitlines()[-1])


def test_bench_passes_on_exactly_what_was_set() -> None:
    program = [".venv/bin/crossmodal-bench", "bench"]
    assert bench_words() == program
    assert bench_words("DATASET=x", "SEEDS=0") == [*program, "--dataset", "x", "--seeds", "0"]
    assert bench_words("WEIGHTS=") == [*program, "--weights", ""]
    assert bench_words(DATA_ROOT="/exported") == [*program, "--data-root", "/exported"]


def test_doctor_passes_on_where_to_look_and_nothing_else() -> None:
    result = make("-n", "doctor", "DATASET=x", "DATA_ROOT=my data", "RUNS=r", "METHODS=cca")
    words = shlex.split(result.stdout.splitlines()[-1])
    options = ["--dataset", "x", "--data-root", "my data", "--runs", "r"]
    assert words == [".venv/bin/crossmodal-bench", "doctor", *options]


def test_every_bench_variable_reaches_the_program_whole() -> None:
    awkward = "it's a/path with  spaces"
    words = bench_words(*(f"{name}={awkward}" for name in BENCH_VARIABLES))
    options = [f"--{name.lower().replace('_', '-')}" for name in BENCH_VARIABLES]
    assert words[2::2] == options
    assert set(words[3::2]) == {awkward}


def test_perf_takes_a_base_from_its_own_line_alone() -> None:
    program = [".venv/bin/python", "benchmarks/perf.py"]
    result = make("-n", "perf", BASE="/of/the/shell")
    assert shlex.split(result.stdout.splitlines()[-1]) == program
    result = make("-n", "perf", "BASE=it's a tag")
    assert shlex.split(result.stdout.splitlines()[-1]) == [*program, "--base", "it's a tag"]
    result = make("-n", "perf", "GPU=1")
    assert result.returncode == 0 and "benchmarks/gpu.py --compile" in result.stdout
    refused = make("-n", "perf", "GPU=yes")
    assert refused.returncode == 2 and "GPU is 'yes'; give GPU=1" in refused.stderr
    refused = make("-n", "reference", "METHODS=acmr")
    assert refused.returncode == 2 and "reference takes no METHODS: it runs all rows" in refused.stderr
    refused = make("-n", "bench", "BASE=main")
    assert refused.returncode == 2 and "BASE is a variable of perf, not of bench" in refused.stderr


def test_a_misspelt_variable_is_refused_by_name() -> None:
    result = make("-n", "bench", "DATSET=flickr8k")
    assert result.returncode == 2
    assert "Unknown variable: DATSET" in result.stderr and " DATASET " in result.stderr


# ---- how make sets itself up -----------------------------------------------------------------------


class Checkout:
    """The Makefile and what it reads beside a stand-in for Python, in a folder whose name has a space."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a checkout"
        self.bin = folder / "bin"
        self.log = folder / "log"
        self.bin.mkdir()
        for name in ("Makefile", "pyproject.toml", OPTIONS):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        for name in ("python3.13", "python3.11", "python3", "python"):
            self.command(name, BROKEN_SHIM)
        self.command("python3.12", FAKE_PYTHON)

    def command(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(script)
        path.chmod(0o755)

    def make(self, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        self.log.write_text("")
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        return make(*arguments, cwd=self.root, PATH=path, LOG=str(self.log), **extra)

    def did(self, what: str) -> bool:
        return f"-m {what}" in self.log.read_text()

    @property
    def stamp(self) -> Path:
        return self.root / ".venv" / ".installed"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_the_first_run_sets_up_past_broken_shims_and_the_second_starts_at_once(checkout: Checkout) -> None:
    first = checkout.make("test")
    assert first.returncode == 0, first.stderr
    assert checkout.did("venv") and checkout.did("pip install") and checkout.did("pytest")
    second = checkout.make("test")
    assert second.returncode == 0, second.stderr
    assert not checkout.did("venv") and not checkout.did("pip") and checkout.did("pytest")


def test_a_changed_pyproject_installs_again_into_the_same_environment(checkout: Checkout) -> None:
    checkout.make("setup")
    later = checkout.stamp.stat().st_mtime + 10
    os.utime(checkout.root / "pyproject.toml", (later, later))
    checkout.make("setup")
    assert checkout.did("pip install") and not checkout.did("venv")


def test_a_failed_install_stops_and_the_next_make_repairs_it(checkout: Checkout) -> None:
    failed = checkout.make("test", PIP_STATUS="1")
    assert failed.returncode == 2
    assert not checkout.stamp.exists() and not checkout.did("pytest")
    assert checkout.make("test").returncode == 0
    assert checkout.stamp.exists() and checkout.did("pip install") and checkout.did("pytest")


def test_half_installed_distributions_are_removed_and_whole_ones_kept(checkout: Checkout) -> None:
    checkout.make("setup")
    packages = checkout.root / ".venv" / "lib" / "python3.12" / "site-packages"
    for name, files in {
        "whole-1": ["METADATA", "INSTALLER", "RECORD"],
        "cut_early-1": ["METADATA"],
        "cut_late-1": ["METADATA", "RECORD"],
    }.items():
        folder = packages / f"{name}.dist-info"
        folder.mkdir(parents=True)
        for file in files:
            (folder / file).touch()
    (packages / "~moved_aside").mkdir()
    checkout.stamp.unlink()
    result = checkout.make("setup")
    assert result.returncode == 0, result.stderr
    assert [path.name for path in packages.iterdir()] == ["whole-1.dist-info"]
    assert checkout.did("pip install") and not checkout.did("venv")


@pytest.mark.parametrize("script", [None, BROKEN_SHIM], ids=["without a Python", "with a Python that fails"])
def test_a_half_made_environment_is_made_again(checkout: Checkout, script: str | None) -> None:
    checkout.make("setup")
    python = checkout.root / ".venv" / "bin" / "python"
    python.unlink()
    if script is not None:
        python.write_text(script)
        python.chmod(0o755)
    result = checkout.make("test")
    assert result.returncode == 0, result.stderr
    assert checkout.did("venv") and checkout.did("pip install")


def test_a_moved_checkout_is_installed_again(checkout: Checkout) -> None:
    checkout.make("setup")
    checkout.root = checkout.root.rename(checkout.root.with_name("moved"))
    checkout.make("setup")
    assert checkout.did("pip install")


@pytest.mark.parametrize(
    ("scripts", "arguments", "sentence"),
    [
        ({"python3.12": BROKEN_SHIM}, [], "No working Python 3.11 to 3.13 was found: install one"),
        ({}, ["PYTHON=/not/there"], "PYTHON=/not/there is not a working Python 3.11 to 3.13: install one"),
    ],
)
def test_no_python_is_one_clear_sentence(
    checkout: Checkout, scripts: dict[str, str], arguments: list[str], sentence: str
) -> None:
    for name, script in scripts.items():
        checkout.command(name, script)
    result = checkout.make("setup", *arguments)
    assert result.returncode == 2
    said = [line for line in result.stderr.splitlines() if not line.startswith("make")]
    assert len(said) == 1 and said[0].startswith(sentence)


def test_a_python_without_venv_is_one_clear_sentence(checkout: Checkout) -> None:
    result = checkout.make("setup", ENSUREPIP_STATUS="1")
    assert result.returncode == 2 and not checkout.did("venv")
    said = [line for line in result.stderr.splitlines() if not line.startswith("make")]
    assert len(said) == 1 and said[0].startswith("python3.12 cannot create environments")
    assert "python3-venv" in said[0]


def test_clean_keeps_data_and_runs(checkout: Checkout) -> None:
    checkout.make("setup")
    for name in ("runs", "data", "dist", ".mypy_cache", "crossmodal_bench/__pycache__", "tests"):
        (checkout.root / name).mkdir(parents=True)
    checkout.make("clean")
    left = {str(path.relative_to(checkout.root)) for path in checkout.root.rglob("*")}
    folders = {"runs", "data", "crossmodal_bench", "crossmodal_bench/bench", "tests"}
    assert left == {"Makefile", "pyproject.toml", OPTIONS, *folders}


# ---- the package -----------------------------------------------------------------------------------


def test_every_dependency_has_a_lower_bound_no_upper_one_and_a_reason() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    project = pyproject()["project"]
    for requirement in [*project["dependencies"], *chain(*project["optional-dependencies"].values())]:
        assert re.fullmatch(r"[A-Za-z0-9-]+(\[[a-z]+\])?>=[0-9.]+", requirement), requirement
        for line in (line for line in lines if f'"{requirement}"' in line):
            assert re.search(r'", +# \w', line), f"{requirement}: no reason stands beside it"


def test_the_version_has_one_source() -> None:
    document = pyproject()
    assert "version" in document["project"]["dynamic"] and "version" not in document["project"]
    source = (ROOT / document["tool"]["hatch"]["version"]["path"]).read_text()
    assert re.findall(r'^__version__ = "(.*)"$', source, re.MULTILINE) == [crossmodal_bench.__version__]


def test_a_wheel_carries_the_experiments_inside_the_package() -> None:
    wheel = pyproject()["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["crossmodal_bench"]
    assert wheel["force-include"] == {"experiments": "crossmodal_bench/experiments"}
    assert any((ROOT / "experiments").rglob("*.yaml"))


@pytest.mark.slow
def test_the_documented_plugin_runs_from_an_installed_wheel_outside_any_checkout(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    build = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index"]
    subprocess.run([*build, "--wheel-dir", str(tmp_path / "wheels"), str(ROOT)], check=True)
    (wheel,) = (tmp_path / "wheels").iterdir()
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin" / "python"
    # Our dependencies, from where they are installed already; what stands in a .pth file is looked for last.
    (packages,) = environment.glob("lib/python3*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    install = [python, "-m", "pip", "install", "--no-deps", "--no-index", str(wheel)]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(install, check=True, env=clean)
    folder = tmp_path / "mine"
    folder.mkdir()
    plugins.write_plugin(folder)

    def run(*words: str) -> str:
        command = [environment / "bin" / "crossmodal-bench", *words]
        done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = subprocess.run(
        [python, "-c", "import crossmodal_bench; print(crossmodal_bench.__file__)"],
        cwd=folder,
        env=clean,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(environment)
    words = [*plugins.command()[1:], "--dataset", "synthetic-20", "--wandb", "off", "--devices", "cpu"]
    shown = run("bench", *words)
    assert "bilinear" in shown and "cca" in shown and " jobs done" in shown
    records = {path.parents[1].name for path in (folder / "runs").rglob("record.json")}
    assert records == {"bilinear", "cca"}
    assert "bilinear" in (folder / "runs" / "report" / "leaderboard.md").read_text()
    assert (folder / "runs" / "report" / "index.html").is_file()
    assert " done" in run("status", *words) and "bilinear" in run("report")


# ---- the images and the workflows ------------------------------------------------------------------


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
class TestDockerfile:
    def test_installs_what_the_makefile_installs_less_the_developers_tools(self, dockerfile: Path) -> None:
        (ours,) = re.findall(
            r"^\t\$\(python\) -m (pip install .*)$", (ROOT / "Makefile").read_text(), re.MULTILINE
        )
        assert asked_for(ours) == [".[dev]"]
        dependencies, theirs = pip_commands(dockerfile)
        assert theirs.strip() == "python -m pip install ."
        # Before any of the code is copied: a change of it leaves them installed.
        assert dependencies.strip() == "python -m pip install --requirement dependencies.txt"
        order = [rest for word, rest in instructions(dockerfile) if word in ("RUN", "COPY")]
        (installed,) = [n for n, rest in enumerate(order) if dependencies in rest]
        assert [rest for rest in order[:installed] if "crossmodal_bench" in rest] == []

    def test_the_install_check_runs_its_install_line(self, dockerfile: Path) -> None:
        recipe = make("-n", "docker-install-check").stdout
        assert f"docker/{dockerfile.name}" in recipe
        (pattern,) = re.findall(r"sed -n '([^']*)'", recipe)
        found = subprocess.run(
            ["sed", "-n", pattern, str(dockerfile)], capture_output=True, text=True, check=True
        )
        assert found.stdout.split("\n") == [pip_commands(dockerfile)[-1], ""]

    def test_copies_what_there_is_and_what_the_build_context_lets_through(self, dockerfile: Path) -> None:
        ignore = (ROOT / ".dockerignore").read_text().splitlines()
        assert "*" in ignore
        let_through = [line.removeprefix("!") for line in ignore if line.startswith("!")]
        copied = copied_paths(dockerfile)
        assert {"pyproject.toml", "crossmodal_bench", "experiments"} <= set(copied)
        for path in copied:
            assert (ROOT / path).exists(), f"{dockerfile.name} copies {path}, which is not there"
            assert any(fnmatch(path, pattern) for pattern in let_through), f".dockerignore hides {path}"

    def test_copies_every_file_that_the_package_metadata_names(self, dockerfile: Path) -> None:
        project = pyproject()["project"]
        assert {project["readme"], *project["license-files"]} <= set(copied_paths(dockerfile))

    def test_is_offline_and_keeps_its_caches_in_the_volume_unless_it_is_told_otherwise(
        self, dockerfile: Path
    ) -> None:
        found = instructions(dockerfile)
        variables = dict(
            pair.split("=", 1) for word, rest in found if word == "ENV" for pair in shlex.split(rest)
        )
        assert variables["HF_HUB_OFFLINE"] == "1" and variables["WANDB_MODE"] == "offline"
        (volumes,) = [yaml.safe_load(rest) for word, rest in found if word == "VOLUME"]
        for name in ("TORCH_HOME", "HF_HOME", "XDG_CACHE_HOME"):
            assert any(Path(variables[name]).is_relative_to(volume) for volume in volumes), name
        # A folder that becomes a volume keeps the access that it had before, and no later one.
        order = [word for word, _ in found]
        (opened,) = [
            n for n, (word, rest) in enumerate(found) if word == "RUN" and "chmod 1777 /cache" in rest
        ]
        assert opened < order.index("VOLUME")

    def test_a_stop_reaches_the_program(self, dockerfile: Path) -> None:
        found = instructions(dockerfile)
        assert [rest for word, rest in found if word == "STOPSIGNAL"] == ["SIGTERM"]
        (entry,) = [rest for word, rest in found if word == "ENTRYPOINT"]
        assert entry.startswith("["), "a shell would be process 1 and keep the signal to itself"

    def test_runs_the_program_as_an_ordinary_user(self, dockerfile: Path) -> None:
        found = instructions(dockerfile)
        users = [rest for word, rest in found if word == "USER"]
        assert users and users[-1] not in ("root", "0")
        (entry,) = [yaml.safe_load(rest) for word, rest in found if word == "ENTRYPOINT"]
        assert entry == list(pyproject()["project"]["scripts"])


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
    return found


def test_compose_builds_from_these_dockerfiles() -> None:
    builds = [services()[name]["build"] for name in ("cpu", "gpu")]
    assert {build["context"] for build in builds} == {".."}
    assert {ROOT / build["dockerfile"] for build in builds} == set(DOCKERFILES)


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_a_stopped_service_has_time_to_write_a_checkpoint_and_is_offline_by_default(name: str) -> None:
    service = services()[name]
    assert service["init"] is True and service["stop_signal"] == "SIGTERM"
    assert service["stop_grace_period"] == "60s"
    assert service["environment"]["WANDB_MODE"] == "${WANDB_MODE:-offline}"
    assert service["environment"]["HF_HUB_OFFLINE"] == "${HF_HUB_OFFLINE:-1}"
    assert "cache:/cache" in service["volumes"]


def test_the_page_is_read_only_of_this_machine_alone_and_where_the_report_is_written(tmp_path: Path) -> None:
    page = services()["page"]
    assert all(port.startswith("127.0.0.1:") for port in page["ports"])
    assert page["read_only"] is True and page["init"] is True
    (volume,) = page["volumes"]
    source, target, mode = volume.rsplit(":", 2)
    assert mode == "ro" and source in services()["cpu"]["volumes"][1]
    assert page["command"][:3] == ["python", "-m", "http.server"]
    options = argparse.ArgumentParser()
    options.add_argument("port", type=int)
    options.add_argument("--directory", type=Path)
    served = options.parse_args(page["command"][3:])
    assert page["ports"][0].endswith(f":{served.port}")
    # Where the report lies below RUNS, in the words of the module that writes it.
    assert served.directory.relative_to(target) == Path("report")
    assert report.report_folder(target) == served.directory


# ---- the batch script of a cluster -----------------------------------------------------------------

SBATCH = ROOT / "experiments" / "slurm" / "bench.sbatch"


@pytest.fixture
def batch(tmp_path: Path) -> Callable[..., tuple[subprocess.CompletedProcess[str], list[str]]]:
    """Runs the batch script where srun and scontrol only note what they were asked for."""
    log = tmp_path / "log"
    for name, status in (("srun", "${SRUN_STATUS:-0}"), ("scontrol", "0")):
        command = tmp_path / name
        command.write_text(f'#!/bin/sh\nprintf "%s\\n" {name} "$@" >> "{log}"\nexit {status}\n')
        command.chmod(0o755)

    def run(*arguments: str, **extra: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        log.write_text("")
        slurm = {"SLURM_JOB_ID": "77", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS_PER_NODE": "4"}
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", str(SBATCH), *arguments],
            env={**os.environ, **slurm, "SLURM_CPUS_PER_TASK": "8", "PATH": path, **extra},
            capture_output=True,
            text=True,
            check=False,
        )
        return done, log.read_text().splitlines()

    return run


Batch = Callable[..., tuple[subprocess.CompletedProcess[str], list[str]]]


def test_every_line_of_the_batch_script_is_bash_and_slurm_is_told_before_the_first_command() -> None:
    subprocess.run(["bash", "-n", str(SBATCH)], check=True)
    lines = SBATCH.read_text().splitlines()
    first = next(n for n, line in enumerate(lines) if line and not line.startswith("#"))
    told = [n for n, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert told and max(told) < first
    assert "#SBATCH --signal=USR1@120" in lines and "#SBATCH --requeue" in lines


def test_an_interrupted_batch_job_is_queued_again_and_no_other(batch: Batch, tmp_path: Path) -> None:
    for status, again in (("0", False), ("1", False), ("75", True)):
        done, asked = batch("config.yaml", str(tmp_path / "a folder"), SRUN_STATUS=status)
        assert done.returncode == int(status), done.stderr
        assert (asked[-3:] == ["scontrol", "requeue", "77"]) == again
        assert ("scontrol" in asked) == again
    assert batch("config.yaml")[0].returncode == 2


def test_a_batch_job_goes_on_from_the_newest_checkpoint(batch: Batch, tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    assert "--ckpt_path" not in batch("config.yaml", str(folder))[1]
    for age, name in ((100, "old.ckpt"), (0, "new er.ckpt"), (50, "middle.ckpt")):
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / "checkpoints" / name).touch()
        os.utime(folder / "checkpoints" / name, (1e9 - age, 1e9 - age))
    _, asked = batch("config.yaml", str(folder))
    assert asked[asked.index("--ckpt_path") + 1] == str(folder / "checkpoints" / "new er.ckpt")


def test_the_program_knows_every_option_of_the_batch_script(
    batch: Batch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "model: {class_path: crossmodal_bench.methods.CCA}\ndata: {dataset: " + SYNTHETIC + "}\n"
    )
    _, asked = batch(str(config), str(tmp_path))
    words = asked[asked.index("crossmodal-bench") + 1 :]
    assert words[0] == "fit" and len(words) > 10
    with pytest.raises(SystemExit) as end:
        main([*words, "--print_config"])
    assert end.value.code == 0
    understood = yaml.safe_load(capsys.readouterr().out)["trainer"]
    assert understood["num_nodes"] == 2 and str(understood["devices"]) == "4"
    assert understood["default_root_dir"] == str(tmp_path)
    assert main([*words, "--trainer.no_such_option", "1", "--print_config"]) == 2


def test_the_supported_pythons_are_the_same_everywhere() -> None:
    project = pyproject()["project"]
    declared = re.findall(r"Python :: (3\.\d+)$", "\n".join(project["classifiers"]), re.MULTILINE)
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert workflow["jobs"]["check"]["strategy"]["matrix"]["python"] == declared
    assert project["requires-python"] == f">={declared[0]}"
    (candidates,) = re.findall(r"^CANDIDATES = (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert re.findall(r"python(3\.\d+)", candidates) == declared[::-1]


def test_continuous_integration_runs_the_documented_commands() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = [step["run"] for step in workflow["jobs"]["check"]["steps"] if "run" in step]
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    ran = re.findall(r"^step make (.*)$", script.read_text(), re.MULTILINE)
    wanted = {"lint", "types", "test", "smoke"}
    assert wanted | {"docs"} <= set(" ".join(ran).split())
    assert wanted <= {word for step in steps for word in step.removeprefix("make ").split()}


def test_every_night_runs_what_no_push_does() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "nightly.yml").read_text())
    # YAML 1.1 takes the word for a truth.
    started = workflow[True]
    assert "workflow_dispatch" in started and [set(entry) for entry in started["schedule"]] == [{"cron"}]
    runs = {
        name: [step["run"] for step in job["steps"] if "run" in step]
        for name, job in workflow["jobs"].items()
    }
    # Whole: without a choice of methods or of tests.
    assert runs == {
        "slow": ["make setup", "make docs", "make test-slow"],
        "smoke": ["make setup", "make smoke"],
    }
    assert all(job["timeout-minutes"] <= 360 for job in workflow["jobs"].values())


def test_the_lower_bounds_job_runs_the_tests_of_what_rests_on_dependencies() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    (line,) = (step["run"] for step in jobs["lower-bounds"]["steps"] if "pytest -q" in step.get("run", ""))
    folders = {word for word in line.split() if word.startswith("tests/")}
    packages = {"core", "data", "evaluation", "losses", "methods", "networks"}
    assert folders == {f"tests/{name}" for name in packages | {"cli", "jobs", "reporting", "training"}}
    assert all((ROOT / folder).is_dir() for folder in folders)


def test_coverage_counts_other_processes_and_shows_the_total() -> None:
    settings = pyproject()["tool"]["coverage"]["run"]
    assert settings["patch"] == ["subprocess", "_exit"] and settings["parallel"]
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    (summary,) = (
        step["run"] for step in jobs["coverage"]["steps"] if "GITHUB_STEP_SUMMARY" in step.get("run", "")
    )
    assert "--format=total" in summary and "--format=markdown" in summary


def test_lower_bounds_are_of_every_dependency() -> None:
    printed = subprocess.run(
        [sys.executable, ROOT / "tools" / "lower_bounds.py"], capture_output=True, text=True, check=True
    ).stdout.split()
    dependencies = pyproject()["project"]["dependencies"]
    assert printed == [re.sub(r"\[.*\]", "", text).replace(">=", "==") for text in dependencies]
    with pytest.raises(ValueError, match="torch has no lower bound"):
        documents.tool("lower_bounds").lower_bounds(["torch"])


def test_the_site_is_published_where_its_checks_have_passed_and_no_secret_is_used() -> None:
    folder = ROOT / ".github" / "workflows"
    jobs = yaml.safe_load((folder / "ci.yml").read_text())["jobs"]
    assert {"check", "documentation", "publish", "lower-bounds", "coverage"} == set(jobs)
    assert set(jobs["publish"]["needs"]) == {"check", "documentation"}
    assert not any("secrets." in path.read_text() for path in folder.iterdir())
    # Every target that a job makes is one of the Makefile.
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    ran = {
        word
        for job in jobs.values()
        for step in job["steps"]
        if step.get("run", "").startswith("make ")
        for word in step["run"].removeprefix("make ").split()
    }
    assert {"docs", "coverage", "test"} <= ran <= targets


def test_the_release_checks_the_version_before_it_publishes() -> None:
    release = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
    assert release["publish"]["needs"] == "build"
    assert release["publish"]["permissions"] == {"id-token": "write"}
    names = {step.get("name"): step.get("run") for step in release["build"]["steps"]}
    check = names["The tag is the package's version"]
    version = subprocess.run(
        ["bash", "-e", "-c", check],
        cwd=ROOT,
        env={**os.environ, "GITHUB_REF_NAME": f"v{crossmodal_bench.__version__}"},
        check=False,
    )
    assert version.returncode == 0
    other = subprocess.run(
        ["bash", "-e", "-c", check], cwd=ROOT, env={**os.environ, "GITHUB_REF_NAME": "v0"}, check=False
    )
    assert other.returncode != 0
