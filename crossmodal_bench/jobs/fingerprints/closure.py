"""Which modules a number depends on: what classes import, followed through source files without running them.

A module is identified by its syntax tree, so comments, docstrings and formatting do not matter. Names that a
package's ``__init__`` re-exports are followed to the modules that define them; the ``__init__`` itself is not
a member, or a new method listed there would make every record stale.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import TypeGuard

from crossmodal_bench.core.files import is_path_below

DIGITS = 12
"""Hexadecimal digits of a digest: it need not resist attacks, and a record has a hundred of them."""

_FORMATTING = frozenset({"ctx", "kind", "type_comment"})
"""Fields of a syntax tree that follow from the others or from the spelling of a constant."""
_SOURCES = frozenset({".py", ".pyc", ".pyi"})


@dataclass(frozen=True)
class Closure:
    """What some classes depend on.

    Attributes:
        modules: digests of modules' syntax trees, by dotted name.
        files: digests of other files next to these modules that they name, by their paths relative to the
            package's folder.
        libraries: top-level names of all other modules that they import, without the standard library.
    """

    modules: Mapping[str, str]
    files: Mapping[str, str]
    libraries: frozenset[str]


@dataclass(frozen=True)
class _Import:
    """``from module import symbol as local``; without a symbol, ``import module as local``."""

    module: str
    symbol: str | None
    local: str


@dataclass
class _Module:
    """What is extracted from one file; ``uses`` are names with the attributes accessed on them."""

    digest: str
    imports: list[_Import] = field(default_factory=list)
    for_types: list[_Import] = field(default_factory=list)
    definitions: set[str] = field(default_factory=set)
    uses: set[tuple[str, ...]] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)


class SourceTree:
    """The sources of some packages, as they were when each file was first read.

    A process runs the files as they were when it started. So each file is read once, and later changes belong
    to later processes.

    Args:
        packages: the folder of each package, or the file of each module, by top-level name.
        aside: modules, and packages with everything in them, that are neither members nor followed.
    """

    def __init__(self, packages: Mapping[str, Path], aside: Collection[str] = ()) -> None:
        self._packages = dict(packages)
        self._aside = frozenset(aside)
        self._files: dict[str, Path | None] = {}
        self._modules: dict[Path, _Module] = {}
        self._needs: dict[str, tuple[frozenset[str], frozenset[str]]] = {}
        self._beside: dict[Path, dict[str, str]] = {}
        self._closures: dict[frozenset[str], Closure] = {}

    def closure(self, roots: Iterable[str]) -> Closure:
        """What ``roots`` depend on, including themselves.

        Args:
            roots: dotted names of modules, or of classes in modules or re-exported by packages. One from
                another package is a library; one that does not exist is left for the import to report.
        """
        wanted = frozenset(roots)
        if wanted not in self._closures:
            self._closures[wanted] = self._closure(wanted)
        return self._closures[wanted]

    def exports(self, package: str, symbol: str) -> bool:
        """Whether a package's ``__init__`` has a name, as far as its source shows."""
        return self._defines(package, symbol, frozenset())

    def _closure(self, roots: Iterable[str]) -> Closure:
        libraries: set[str] = set()
        waiting: set[str] = set()
        for root in roots:
            if self._is_ours(root):
                waiting |= self._homes(root)
            else:
                libraries.add(root.partition(".")[0])
        members: set[str] = set()
        while waiting:
            name = waiting.pop()
            members.add(name)
            modules, foreign = self._needed_by(name)
            libraries |= foreign
            waiting |= {module for module in modules if not self._is_aside(module)} - members
        files: dict[str, str] = {}
        for name in members:
            files |= self._files_beside(name)
        return Closure(
            modules={name: self._read(name).digest for name in sorted(members)},
            files=dict(sorted(files.items())),
            libraries=frozenset(libraries - sys.stdlib_module_names),
        )

    def _is_ours(self, name: str) -> bool:
        return name.partition(".")[0] in self._packages

    def _is_aside(self, name: str) -> bool:
        parts = name.split(".")
        return any(".".join(parts[:length]) in self._aside for length in range(1, len(parts) + 1))

    # ---- from names to modules ------------------------------------------------------------------------

    def _file(self, module: str) -> Path | None:
        """The source of a module, or of a package's ``__init__``; None if there is none."""
        if module not in self._files:
            self._files[module] = self._find(module)
        return self._files[module]

    def _find(self, module: str) -> Path | None:
        top, *rest = module.split(".")
        base = self._packages.get(top)
        if base is None:
            return None
        if base.is_file():
            return None if rest else base
        path = base.joinpath(*rest)
        candidates = [path / "__init__.py"]
        if rest:
            candidates.append(path.with_name(f"{path.name}.py"))
        return next((candidate for candidate in candidates if candidate.is_file()), None)

    def _is_package(self, module: str) -> bool:
        path = self._file(module)
        if path is not None:
            return path.name == "__init__.py"
        # A folder without an __init__ is a package too.
        top, *rest = module.split(".")
        return top in self._packages and self._packages[top].joinpath(*rest).is_dir()

    def _homes(self, dotted: str) -> set[str]:
        """The modules of a dotted name: ``package.module``, ``package.module.Class`` or ``package.Class``."""
        if self._file(dotted) is not None and not self._is_package(dotted):
            return {dotted}
        if self._is_package(dotted):
            return {dotted} if self._file(dotted) is not None else set()
        module, _, symbol = dotted.rpartition(".")
        return self._resolve(module, symbol) if module else set()

    def _resolve(self, module: str, symbol: str, seen: frozenset[tuple[str, str]] = frozenset()) -> set[str]:
        """The modules that provide what ``from module import symbol`` imports."""
        if (module, symbol) in seen:
            return set()
        seen |= {(module, symbol)}
        if not self._is_package(module):
            if self._file(module) is not None:
                return {module}
            # For example a nested class.
            parent, _, name = module.rpartition(".")
            return self._resolve(parent, name, seen) if parent else set()
        if self._file(module) is not None:
            init = self._read(module)
            for passed_on in (*init.imports, *init.for_types):
                if passed_on.local != symbol:
                    continue
                if not self._is_ours(passed_on.module):
                    return {module}
                if passed_on.symbol is None:
                    return self._homes(passed_on.module)
                return self._resolve(passed_on.module, passed_on.symbol, seen)
            if symbol in init.definitions:
                return {module}
        submodule = f"{module}.{symbol}"
        if self._file(submodule) is not None and not self._is_package(submodule):
            return {submodule}
        if self._is_package(submodule):
            # Its attributes are resolved where they are accessed.
            return set()
        if self._file(module) is None:
            return set()
        for passed_on in self._read(module).imports:
            if passed_on.symbol == "*" and self._defines(passed_on.module, symbol, seen):
                return self._resolve(passed_on.module, symbol, seen)
        # Defined at import time, in a way that the source does not show.
        return {module}

    def _defines(self, module: str, symbol: str, seen: frozenset[tuple[str, str]]) -> bool:
        if not self._is_ours(module) or self._file(module) is None or (module, symbol) in seen:
            return False
        content = self._read(module)
        if symbol in content.definitions or any(
            each.local == symbol for each in (*content.imports, *content.for_types)
        ):
            return True
        stars = [each.module for each in content.imports if each.symbol == "*"]
        return any(self._defines(star, symbol, seen | {(module, symbol)}) for star in stars)

    def _needed_by(self, name: str) -> tuple[frozenset[str], frozenset[str]]:
        """The modules that a module imports from, and the libraries."""
        if name not in self._needs:
            self._needs[name] = self._look_up(name)
        return self._needs[name]

    def _look_up(self, name: str) -> tuple[frozenset[str], frozenset[str]]:
        modules: set[str] = set()
        libraries: set[str] = set()
        content = self._read(name)
        for each in content.imports:
            if not self._is_ours(each.module):
                libraries.add(each.module.partition(".")[0])
            elif each.symbol == "*":
                modules |= self._all_of(each.module)
            elif each.symbol is None:
                modules |= set() if self._is_package(each.module) else self._homes(each.module)
                modules |= self._asked_of(each.local, each.module, content)
            else:
                modules |= self._resolve(each.module, each.symbol)
                modules |= self._asked_of(each.local, f"{each.module}.{each.symbol}", content)
        return frozenset(modules - {name}), frozenset(libraries)

    def _all_of(self, module: str) -> set[str]:
        return {module} if self._file(module) is not None else set()

    def _asked_of(self, local: str, module: str, content: _Module) -> set[str]:
        """The modules behind ``losses.ranking.x`` and ``losses.y`` if ``losses`` is a package."""
        if not self._is_package(module):
            return set()
        modules: set[str] = set()
        for first, *attributes in content.uses:
            if first != local:
                continue
            package, rest = module, list(attributes)
            while rest and self._is_package(f"{package}.{rest[0]}"):
                package = f"{package}.{rest.pop(0)}"
            # If the package object itself is passed on, anything in it may be accessed.
            modules |= self._resolve(package, rest[0]) if rest else self._all_of(package)
        return modules

    # ---- reading --------------------------------------------------------------------------------------

    def _read(self, module: str) -> _Module:
        path = self._file(module)
        assert path is not None, module
        if path not in self._modules:
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            self._modules[path] = _read(path.read_bytes(), package)
        return self._modules[path]

    def _files_beside(self, module: str) -> dict[str, str]:
        """Digests of the files in a module's folder that its source names, such as lists."""
        path = self._file(module)
        assert path is not None, module
        if path not in self._beside:
            self._beside[path] = {
                f"{module.partition('.')[0]}/{other.relative_to(self._top(module)).as_posix()}": file_digest(
                    other
                )
                for text in sorted(self._read(module).texts)
                if (other := path.parent / text).is_file() and other.suffix not in _SOURCES
            }
        return self._beside[path]

    def _top(self, module: str) -> Path:
        base = self._packages[module.partition(".")[0]]
        return base if base.is_dir() else base.parent


