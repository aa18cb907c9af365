"""The import closure: followed by name, read without being run, and blind to what decides nothing."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from crossmodal_bench.jobs.fingerprints.closure import Closure, SourceTree, package_location


def write(root: Path, **sources: str) -> SourceTree:
    """A package ``pkg`` of these modules: ``a__b`` is ``a/b.py``, ``a__init`` is ``a/__init__.py``."""
    for name, source in {"init": "", **sources}.items():
        parts = ["__init__" if part == "init" else part for part in name.split("__")]
        path = root.joinpath("pkg", *parts).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
    return SourceTree({"pkg": root / "pkg"}, aside=("pkg.told", "pkg.office"))


def members(tree: SourceTree, *roots: str) -> set[str]:
    return {name.removeprefix("pkg.") for name in tree.closure(roots).modules}


HOUSE = {
    "losses__init": "from pkg.losses.ranking import rank\nfrom .spread import spread\n",
    "losses__ranking": "MARGIN = 0.2\ndef rank(): return MARGIN\n",
    "losses__spread": "import numpy as np\ndef spread(): return np.ones(3)\n",
    "methods__init": "from pkg.methods.first import First\nfrom pkg.methods.second import Second\n",
    "methods__first": "import torch.nn\nfrom pkg.losses import rank\nclass First: loss = rank\n",
    "methods__second": "from pkg.losses import spread\nfrom pkg import told\nclass Second: pass\n",
    "told": "import pkg.methods\n",
    "office__init": "",
    "office__desk": "from pkg.methods import First\n",
}


def test_names_are_followed_to_where_they_are_made_and_packages_are_no_members(tmp_path: Path) -> None:
    tree = write(tmp_path, **HOUSE)
    assert members(tree, "pkg.methods.First") == {"methods.first", "losses.ranking"}
    assert members(tree, "pkg.methods.second.Second") == {"methods.second", "losses.spread"}
    assert tree.closure(["pkg.methods.First"]).libraries == {"torch"}
    assert tree.closure(["pkg.methods.Second", "torch.optim.Adam"]).libraries == {"numpy", "torch"}
    assert tree.exports("pkg.methods", "First") and not tree.exports("pkg.methods", "rank")


@pytest.mark.parametrize(
    ("statement", "wanted"),
    [
        ("from pkg.losses.ranking import rank", {"losses.ranking"}),
        ("from pkg.losses import ranking", {"losses.ranking"}),
        ("from .losses.ranking import MARGIN", {"losses.ranking"}),
        ("from .losses import spread as other", {"losses.spread"}),
        ("import pkg.losses.ranking", {"losses.ranking"}),
        ("import pkg.losses\nx = pkg.losses.rank()", {"losses.ranking"}),
        ("import pkg.losses as losses\nx = losses.spread.spread", {"losses.spread"}),
        ("from pkg import losses\nx = losses.rank", {"losses.ranking"}),
        ("import pkg\nx = pkg.losses.ranking.MARGIN", {"losses.ranking"}),
        # Handed on whole, it may be asked for anything.
        ("from pkg import losses\nx = vars(losses)", {"losses", "losses.ranking", "losses.spread"}),
        ("from pkg.losses import *", {"losses", "losses.ranking", "losses.spread"}),
        ("def f():\n    from pkg.losses import rank", {"losses.ranking"}),
        ("try:\n    import pkg.losses.ranking\nexcept ImportError:\n    pass", {"losses.ranking"}),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pkg.losses import rank", set()),
        (
            "import typing\nif typing.TYPE_CHECKING:\n    from pkg.losses import rank\nelse:\n    rank = 1",
            set(),
        ),
        ("if not TYPE_CHECKING:\n    from pkg.losses import rank", {"losses.ranking"}),
        ("from pkg import told\nimport pkg.office.desk", set()),
        ("from pkg import nothing_there", {"__init__"}),
        ("x = 'from pkg.losses import rank'", set()),
    ],
)
def test_every_way_to_import(tmp_path: Path, statement: str, wanted: set[str]) -> None:
    tree = write(tmp_path, **HOUSE, user=statement)
    found = {name.replace("pkg", "__init__") for name in members(tree, "pkg.user")}
    assert found == {"user", *wanted}


def test_an_init_that_defines_a_class_itself_is_a_member(tmp_path: Path) -> None:
    tree = write(
        tmp_path, own__init="from pkg.own.part import helper\nclass Own: pass\n", own__part="helper = 1\n"
    )
    assert members(tree, "pkg.own.Own") == {"own", "own.part"}
    assert members(tree, "pkg.own.helper") == {"own.part"}


def test_what_is_passed_on_lazily_or_through_several_packages_is_found(tmp_path: Path) -> None:
    tree = write(
        tmp_path,
        lazy__init="""
            if TYPE_CHECKING:
                from pkg.lazy.late import Late
            def __getattr__(name):
                return getattr(import_module('pkg.lazy.late'), name)
        """,
        lazy__late="class Late: pass\n",
        outer__init="from pkg.inner import *\nfrom pkg.lazy import Late as Renamed\n",
        inner__init="from pkg.inner.deep import Deep\n",
        inner__deep="class Deep: pass\n",
    )
    assert members(tree, "pkg.lazy.Late") == members(tree, "pkg.outer.Renamed") == {"lazy.late"}
    assert members(tree, "pkg.outer.Deep") == {"inner.deep"}


def test_circles_and_what_cannot_be_parsed_end(tmp_path: Path) -> None:
    tree = write(tmp_path, a="import pkg.b\n", b="from pkg import a\n", c="import pkg.a\ndef (:\n")
    assert members(tree, "pkg.a") == {"a", "b"}
    assert members(tree, "pkg.c") == {"c"}
    loop = write(tmp_path / "two", x__init="from pkg.y import z\n", y__init="from pkg.x import z\n")
    assert members(loop, "pkg.x.z") == set()
    assert loop.closure(["pkg.gone.Class", "pkg"]).modules.keys() == {"pkg"}


SOURCE = '''
"""What it does."""
import torch
# The margin of the paper.
MARGIN = 0.2
"""Of the loss."""

def loss(x: int, *, weight: float = 1.0) -> int:
    """More."""
    values = [1, 2]
    return (x + MARGIN) if weight else -1  # Why.

class Empty:
    """Nothing."""
'''
SAME = '''
import torch
MARGIN=0.2

def loss(x: int, *, weight: float = 1.0) -> int:
    """Other words."""
    values = [
        1,
        2,
    ]
    return x + MARGIN if weight else -1
class Empty:
    pass
'''


def digest(root: Path, source: str) -> str:
    return write(root, module=source).closure(["pkg.module"]).modules["pkg.module"]


def test_comments_docstrings_and_formatting_change_nothing(tmp_path: Path) -> None:
    assert digest(tmp_path / "a", SOURCE) == digest(tmp_path / "b", SAME)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("MARGIN=0.2", "MARGIN=0.3"),
        ("MARGIN=0.2", "MARGIN='0.2'"),
        ("1,", "True,"),
        ("1,", "1.0,"),
        ("else -1", "else None"),
        ("x + MARGIN", "x - MARGIN"),
        ("weight: float = 1.0", "weight: float = 2.0"),
        ("*, weight", "weight"),
        ("x + MARGIN if weight", "torch.x + MARGIN if weight"),
        ("import torch", "import numpy as torch"),
        ("    pass", "    x = None"),
        ("def loss", "async def loss"),
    ],
)
def test_whatever_is_run_changes_the_digest(tmp_path: Path, old: str, new: str) -> None:
    assert SAME.count(old) == 1
    assert digest(tmp_path / "a", SAME) != digest(tmp_path / "b", SAME.replace(old, new))


def test_files_that_a_member_names_count_with_it(tmp_path: Path) -> None:
    sources = {
        "reads": "open(folder / 'list.txt')\nopen('/etc/hostname')\nopen('../above.txt')\n",
        "other": "x = 1\n",
    }

    def closure(root: Path, content: str, name: str) -> Closure:
        tree = write(root, **sources)
        (root / "pkg" / "list.txt").write_text(content)
        (root / "above.txt").write_text("")
        return tree.closure([name])

    first = closure(tmp_path / "a", "one", "pkg.reads")
    assert list(first.files) == ["pkg/list.txt"]
    assert closure(tmp_path / "b", "two", "pkg.reads").files != first.files
    assert closure(tmp_path / "c", "one", "pkg.other").files == {}


def test_a_process_keeps_to_what_it_has_read(tmp_path: Path) -> None:
    tree = write(tmp_path, module="x = 1\n")
    before = tree.closure(["pkg.module"])
    (tmp_path / "pkg" / "module.py").write_text("x = 2\n")
    assert tree.closure(["pkg.module"]) == before
    assert SourceTree({"pkg": tmp_path / "pkg"}).closure(["pkg.module"]) != before


def test_packages_are_found_without_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "prints_plugin").mkdir()
    (tmp_path / "prints_plugin" / "__init__.py").write_text("raise SystemExit('imported')\n")
    (tmp_path / "prints_single.py").write_text("raise SystemExit('imported')\nclass Method: pass\n")
    assert package_location("prints_plugin") == tmp_path / "prints_plugin"
    single = package_location("prints_single")
    assert single == tmp_path / "prints_single.py"
    assert list(SourceTree({"prints_single": single}).closure(["prints_single.Method"]).modules) == [
        "prints_single"
    ]
    assert package_location("prints_nowhere") is None and package_location("") is None
