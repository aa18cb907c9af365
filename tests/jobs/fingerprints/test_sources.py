"""What makes a record stale: changes to a copy of the package, looked at without running any of it."""

from __future__ import annotations

import ast
import copy
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import crossmodal_bench
from crossmodal_bench.evaluation.protocols.protocol import PROTOCOLS
from crossmodal_bench.jobs import experiments
from crossmodal_bench.jobs.fingerprints import sources
from crossmodal_bench.jobs.fingerprints.closure import SourceTree
from crossmodal_bench.jobs.fingerprints.fingerprint import Fingerprint
from crossmodal_bench.jobs.fingerprints.sources import (
    ASIDE,
    OURS,
    WORKER,
    class_paths,
    fingerprint_in,
    fingerprint_of,
)

PACKAGE = Path(crossmodal_bench.__file__).parent
METHODS = experiments.names("methods")
SETTINGS = {
    method: experiments.resolve(method, "synthetic", {}, "smoke", {}, Path("data")) for method in METHODS
}
CONTRASTIVE = {"infonce", "siglip"}
RANKED = {
    name for name in METHODS if not name.startswith(("acmr", "timam", "cca", "clip", "sm"))
} - CONTRASTIVE
"""The methods whose loss has hardest or summed negatives."""

Edit = Callable[[Path], object]


@pytest.fixture
def house(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PACKAGE, tmp_path / OURS, ignore=shutil.ignore_patterns("__pycache__")))


def prints(house: Path, configs: Mapping[str, Any] = SETTINGS) -> dict[str, Fingerprint]:
    """By method, with the sources below ``house``, which a new process would find there."""
    tree = SourceTree({OURS: house}, ASIDE)
    return {method: fingerprint_in(tree, config) for method, config in configs.items()}


@cache
def unchanged() -> dict[str, Fingerprint]:
    return prints(PACKAGE)