def file_digest(path: Path) -> str:
    """The digest of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:DIGITS]


@cache
def package_location(name: str) -> Path | None:
    """The folder of a top-level package, or the file of a module, without importing it; None if not found."""
    try:
        spec = importlib.util.find_spec(name)
    # An invalid name, or a module that was inserted into sys.modules without a spec.
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    folders = list(spec.submodule_search_locations or ())
    if folders:
        return Path(folders[0])
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None


# ---- one file -------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _read(source: bytes, package: str) -> _Module:
    """The digest of a source and what it imports; cached by content, so the result must not be modified.

    Args:
        source: the file's bytes.
        package: the package that it is in, from which relative imports start.
    """
    try:
        tree = ast.parse(source)
        text: list[str] = []
        reader = _Reader(package, text)
        reader.statements(tree.body)
    # It cannot be imported either, and the import will report why.
    except (SyntaxError, ValueError, RecursionError):
        return _Module(digest=hashlib.sha256(source).hexdigest()[:DIGITS])
    module = reader.module
    module.digest = hashlib.sha256("".join(text).encode(errors="surrogatepass")).hexdigest()[:DIGITS]
    module.definitions = set(_defined(tree.body))
    return module


class _Reader:
    """Walks a syntax tree once, writing what is hashed and collecting what is imported.

    ``ast.dump`` is not used because its output for the same source differs between Python versions.
    """

    def __init__(self, package: str, text: list[str]) -> None:
        self.module = _Module(digest="")
        self._package = package
        self._text = text

    def statements(self, body: list[ast.stmt]) -> None:
        """Statements that do something: no docstrings, and nothing that only the type checker sees."""
        self._text.append("[")
        for statement in _effective(body, self._for_types):
            self._node(statement)
        self._text.append("]")

    def _for_types(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self.module.for_types += list(self._imported(statement))

    def _node(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            self.module.imports += self._imported(node)
        elif isinstance(node, ast.Attribute | ast.Name):
            if (chain := _chain(node)) is not None:
                self.module.uses.add(chain)
                self._text.append(f"{'.'.join(chain)} ")
                return
        elif isinstance(node, ast.Constant) and _may_name_a_file(node.value):
            self.module.texts.add(node.value)
        self._text.append(f"{type(node).__name__}(")
        for name in node._fields:
            if name in _FORMATTING:
                continue
            value = getattr(node, name, None)
            # Fields added by a later Python are empty for anything that an earlier one can express.
            if value is None or value == []:
                if isinstance(node, ast.Constant):
                    self._text.append("None")
                continue
            self._text.append(f"{name}=")
            self._value(value)
        self._text.append(")")

    def _value(self, value: object) -> None:
        if isinstance(value, ast.AST):
            self._node(value)
        elif isinstance(value, list) and value and isinstance(value[0], ast.stmt):
            self.statements(value)
        elif isinstance(value, list):
            self._text.append("[")
            for item in value:
                self._value(item)
            self._text.append("]")
        elif isinstance(value, int) and not isinstance(value, bool):
            # Python refuses to print integers of more than 4,300 decimal digits.
            self._text.append(f"{value:#x},")
        else:
            self._text.append(f"{value!r},")

    def _imported(self, node: ast.stmt) -> Iterator[_Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname is not None:
                    yield _Import(alias.name, None, alias.asname)
                    continue
                yield _Import(alias.name, None, "")
                yield _Import(alias.name.partition(".")[0], None, alias.name.partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                above = self._package.split(".")
                kept = above[: len(above) - node.level + 1]
                module = ".".join([*kept, *([module] if module else [])])
            for alias in node.names:
                yield _Import(module, alias.name, alias.asname or alias.name)


def _effective(body: list[ast.stmt], for_types: Callable[[list[ast.stmt]], None]) -> Iterator[ast.stmt]:
    """The statements that do something; those for the type checker go to ``for_types``."""
    for statement in body:
        if isinstance(statement, ast.Pass):
            continue
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        if isinstance(statement, ast.If) and _is_for_types(statement.test):
            for_types(statement.body)
            yield from _effective(statement.orelse, for_types)
            continue
        yield statement


def _may_name_a_file(text: object) -> TypeGuard[str]:
    """Whether a constant could be a path inside its module's folder."""
    if not isinstance(text, str):
        return False
    return 0 < len(text) < 100 and "." in text and text.isprintable() and is_path_below(text)


def _is_for_types(test: ast.expr) -> bool:
    """Whether a condition is ``TYPE_CHECKING``, which is never true at run time."""
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
    return name == "TYPE_CHECKING"


def _chain(node: ast.AST) -> tuple[str, ...] | None:
    """``a.b.c`` as its three names; None if the chain does not start with a name."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return (node.id, *reversed(names)) if isinstance(node, ast.Name) else None


def _defined(body: Iterable[ast.stmt]) -> Iterator[str]:
    """The names that a module's own statements define, including those inside conditions."""
    for statement in body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield statement.name
        elif isinstance(statement, ast.Assign):
            yield from (
                node.id
                for target in statement.targets
                for node in ast.walk(target)
                if isinstance(node, ast.Name)
            )
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield statement.target.id
        elif isinstance(statement, ast.If | ast.Try | ast.With):
            yield from _defined(
                child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.stmt)
            )
