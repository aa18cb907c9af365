"""Broken files by the thousand: mutations of valid ones, and the property that every reader must have.

Whatever a file holds, its reader gives a value, or raises BadInput with one sentence that names the file; in
little time. Mutations are bytes (flipped, cut off, inserted, swapped), nodes of a JSON document, values and
types of an array, and captions.
"""

from __future__ import annotations

import json
import logging
import pickle
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from crossmodal_bench.core.errors import BadInput

PATIENCE = 20.0
"""Seconds of this process's own time for one input of a kilobyte or so. The first of a kind may let a library
import what it never needed before: for transformers that is six seconds on a busy core."""
GENES = 8
"""Bytes that say what one change is: a whole input is one draw, which is what makes thousands affordable."""

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
        inputs: so many in the slow run.
        named: whether every complaint can name the folder.
    """

    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    files: str
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
    @given(st.binary(min_size=GENES, max_size=5 * GENES))
    def holds(genes: bytes) -> None:
        nonlocal done
        path = paths[genes[0] % len(paths)]
        valid = path.read_bytes()
        broken = mutated(path.suffix, valid, genes[1], genes[2:])
        path.write_bytes(broken)
        try:
            attempt(lambda: reader.read(root), str(root) if reader.named else "")
        finally:
            path.write_bytes(valid)
        done += 1

    # What libraries say of broken files may hold what no encoding can write, not even pytest's own.
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            holds()
    finally:
        logging.disable(logging.NOTSET)
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


def mutated(suffix: str, content: bytes, family: int, genes: bytes) -> bytes:
    """A file with up to five changes of its bytes, or of what a file with that suffix is made of."""
    families: list[Callable[[bytes, bytes], bytes]] = [bytes_changed]
    if suffix in (".json", ".yaml"):
        families += [json_changed, json_changed]
    if suffix in (".npy", ".npz", ".mat"):
        families += [lambda content, gene: array_changed(suffix, content, gene)]
    if suffix in (".txt", ".list", ".yaml"):
        families += [line_changed]
    change = families[family % len(families)]
    for at in range(0, len(genes), GENES):
        gene = genes[at : at + GENES].ljust(GENES, b"\0")
        try:
            content = change(content, gene)
        except Exception:  # the change before has left no JSON, or no array
            content = bytes_changed(content, gene)
    return content


def _place(gene: bytes, size: int) -> int:
    """0 to size."""
    return int.from_bytes(gene, "big") * (size + 1) >> 8 * len(gene)


# ---- bytes ----------------------------------------------------------------------------------------


def bytes_changed(content: bytes, gene: bytes) -> bytes:
    """Flipped, cut off, inserted, removed, swapped or overwritten bytes."""
    first, second = _place(gene[1:3], len(content)), _place(gene[3:5], len(content))
    change = (_flip, _cut, _insert, _remove, _swap, _fill)[gene[0] % 6]
    piece = gene[6:] if gene[5] % 2 else PIECES[gene[6] % len(PIECES)]
    return change(content, first, second, piece)


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


def as_json(value: Any) -> str:
    """One node a line, so that lines can be replaced too."""
    return json.dumps(value, indent=1)


def json_changed(content: bytes, gene: bytes) -> bytes:
    """A node of a JSON document replaced, deleted, duplicated or renamed."""
    document = {"": json.loads(content)}
    nodes = list(_places(document))
    container, key = nodes[_place(gene[1:3], len(nodes) - 1)]
    kind = ("replace", "replace", "replace", "delete", "duplicate", "rename")[gene[0] % 6]
    _change(container, key, kind, VALUES[gene[3] % len(VALUES)])
    return as_json(document.get("")).encode()


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in keys:
        yield node, key
        yield from _places(node[key])


def _change(container: Any, key: Any, kind: str, value: Any) -> None:
    if kind == "delete" and key != "":
        del container[key]
    elif kind == "duplicate" and isinstance(container, list):
        container.extend([container[key]] * 2)
    elif kind == "rename" and isinstance(container, dict) and key != "":
        container[str(value)[:50]] = container.pop(key)
    else:
        container[key] = value


# ---- arrays and text ------------------------------------------------------------------------------


def array_changed(suffix: str, content: bytes, gene: bytes) -> bytes:
    """An array of a ``.npy``, ``.npz`` or ``.mat`` with another type, shape, order or other values."""
    dtypes = ("f2", ">f4", "f8", "g", "i1", "u8", ">i8", "?", "c8", "U3", "S2", "M8[D]", "V4", "O")
    shapes = ((-1,), (1, -1), (-1, 1), (0, 3), (3, 0), (1, 1, -1), (1,) * 5 + (-1,))
    values = (np.nan, np.inf, -np.inf, 1e300, -1.0, 0.5, 2.0**63, 0.0)
    place, kind = int.from_bytes(gene[1:3], "big"), ("dtype", "dtype", "shape", "value", "order")[gene[0] % 5]
    dtype, shape, value = (all[gene[3] % len(all)] for all in (dtypes, shapes, values))
    return _repacked(suffix, content, lambda arrays: _array_changed(arrays, place, kind, dtype, shape, value))


def _array_changed(
    arrays: dict[str, Any], place: int, kind: str, dtype: str, shape: tuple[int, ...], value: float
) -> None:
    name = sorted(arrays)[place % len(arrays)]
    array = arrays[name]
    if array.dtype.kind in "US":
        array = np.arange(array.size).reshape(array.shape)
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


def line_changed(content: bytes, gene: bytes) -> bytes:
    """A line of a text file replaced by something else."""
    lines = content.split(b"\n")
    text = TEXTS[gene[3] % len(TEXTS)]
    lines[_place(gene[1:3], len(lines) - 1)] = text.encode("utf-8", "surrogatepass")
    return b"\n".join(lines)
