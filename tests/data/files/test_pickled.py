"""Pickles of arrays and lists are read without running them; all others are refused with a way out."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data.files.pickled import load_pickled

ROWS = np.random.default_rng(0).normal(size=(6, 5))
VALUES: dict[str, Any] = {
    "an array": ROWS,
    "single precision": ROWS.astype(np.float32),
    "the other byte order": ROWS.astype(">f8"),
    "column by column": np.asfortranarray(ROWS),
    "a list of arrays": list(ROWS),
    "a list of lists": ROWS.tolist(),
    "a tuple of arrays": tuple(ROWS),
    "whole numbers": [3, 1, 2, 1],
    "numbers of NumPy": list(np.array([3, 1, 2, 1])),
    "bytes of small numbers": np.arange(6, dtype=np.uint8),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_arrays_and_lists_are_read(tmp_path: Path, value: Any, protocol: int) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(value, protocol=protocol))
    read = load_pickled(tmp_path / "a.pkl")
    assert np.array_equal(read, np.asarray(value)) and read.dtype.isnative


def test_pickles_of_python_2_are_read(tmp_path: Path) -> None:
    # What cPickle.dumps(numpy.array([[1.5, -2.0]]), 2) wrote there.
    (tmp_path / "a.pkl").write_bytes(
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03"
        b"(K\x01K\x01K\x02\x86cnumpy\ndtype\nq\x04U\x02f8K\x00K\x01\x87Rq\x05(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x10\x00\x00\x00\x00\x00\x00\xf8?\x00\x00\x00\x00\x00\x00\x00\xc0tb."
    )
    assert load_pickled(tmp_path / "a.pkl").tolist() == [[1.5, -2.0]]


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.trace}",)


def test_nothing_is_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "a.pkl", tmp_path / "ran"
    hidden = np.array([None], dtype=object)
    hidden[0] = Payload(trace)
    for value in (Payload(trace), [ROWS, Payload(trace)], hidden):
        path.write_bytes(pickle.dumps(value))
        with pytest.raises(
            BadInput, match=r"a\.pkl cannot be read as rows of numbers \((it asks for|values of type)"
        ):
            load_pickled(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps({"a": ROWS}), "it holds dict"),
        (pickle.dumps("text"), "it holds str"),
        (pickle.dumps(1.5), "it holds float"),
        (pickle.dumps([ROWS[0], ROWS[1, :3]]), "its rows have different shapes"),
        (pickle.dumps(["a", "b"]), "it holds list"),
        (pickle.dumps(np.array(["a"])), "values of type 'U1'"),
        (pickle.dumps(ROWS)[:-40], ""),
        (b"", ""),
        (b"<html>", ""),
        (b"\x80\x02]r\xff\xff\xff\x7f.", "memo entries"),
        (b"\x80\x02X\xff\xff\xff\x7fab.", ""),
        (b"\x80\x02cos\nsystem\n.", "it asks for os.system"),
        (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R.", "an array without content"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.", "an encoding other"),
    ],
)
def test_anything_else_is_refused_with_the_lines_that_convert_it(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    with pytest.raises(BadInput) as raised:
        load_pickled(path)
    message = str(raised.value)
    assert reason in message and "\n" not in message
    assert "numpy.save('a.npy', numpy.asarray(rows))" in message


def test_a_row_that_is_meant_a_million_times_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    row = [0.0] * 1000
    path.write_bytes(pickle.dumps([row] * 10**6))
    with pytest.raises(BadInput, match=r"its rows takes .* bytes in memory"):
        load_pickled(path)
    path.write_bytes(pickle.dumps([[row] * 1000] * 1000))
    with pytest.raises(BadInput, match="nested too deeply"):
        load_pickled(path)
