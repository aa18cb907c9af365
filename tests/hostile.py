"""Broken files by the thousand: mutations of valid ones, and the property that every reader must have.

Whatever a file holds, its reader gives a value, or raises BadInput with one sentence that names the file; in
little time. Mutations are bytes (flipped, cut off, inserted, swapped), nodes of a JSON document, values and
types of an array, and captions.
"""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from crossmodal_bench.errors import BadInput

PATIENCE = 5.0
"""Seconds of this process's own time for one input of a kilobyte or so."""
Mutation = Callable[[bytes], bytes]

TEXTS = (
    "",
    " ",
    "\0",
    "a\nb\r\nc",
    "\ufeff",
    "\ud800",
    "../../../etc/passwd",
    "/etc/passwd",
    "C:\\x",
    "a" * 300,
    "b/" * 600 + "c",
    "$\\frac{1}{$",
    '=HYPERLINK("http://x")',
    "<script>alert(1)</script>",
    "[bold]x[/bold] | x",
    "\x1b[31mred",
    "é\u0301\u202e😀",
    "word " * 4000,
    "." * 9000,
)
NUMBERS = (0, -1, 1, 2**31, 2**63, 10**30, 10**400, -0.0, 1.5, 1e308, float("nan"), float("inf"))
VALUES = (None, True, False, [], {}, [[]], [None], {"": {}}, *NUMBERS, *TEXTS)
PIECES = (
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"\n\n",
    b"NaN",
    b"1e999",
    b"[" * 3000,
    b'{"a":' * 200,
    b"9" * 5000,
    b'"\\ud800"',
    b'"id":1,"id":2,',
    b"../../",
    b"\xff\xff\xff\x7f",
    b"\x80\x04",
    b"PK\x03\x04",
    b"*a &a [*a, *a]",
    b"!!python/object/apply:os.system [x]",
    b"<<: ",
    b"2001-99-99",
    b": ",
)


@dataclass(frozen=True)
class Reader:
    """Valid files and what reads them.

    Attributes:
        write: writes them below a folder.
        read: reads them below that folder.
        files: pattern of those that are broken, one at a time.
        mutations: how; bytes for any file.
        inputs: so many in the slow run.
        named: whether every complaint can name the folder.
    """

    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    files: str
    mutations: Callable[[str], st.SearchStrategy[Mutation]] = field(default_factory=lambda: by_suffix)
    inputs: int = 800
    named: bool = True


def check(reader: Reader, root: Path, inputs: int) -> int:
    """Let a reader read ``inputs`` broken versions of its files; how many there were.

    Raises whatever else than BadInput it raises, and AssertionError for a complaint that is no sentence.
    """
    reader.write(root)
    reader.read(root)
    paths = sorted(path for path in root.rglob(reader.files) if path.is_file())
    assert paths, f"no file is called {reader.files}"
    done = 0

    @settings(
        max_examples=inputs,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def holds(data: st.DataObject) -> None:
        nonlocal done
        path = data.draw(st.sampled_from(paths))
        valid = path.read_bytes()
        broken = data.draw(reader.mutations(path.suffix))(valid)
        path.write_bytes(broken)
        try:
            attempt(lambda: reader.read(root), str(root) if reader.named else "")
        finally:
            path.write_bytes(valid)
        done += 1

    holds()
    return done


def attempt(read: Callable[[], Any], named: str = "") -> str:
    """What a reader complains of; empty where it gives a value."""
    started = time.process_time()
    try:
        read()
        complaint = ""
    except BadInput as error:
        complaint = str(error)
        assert complaint.isprintable() and named in complaint, complaint
        assert ";" in complaint or ":" in complaint, complaint
    assert time.process_time() - started < PATIENCE
    return complaint


# ---- bytes ----------------------------------------------------------------------------------------


def bytes_mutated() -> st.SearchStrategy[Mutation]:
    """One to four changes of a file's bytes."""
    kinds = st.sampled_from((_flip, _cut, _insert, _remove, _swap, _fill))
    pieces = st.one_of(st.sampled_from(PIECES), st.binary(min_size=1, max_size=8))
    places = st.integers(0, 2**16 - 1)
    changes = st.lists(st.tuples(kinds, places, places, pieces), min_size=1, max_size=4)

    def mutation(chosen: list[Any]) -> Mutation:
        def mutate(content: bytes) -> bytes:
            for change, first, second, piece in chosen:
                content = change(content, first * len(content) >> 16, second * len(content) >> 16, piece)
            return content

        return mutate

    return changes.map(mutation)


def _flip(content: bytes, at: int, bit: int, piece: bytes) -> bytes:
    return content[:at] + bytes(one ^ 1 << bit % 8 for one in content[at : at + 1]) + content[at + 1 :]


def _cut(content: bytes, at: int, _: int, piece: bytes) -> bytes:
    return content[:at]


def _insert(content: bytes, at: int, _: int, piece: bytes) -> bytes:
    return content[:at] + piece + content[at:]


def _remove(content: bytes, at: int, until: int, piece: bytes) -> bytes:
    return content[: min(at, until)] + content[max(at, until) :]


def _swap(content: bytes, at: int, other: int, piece: bytes) -> bytes:
    first, second = min(at, other), max(at, other)
    size = min(16, second - first)
    return (
        content[:first]
        + content[second : second + size]
        + content[first + size : second]
        + content[first : first + size]
        + content[second + size :]
    )


def _fill(content: bytes, at: int, _: int, piece: bytes) -> bytes:
    return content[:at] + piece + content[at + len(piece) :]


# ---- JSON -----------------------------------------------------------------------------------------


def json_mutated() -> st.SearchStrategy[Mutation]:
    """One to three nodes of a JSON document replaced, deleted, duplicated or renamed."""
    values = st.one_of(
        st.sampled_from(VALUES),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
            lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner)),
            max_leaves=4,
        ),
    )
    kinds = st.sampled_from(("replace", "replace", "replace", "delete", "duplicate", "rename"))
    changes = st.lists(st.tuples(kinds, st.integers(0, 2**16 - 1), values), min_size=1, max_size=3)

    def mutation(chosen: list[Any]) -> Mutation:
        def mutate(content: bytes) -> bytes:
            document = {"": json.loads(content)}
            for kind, place, value in chosen:
                nodes = list(_places(document))
                if nodes:
                    _change(*nodes[place * len(nodes) >> 16], kind, value)
            return json.dumps(document.get("")).encode()

        return mutate

    return changes.map(mutation)


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in keys:
        yield node, key
        yield from _places(node[key])


