from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossmodal_bench.core.class_paths import check_allowed, class_paths, imported_class, trust, trusted
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data.datasets import DatasetReader, Synthetic

PACKAGE = "crossmodal_bench.data.datasets"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with the modules ``plug.inner`` and ``pluggable``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "plug").mkdir()
    (tmp_path / "plug" / "__init__.py").write_text("")
    reader = f"from {PACKAGE} import Synthetic\nclass Mine(Synthetic): pass\nimported = True\n"
    (tmp_path / "plug" / "inner.py").write_text(reader)
    (tmp_path / "pluggable.py").write_text(reader)
    yield tmp_path
    for name in ("plug", "plug.inner", "pluggable"):
        sys.modules.pop(name, None)


def named(name: str) -> type:
    return imported_class("data.dataset", name, DatasetReader, PACKAGE)


def test_ours_are_known_by_their_names() -> None:
    assert named("Synthetic") is named(f"{PACKAGE}.Synthetic") is Synthetic
    assert named(f"{PACKAGE}.synthetic.Synthetic") is Synthetic


def test_a_package_is_trusted_with_all_below_it_and_nothing_beside_it(folder: Path) -> None:
    trust(["plug"])
    assert trusted() == ("plug",)
    assert issubclass(named("plug.inner.Mine"), Synthetic)
    for name in ("pluggable.Mine", "plugging.Mine", "plu.Mine", ".plug.Mine", "os.plug.Mine"):
        with pytest.raises(BadInput, match=r"data\.dataset.*configurations may not name|cannot be imported"):
            named(name)
    assert "pluggable" not in sys.modules
    trust(["plug.inner"])
    check_allowed("key", "plug.inner.Mine")
    with pytest.raises(BadInput, match="in a package that configurations may not name"):
        check_allowed("key", "plug.Mine")
    trust(())
    with pytest.raises(BadInput, match="pass --plugins plug if you trust it"):
        named("plug.inner.Mine")


def test_a_trusted_package_does_not_vouch_for_others(folder: Path) -> None:
    (folder / "plug" / "inner.py").write_text("from pluggable import Mine\n")
    trust(["plug"])
    with pytest.raises(BadInput, match=r"'pluggable\.Mine' is in a package that configurations may not name"):
        named("plug.inner.Mine")
    trust(["plug", "pluggable"])
    assert named("plug.inner.Mine").__module__ == "pluggable"


def test_what_lies_in_the_working_directory_stands_for_no_library(folder: Path) -> None:
    trust(["plug"])
    assert sys.path[-1] == str(folder)


def test_trusting_a_package_does_not_import_it(folder: Path) -> None:
    trust(["plug", "pluggable"])
    assert "plug" not in sys.modules and "pluggable" not in sys.modules


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("", "is not a valid Python package name"),
        ("a b", "is not a valid Python package name"),
        ("plug/inner", "is not a valid Python package name"),
        ("plug.", "is not a valid Python package name"),
        ("subprocess", "is not one of your packages"),
        ("os.path", "is not one of your packages"),
        ("crossmodal_bench.cli", "is not one of your packages"),
        ("nowhere_at_all", "is not found"),
    ],
)
def test_what_can_be_no_plugin_is_a_sentence(folder: Path, name: str, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        trust([name])
    assert trusted() == ()


@pytest.mark.parametrize(
    "name",
    [
        "crossmodal_bench.cli.main.main",
        "crossmodal_bench.core.files.os",
        f"{PACKAGE}.karpathy.np",
        f"{PACKAGE}.nothing.Synthetic",
        "nonsense",
        "..",
        "",
        f"{PACKAGE}.",
        f"{PACKAGE}..Synthetic",
    ],
)
def test_what_is_no_reader_of_ours_is_a_sentence(name: str) -> None:
    with pytest.raises(
        BadInput, match=r"'data\.dataset'.*(cannot be imported|is not a DatasetReader|configurations may not)"
    ):
        named(name)


def test_class_paths_are_seen_at_every_depth() -> None:
    config = {"a": [{"class_path": "x.A", "init_args": {"b": ({"class_path": "y.B"},), "class_path": 3}}]}
    assert list(class_paths(config)) == ["x.A", "y.B"]
