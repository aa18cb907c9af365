"""Which classes a configuration may name, and how they are imported: never before they have been checked.

A configuration comes from a file, the file may come from anyone, and importing a module runs it. So only
listed packages may be named: this package's own methods, networks and data sets; the networks and optimisers
of the libraries it is built on; and the packages that the user trusts by naming them on the command line
(``--plugins``).
"""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module, invalidate_caches
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from crossmodal_bench.core.errors import BadInput, nearest
from crossmodal_bench.core.files import first_line

US = "crossmodal_bench"
OURS = (f"{US}.methods", f"{US}.networks", f"{US}.data.datasets")
LIBRARIES = ("torchvision.models", "transformers", "torch.optim")
"""Libraries whose classes may be named; ``training.configuration`` decides which kinds of class."""

_trusted: list[str] = []


def trust(packages: Iterable[str]) -> None:
    """Let this process's configurations name classes of these packages, and of no others besides our own.

    They are looked up among the installed packages first, then in the working directory.

    Args:
        packages: names of packages or modules.

    Raises:
        BadInput: a name is not a valid package name, is not found, or belongs to Python itself.
    """
    names = list(packages)
    if names and os.getcwd() not in sys.path and "" not in sys.path:
        # Last, so that a file in the working directory cannot shadow an installed library.
        sys.path.append(os.getcwd())
    invalidate_caches()
    for name in names:
        _check_package(name)
    _trusted[:] = dict.fromkeys(names)


def trusted() -> tuple[str, ...]:
    """The packages that this process trusts."""
    return tuple(_trusted)


def _check_package(name: str) -> None:
    first = name.partition(".")[0]
    if not all(part.isidentifier() for part in name.split(".")):
        raise BadInput(f"PLUGINS '{name}' is not a valid Python package name; write, say, my_package")
    if first in sys.stdlib_module_names or first == US:
        raise BadInput(f"PLUGINS '{name}' is not one of your packages; name the one that holds your methods")
    try:
        there = first in sys.modules or find_spec(first) is not None
    except (ImportError, ValueError):
        there = False
    if not there:
        raise BadInput(
            f"PLUGINS '{name}' is not found; install the package, or start in the folder that holds it"
        )


def allowed_prefixes() -> tuple[str, ...]:
    """Packages and modules whose classes a configuration may name."""
    return (*OURS, *LIBRARIES, *_trusted)


def is_below(name: str, prefixes: Iterable[str]) -> bool:
    """Whether a dotted name is one of the prefixes, or below one."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def class_paths(node: Any) -> Iterator[str]:
    """Every class path below a node of a configuration."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "class_path" and isinstance(value, str):
                yield value
            yield from class_paths(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from class_paths(value)


def check_allowed(key: str, name: str) -> None:
    """Raise BadInput if ``name``, the class at the configuration's ``key``, must not be imported."""
    if not is_below(name, allowed_prefixes()):
        package = name.partition(".")[0]
        raise BadInput(
            f"configuration key '{key}': '{name}' is in a package that configurations may not name, because "
            f"importing it runs its code; pass --plugins {package} if you trust it, or choose a class of "
            f"{', '.join(OURS)}"
        )


def imported_class(key: str, name: Any, base: type, package: str) -> type:
    """The class that a configuration names.

    Args:
        key: the configuration key, for error messages.
        name: its class path; without a module, it is looked up in ``package``.
        base: the class that it must be derived from.
        package: our own package of that kind.

    Raises:
        BadInput: it must not be imported, cannot be imported, or is not a subclass of ``base``.
    """
    ours = import_module(package)
    known = _classes(ours, ours.__all__, base)
    module, _, last = str(name).rpartition(".")
    module = module or package
    # A misspelt name of ours gets a suggestion, without being imported.
    if not is_below(module, [US]):
        check_allowed(key, str(name))
    imported = _module(key, module) if is_below(module, allowed_prefixes()) else None
    if imported is not None and not is_below(module, [US]):
        known = _classes(imported, vars(imported), base) or known
    cls = getattr(imported, last, None)
    if cls is None:
        raise BadInput(f"configuration key '{key}': '{name}' cannot be imported{nearest(str(name), known)}")
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise BadInput(
            f"configuration key '{key}': '{name}' is not a {base.__name__}{nearest(str(name), known)}"
        )
    # A trusted package may re-export a class of an untrusted one.
    check_allowed(key, f"{cls.__module__}.{cls.__qualname__}")
    return cls


def _classes(module: ModuleType, names: Iterable[str], base: type) -> list[str]:
    """The paths of those of a module's names that are its own usable classes of one kind."""
    package = module.__name__
    return [
        f"{package}.{name}"
        for name in names
        if isinstance(cls := getattr(module, name), type)
        and issubclass(cls, base)
        and is_below(cls.__module__, [package])
        and not inspect.isabstract(cls)
    ]


def _module(key: str, name: str) -> ModuleType | None:
    """The module; None if there is no module of that name.

    Raises BadInput if it exists but cannot be imported, whatever goes wrong inside.
    """
    try:
        return import_module(name)
    except BadInput:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and is_below(name, [error.name]):
            return None
        raise _broken(key, name, error) from error
    except Exception as error:
        # A name such as "a..b", for which nothing has been imported yet.
        if not all(part.isidentifier() for part in name.split(".")):
            return None
        raise _broken(key, name, error) from error


def _broken(key: str, name: str, error: Exception) -> BadInput:
    if isinstance(error, SyntaxError):
        where = f"{error.filename}, line {error.lineno}"
        what = f"SyntaxError: {error.msg}"
    else:
        frames = [
            frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename
        ]
        where = f"{frames[-1].filename}, line {frames[-1].lineno}"
        what = f"{type(error).__name__}: {first_line(error)}"
    fix = "install what it needs, or fix that line" if isinstance(error, ImportError) else "fix that line"
    return BadInput(f"configuration key '{key}': module {name} cannot be imported ({where}: {what}); {fix}")