def module_file(house: Path, symbol: str, package: str) -> Path:
    """Where a class or function is defined; modules move, and what they are for stays."""
    for path in sorted((house / package).rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if getattr(node, "name", "") == symbol:
                return path
    raise AssertionError(f"nobody defines {symbol} in {package}")


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, (path, old)
    path.write_text(text.replace(old, new, 1))


def stale(house: Path, edit: Edit) -> dict[str, str]:
    """Which methods' records an edit makes stale, and why."""
    before = unchanged()
    edit(house)
    after = prints(house)
    differing = {method: before[method].differences(after[method]) for method in METHODS}
    return {method: "; ".join(each.text for each in found) for method, found in differing.items() if found}


def comment_in_gxn(house: Path) -> None:
    path = module_file(house, "GXN", "methods")
    path.write_text(f"# Why it is as it is.\n{path.read_text()}\n# The end.\n")


def new_method(house: Path) -> None:
    (house / "methods" / "bilinear.py").write_text(
        "from crossmodal_bench.methods.base import RetrievalMethod\nclass Bilinear(RetrievalMethod): pass\n"
    )
    init = house / "methods" / "__init__.py"
    init.write_text(f"{init.read_text()}\nfrom crossmodal_bench.methods.bilinear import Bilinear\n")


def new_dataset(house: Path) -> None:
    (house / "data" / "datasets" / "mine.py").write_text(
        "from crossmodal_bench.data.datasets.base import DatasetReader\nclass Mine(DatasetReader): pass\n"
    )
    init = house / "data" / "datasets" / "__init__.py"
    init.write_text(f"{init.read_text()}\nfrom crossmodal_bench.data.datasets.mine import Mine\n")


def docstring_in_the_evaluator(house: Path) -> None:
    path = module_file(house, "evaluate", "evaluation")
    tree = ast.parse(path.read_text())
    docstring = ast.get_docstring(tree, clean=False)
    assert docstring
    change(path, docstring, f"{docstring} In other words.")


def reformatted_worker(house: Path) -> None:
    path = module_file(house, "run_job", "training")
    # Without comments and blank lines, each statement spelled anew.
    path.write_text(ast.unparse(ast.parse(path.read_text())))


def what_tells_and_keeps(house: Path) -> None:
    for name in ("jobs/record.py", "jobs/state.py", "core/errors.py", "training/configuration.py"):
        path = house / name
        path.write_text(f"{path.read_text()}\nADDED = 1\n")
    for room in ("reporting", "bench", "cli"):
        for path in (house / room).rglob("*.py"):
            path.write_text(f"{path.read_text()}\nADDED = 1\n")


def another_protocol(house: Path) -> None:
    (path,) = house.rglob("protocols.yaml")
    path.write_text(f"{path.read_text()}\n# one more\n")


@pytest.mark.parametrize(
    "edit",
    [
        comment_in_gxn,
        new_method,
        new_dataset,
        docstring_in_the_evaluator,
        reformatted_worker,
        what_tells_and_keeps,
        another_protocol,
    ],
    ids=lambda edit: edit.__name__,
)
def test_what_decides_no_number_leaves_every_record_fresh(house: Path, edit: Edit) -> None:
    assert stale(house, edit) == {}


def test_a_changed_ranking_loss_makes_exactly_its_methods_stale(house: Path) -> None:
    path = module_file(house, "triplet_ranking_loss", "losses")
    found = stale(house, lambda _: path.write_text(f"{path.read_text()}\nMARGIN = 0.3\n"))
    assert found.keys() == RANKED
    assert set(found.values()) == {"crossmodal_bench.losses.ranking has changed"}
    assert {"scan", "gxn", "addr_vsrn", "gru"} < RANKED and RANKED.isdisjoint({"cca", "acmr", "timam", "sm"})


@pytest.mark.parametrize(
    ("package", "symbol", "methods"),
    [
        ("methods", "GXN", {name for name in METHODS if name.startswith(("gxn", "gru"))}),
        ("methods", "SigLIP", CONTRASTIVE),
        ("losses", "siglip_loss", CONTRASTIVE),
        ("methods", "TIMAM", {"timam", "timam_no_adversary"}),
        ("methods", "VSRN", {name for name in METHODS if "vsrn" in name}),
        ("methods", "AdversarialMethod", {name for name in METHODS if name.startswith(("acmr", "timam"))}),
        (
            "networks",
            "FeatureEncoder",
            {name for name in METHODS if name.startswith(("acmr", "timam", "gxn", "gru"))} | CONTRASTIVE,
        ),
        ("methods", "RetrievalMethod", set(METHODS)),
        ("data", "CrossModalDataModule", set(METHODS)),
        ("data", "Synthetic", set(METHODS)),
        ("data", "Karpathy", set()),
        ("evaluation", "streamed_ranks", set(METHODS)),
        ("training", "run_job", set(METHODS)),
        ("training", "checkpoint_callbacks", set(METHODS)),
        ("training", "chosen_checkpoint", set(METHODS)),
        ("training", "instantiate", set(METHODS)),
        ("core", "Encoding", set(METHODS)),
    ],
)
def test_each_part_decides_the_numbers_of_what_uses_it(
    house: Path, package: str, symbol: str, methods: set[str]
) -> None:
    path = module_file(house, symbol, package)
    found = stale(house, lambda _: path.write_text(f"{path.read_text()}\nADDED = 1\n"))
    assert found.keys() == methods
    module = ".".join([OURS, *path.relative_to(house).with_suffix("").parts])
    assert set(found.values()) <= {f"{module} has changed"}


def test_a_changed_trainer_flag_makes_everything_stale(house: Path) -> None:
    path = module_file(house, "instantiate", "training")
    found = stale(house, lambda _: change(path, '"num_sanity_val_steps": 0', '"num_sanity_val_steps": 2'))
    assert found.keys() == set(METHODS)


def test_the_worker_brings_no_method_along_and_nothing_that_shows() -> None:
    members = SourceTree({OURS: PACKAGE}, ASIDE).closure(WORKER).modules
    methods = {name for name in members if name.startswith(f"{OURS}.methods")}
    assert methods == {f"{OURS}.methods.base"}
    readers = {name for name in members if name.startswith(f"{OURS}.data.datasets")}
    assert readers == {f"{OURS}.data.datasets.base"}
    assert not any(name.startswith(f"{OURS}.losses") for name in members)
    assert {name.split(".")[1] for name in members}.isdisjoint({"reporting", "bench", "cli"})
    assert {f"{OURS}.evaluation.numbers", f"{OURS}.jobs.results"} <= members.keys()


def test_what_is_left_aside_computes_nothing() -> None:
    """Whatever adds up numbers must count; the rooms that only keep and show are known by name."""
    rooms = {f"{OURS}.{room}" for room in ("jobs", "reporting", "bench", "cli")}
    # One draws a figure, one looks how far a checkpoint is, one knows base classes of torch's.
    known = {f"{OURS}.training.{name}" for name in ("projection", "resumption", "configuration")}
    single = set(ASIDE) - rooms - known
    tree = SourceTree({OURS: PACKAGE}, [f"{OURS}.{path.name}" for path in PACKAGE.iterdir()])
    for name in single:
        closure = tree.closure([name])
        assert list(closure.modules) == [name]
        assert closure.libraries.isdisjoint({"numpy", "scipy", "sklearn", "torch"}), name
    assert len(single) >= 4


def test_every_name_that_is_left_aside_is_there() -> None:
    for name in (*ASIDE, *WORKER, *sources.EVALUATOR):
        path = PACKAGE.parent.joinpath(*name.split("."))
        assert path.is_dir() or path.with_suffix(".py").is_file(), name


def test_settings_count_by_their_values_and_neither_seed_nor_folders() -> None:
    config = SETTINGS["acmr"]
    moved = copy.deepcopy(config)
    moved["data"].update(root="elsewhere", cache="there", seed=7)
    moved["seed_everything"] = 7
    moved.setdefault("trainer", {})
    assert fingerprint_of(moved) == fingerprint_of(config)
    changed = copy.deepcopy(config)
    changed["data"]["batch_size"] = 7
    changed["model"]["init_args"]["alpha"] = 0.7
    (difference,) = fingerprint_of(config).differences(fingerprint_of(changed))
    assert difference.text.startswith("settings differ: ")
    assert "data.batch_size" in difference.text and "model.init_args.alpha" in difference.text


def test_a_draw_is_a_setting_unless_it_follows_from_the_seed() -> None:
    def drawn(protocol: str, draw_seed: int) -> Fingerprint:
        config = copy.deepcopy(SETTINGS["acmr"])
        reader = {"class_path": "crossmodal_bench.data.datasets.Wikipedia"}
        config["data"]["dataset"] = {**reader, "init_args": {"draw_seed": draw_seed}}
        return fingerprint_of(config, [PROTOCOLS[protocol]])

    assert drawn("wikipedia-1300-draws-map", 0) == drawn("wikipedia-1300-draws-map", 1)
    assert drawn("wikipedia-1300-map", 0) != drawn("wikipedia-1300-map", 1)


def test_protocols_count_by_their_values_and_the_lists_that_they_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    protocol = PROTOCOLS["flickr30k-1k"]
    before = fingerprint_of({}, [protocol])
    assert fingerprint_of({}, [replace(protocol, note="Told otherwise.")]) == before
    (difference,) = before.differences(fingerprint_of({}, [replace(protocol, version=protocol.version + 1)]))
    assert difference.text == "protocol flickr30k-1k has changed"
    assert protocol.split.members
    monkeypatch.setattr(sources, "members_digest", lambda name: "other photos")
    (difference,) = before.differences(fingerprint_of({}, [protocol]))
    assert difference.text == "protocol flickr30k-1k has changed"


def test_libraries_are_those_of_the_closure_as_major_and_minor(monkeypatch: pytest.MonkeyPatch) -> None:
    found = unchanged()
    assert {"torch", "numpy", "pytorch-lightning", "torchmetrics"} <= found["acmr"].libraries.keys()
    assert found["sm"].libraries.keys() >= {"scikit-learn"}
    assert found["acmr"].libraries.keys().isdisjoint({"matplotlib", "pydantic", "pyyaml", "jsonargparse"})
    full = {"torch": "2.9.1+cu128", "numpy": "2.4.0"}
    monkeypatch.setattr(sources.metadata, "version", lambda name: full.get(name, "1.0"))
    sources._version.cache_clear()
    try:
        before = fingerprint_of(SETTINGS["acmr"])
        assert before.libraries["torch"] == "2.9"
        for version, differences in (("2.9.2", []), ("2.10.0", ["torch 2.9 → 2.10"])):
            full["torch"] = version
            sources._version.cache_clear()
            today = fingerprint_of(SETTINGS["acmr"])
            assert [each.text for each in before.differences(today)] == differences
    finally:
        monkeypatch.undo()
        sources._version.cache_clear()


def test_classes_are_found_wherever_a_configuration_names_them() -> None:
    config = {
        "model": {"class_path": "ADDR", "init_args": {"host": "crossmodal_bench.methods.hosts.VSRN", "n": 1}},
        "trainer": {"callbacks": [{"class_path": "my_package.deep.Callback"}]},
        "data": {"images": {"network": "resnet18", "weights": "weights/resnet18.pth"}, "text": "words.txt"},
    }
    assert sorted(class_paths(config)) == [
        "ADDR",
        "crossmodal_bench.methods.hosts.VSRN",
        "my_package.deep.Callback",
    ]
    modules = fingerprint_of(config).modules
    assert {f"{OURS}.methods.addr.method", f"{OURS}.methods.hosts.vsrn"} <= modules.keys()


def test_the_sources_of_a_plugin_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "prints_of_mine"
    folder.mkdir()
    (folder / "__init__.py").write_text("from .method import Mine\nraise SystemExit('imported')\n")
    (folder / "method.py").write_text(
        "from crossmodal_bench.losses import triplet_ranking_loss\nfrom . import extra\n"
        "from crossmodal_bench.methods import RetrievalMethod\nclass Mine(RetrievalMethod): pass\n"
    )
    (folder / "extra.py").write_text("MARGIN = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = {"model": {"class_path": "prints_of_mine.Mine"}, "data": SETTINGS["cca"]["data"]}
    before = fingerprint_of(config)
    assert {
        "prints_of_mine.method",
        "prints_of_mine.extra",
        f"{OURS}.losses.ranking",
    } <= before.modules.keys()
    assert "prints_of_mine" not in before.modules
    (folder / "extra.py").write_text("MARGIN = 2\n")
    tree = SourceTree({OURS: PACKAGE, "prints_of_mine": folder}, ASIDE)
    (difference,) = before.differences(fingerprint_in(tree, config))
    assert difference.text == "prints_of_mine.extra has changed"
    # Named as one whose version speaks for it, it is looked at no further.
    assert "prints_of_mine.extra" not in fingerprint_of(config, packages=[OURS]).modules


def test_planning_hundreds_of_jobs_stays_fast() -> None:
    sources.source_tree.cache_clear()
    started = time.process_time()
    fingerprint_of(SETTINGS["gxn"])
    first = time.process_time()
    for _ in range(10):
        for config in SETTINGS.values():
            fingerprint_of(config)
    # Measured: 0.6 s of the processor for the first, and 0.4 ms for each of those that follow.
    assert first - started < 6 and (time.process_time() - first) / (10 * len(SETTINGS)) < 0.02