def _change(container: Any, key: Any, kind: str, value: Any) -> None:
    # Documents are written out after every input: two places may share a value.
    if kind == "delete" and key != "":
        del container[key]
    elif kind == "duplicate" and isinstance(container, list):
        container.extend([container[key]] * 2)
    elif kind == "rename" and isinstance(container, dict) and key != "":
        container[str(value)[:50]] = container.pop(key)
    else:
        container[key] = value


# ---- arrays and text ------------------------------------------------------------------------------


def arrays_mutated(suffix: str) -> st.SearchStrategy[Mutation]:
    """An array of a ``.npy``, ``.npz`` or ``.mat`` with another type, shape, order or other values."""
    dtypes = ("f2", ">f4", "f8", "g", "i1", "u8", ">i8", "?", "c8", "U3", "S2", "M8[D]", "V4", "O")
    changes = st.tuples(
        st.integers(0, 2**16 - 1),
        st.sampled_from(("dtype", "dtype", "shape", "value", "order")),
        st.sampled_from(dtypes),
        st.sampled_from(((-1,), (1, -1), (-1, 1), (0, 3), (3, 0), (1, 1, -1), (1,) * 5 + (-1,))),
        st.sampled_from((np.nan, np.inf, -np.inf, 1e300, -1.0, 0.5, 2.0**63, 0.0)),
    )

    def mutation(chosen: Any) -> Mutation:
        def mutate(content: bytes) -> bytes:
            return _repacked(suffix, content, lambda arrays: _array_changed(arrays, *chosen))

        return mutate

    return changes.map(mutation)


def _array_changed(
    arrays: dict[str, Any], place: int, kind: str, dtype: str, shape: tuple[int, ...], value: float
) -> None:
    name = sorted(arrays)[place * len(arrays) >> 16]
    array = arrays[name]
    with np.errstate(all="ignore"):
        if kind == "dtype":
            arrays[name] = array.astype("V4") if dtype == "V4" else _converted(array, dtype)
        elif kind == "shape":
            arrays[name] = np.zeros(shape) if 0 in shape else array.reshape(shape)
        elif kind == "order":
            arrays[name] = np.asfortranarray(array.T if place % 2 else array[::-1])
        else:
            changed = array.astype(np.float64)
            changed.flat[place % max(1, array.size)] = value
            arrays[name] = changed


def _converted(array: Any, dtype: str) -> Any:
    return array.astype("i8").astype(dtype) if dtype == "M8[D]" else array.astype(dtype)


def _repacked(suffix: str, content: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    import io

    source, target = io.BytesIO(content), io.BytesIO()
    if suffix == ".npy":
        arrays: dict[str, Any] = {"": np.load(source)}
    elif suffix == ".npz":
        arrays = dict(np.load(source))
    else:
        arrays = {k: v for k, v in scipy.io.loadmat(source).items() if not k.startswith("__")}
    change(arrays)
    try:
        if suffix == ".npy":
            np.save(target, arrays[""], allow_pickle=True)
        elif suffix == ".npz":
            np.savez(target, **arrays)
        else:
            scipy.io.savemat(target, arrays)
    except (TypeError, ValueError, NotImplementedError):  # what MATLAB has no type for
        return pickle.dumps(None)
    return target.getvalue()


def lines_mutated() -> st.SearchStrategy[Mutation]:
    """A line of a text file replaced by something else."""
    texts = st.one_of(st.sampled_from(TEXTS), st.text(max_size=20))

    def mutation(chosen: tuple[int, str]) -> Mutation:
        def mutate(content: bytes) -> bytes:
            lines = content.split(b"\n")
            lines[chosen[0] * len(lines) >> 16] = chosen[1].encode("utf-8", "surrogatepass")
            return b"\n".join(lines)

        return mutate

    return st.tuples(st.integers(0, 2**16 - 1), texts).map(mutation)


def by_suffix(suffix: str) -> st.SearchStrategy[Mutation]:
    """Bytes, or what a file of that suffix is made of."""
    if suffix == ".json":
        return st.one_of(bytes_mutated(), json_mutated(), json_mutated())
    if suffix in (".npy", ".npz", ".mat"):
        return st.one_of(bytes_mutated(), arrays_mutated(suffix))
    if suffix in (".txt", ".list", ".yaml"):
        return st.one_of(bytes_mutated(), lines_mutated())
    return bytes_mutated()
