"""Text, JSON and YAML from untrusted files: whatever the bytes, a value or a one-sentence error.

Rejected here: bytes that are not UTF-8; anything but a regular file (reading a pipe would block); JSON and
YAML whose nesting or references would exhaust any code that walks them; duplicate keys (the first value would
be lost); and names that lead out of the folder they belong to.
"""

from __future__ import annotations

import errno
import json
import os
import reprlib
import stat
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml

from crossmodal_bench.core.errors import BadInput

DEEPEST = 64
"""Levels of nested lists and objects; real files have a handful."""
MOST_NODES = 100_000
"""Values in a YAML document with its references expanded: nine lines can stand for 10^9 of them."""
LARGEST_YAML = 2**20
"""Bytes of a YAML file; the parser takes about a second for every few hundred thousand."""
LONGEST_NAME = 255
"""Bytes of one part of a path, on every file system in use."""
LONGEST_PATH = 1024
"""Bytes of a path below a data set's folder."""


LARGEST = 64 * 2**20
"""Bytes of a file that is read whole just because of its name, in a folder that may be anyone's."""


def read_plain(path: Path, largest: int = LARGEST) -> bytes:
    """The content of a regular file of bounded size.

    Raises:
        OSError: it cannot be read, is too large, or is a pipe or device, which has no end; ``strerror`` says
            which.
    """
    # Check before opening: merely opening some devices has side effects.
    _check_plain(os.stat(path), path, largest)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as stream:
        _check_plain(os.fstat(descriptor), path, largest)
        content = stream.read(largest + 1)
    if len(content) > largest:
        raise _too_large(path, largest)
    return content


def _check_plain(status: os.stat_result, path: Path, largest: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    if status.st_size > largest:
        raise _too_large(path, largest)


def _too_large(path: Path, largest: int) -> OSError:
    return OSError(errno.EFBIG, f"it is larger than {largest // 2**20} MB", str(path))


def read_text(path: Path, largest: int | None = None) -> str:
    """A UTF-8 file, with or without a byte order mark; BadInput names the first byte that is invalid.

    Args:
        path: the file.
        largest: maximal size in bytes; None for files of a data set, which may have any size.
    """
    try:
        if path.exists() and not path.is_file():
            raise BadInput(f"{path} cannot be read (it is not a regular file); put the file there")
        if largest is not None:
            return read_plain(path, largest).decode("utf-8").removeprefix("\ufeff")
        return path.read_text(encoding="utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"{path} cannot be read ({reason}); fix it or copy it again") from error


def read_json(path: Path) -> Any:
    """A JSON file's content; BadInput names the line that is invalid."""
    try:
        return parse_json(read_text(path))
    except ValueError as error:
        raise BadInput(f"{path} is not valid JSON ({error}); copy it again") from error


def read_yaml(path: Path) -> Any:
    """A YAML file's content; BadInput names the line that is invalid, or says that the file is too large."""
    text = read_text(path, LARGEST_YAML)
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise BadInput(f"{path} is not valid YAML ({error}); fix it") from error


def parse_json(text: str) -> Any:
    """The value of a JSON text with at most DEEPEST nested lists and objects.

    Raises:
        ValueError: what is wrong with it, in a few words; NaN, Infinity and duplicate keys are not allowed.
    """
    try:
        content = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}: {error.msg}") from error
    except RecursionError as error:
        raise ValueError(f"more than {DEEPEST} levels deep") from error
    level = [content]
    for _ in range(DEEPEST + 1):
        level = [child for node in level for child in _children(node) if isinstance(child, dict | list)]
        if not level:
            return content
    raise ValueError(f"more than {DEEPEST} levels deep")


def parse_yaml(text: str) -> Any:
    """The value of a YAML text of JSON types only: mappings with string keys, lists, strings, numbers, null.

    Raises:
        ValueError: what is wrong with it, in a few words.
    """
    try:
        content = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise ValueError(f"line {mark.line + 1}: {reason}" if mark else reason) from error
    except RecursionError as error:
        raise ValueError(f"more than {DEEPEST} levels deep") from error
    # For example, a date in month 99, or an integer of 5,000 digits.
    except (ValueError, TypeError, AttributeError, OverflowError, LookupError) as error:
        raise ValueError(first_line(error)) from error
    for number, _ in enumerate(_nodes(content)):
        if number >= MOST_NODES:
            raise ValueError(f"its references expand to more than {MOST_NODES} values")
    return content


class _Loader(yaml.SafeLoader):
    """SafeLoader that rejects duplicate keys and unbounded merging ("<<") of merged mappings."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._flat: set[yaml.MappingNode] = set()

    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        # Parsing takes time quadratic in the depth.
        if self.flow_level > DEEPEST:
            raise yaml.scanner.ScannerError(
                problem=f"more than {DEEPEST} levels deep", problem_mark=self.get_mark()
            )
        super().fetch_flow_collection_start(token)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if node in self._flat:
            return
        self._flat.add(node)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"duplicate key {shown(key.value)}", problem_mark=key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        super().flatten_mapping(node)
        if len(node.value) > MOST_NODES // 10:
            raise yaml.constructor.ConstructorError(
                problem=f"it merges more than {MOST_NODES // 10} keys", problem_mark=node.start_mark
            )


def is_path_below(name: str) -> bool:
    """Whether a relative path read from a file stays below the folder that it is joined to.

    Symbolic links are the user's own and are followed: ``images`` may well be on another disk.
    """
    # Windows rules cover both kinds of slash and drive letters.
    path = PureWindowsPath(name)
    if path.anchor or ".." in path.parts or not path.parts or "\0" in name or not is_unicode(name):
        return False
    longest = max(len(part.encode()) for part in path.parts)
    return longest <= LONGEST_NAME and len(name.encode()) <= LONGEST_PATH


def is_unicode(text: str) -> bool:
    """False for a lone surrogate, which JSON and file systems can hold but no encoding accepts."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def shown(value: Any, longest: int = 60) -> str:
    """A value from a file as a message can show it: short, on one line."""
    brief = reprlib.Repr()
    brief.maxlevel, brief.maxstring = 2, longest
    return brief.repr(value)[:longest]


def first_line(error: BaseException) -> str:
    """An exception's message as one short line."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        raise ValueError(f"duplicate key {shown(twice)} in one object")
    return content


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _children(node: Any) -> Any:
    return node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()


def _nodes(content: Any) -> Iterator[Any]:
    """Every value, level by level, once per reference; ValueError for a type that JSON lacks."""
    level = [content]
    for _ in range(DEEPEST + 2):
        below: list[Any] = []
        for node in level:
            yield node
            if isinstance(node, Mapping):
                _check_keys(node)
            elif node is not None and not isinstance(node, list | str | int | float):
                raise ValueError(f"{shown(node)} is a {type(node).__name__}; put it in quotation marks")
            below.extend(_children(node))
            if len(below) > MOST_NODES:
                raise ValueError(f"its references expand to more than {MOST_NODES} values")
        if not below:
            return
        level = below
    raise ValueError(f"more than {DEEPEST} levels deep")


def _check_keys(node: Mapping[Hashable, Any]) -> None:
    for key in node:
        if not isinstance(key, str):
            raise ValueError(f"the key {shown(key)} is not a string; put it in quotation marks")
