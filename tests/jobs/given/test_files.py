"""The forms in which ids, pairs and labels may be given."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.given.files import read_ids, read_labels, read_pairs
from crossmodal_bench.jobs.given.identification import rows_of

NAMES = ["007", "a b", "é"]


def _saved(path: Path, values: Any) -> Path:
    np.save(path, values)
    return path


def _written(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: NAMES,
        lambda folder: np.array(NAMES),
        lambda folder: _saved(folder / "i.npy", np.array(NAMES)),
        lambda folder: _saved(folder / "i.npy", np.char.encode(np.array(NAMES), "utf-8")),
        lambda folder: _written(folder / "i.txt", "\n".join(NAMES)),
        lambda folder: _written(folder / "i.txt", "\ufeff" + "\r\n".join(NAMES) + "\r\n"),
        lambda folder: _written(folder / "i.json", json.dumps(NAMES)),
    ],
)
def test_ids_in_every_form_are_the_same_names(make: Callable[[Path], Any], tmp_path: Path) -> None:
    assert read_ids(make(tmp_path), "ids").texts == NAMES


def test_numbers_are_names_too() -> None:
    assert read_ids(torch.tensor([391895, 7]), "ids").texts == ["391895", "7"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([1.5, 2.5], "contains float64; give whole numbers or strings"),
        (["a", 1], "mixes strings with other entries"),
        ([["a"], ["b", "c"]], "is not a plain list"),
        ([], "contains nothing"),
        ([["a", "b"]], "has shape (1, 2); give one id per item"),
        (["a", "\ud800"], "which is not a name"),
    ],
)
def test_what_are_no_ids(given: Any, sentence: str) -> None:
    with pytest.raises(BadInput) as refused:
        read_ids(given, "ids")
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    "text", ["image,caption\nx,y\n1,2\n", "x\ty\n1\t2\n", '"x",y\n1, 2', "x,y\r\n1,2\r\n"]
)
def test_tables_of_pairs(text: str, tmp_path: Path) -> None:
    pairs = read_pairs(_written(tmp_path / "p.csv", text), "positives")
    assert pairs.values.tolist() == [["x", "y"], ["1", "2"]]


@pytest.mark.parametrize("text", ["x,y,z\n", "x\n", "image,caption\n", '"x,y\n'])
def test_what_is_no_table_of_pairs(text: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"p\.csv"):
        read_pairs(_written(tmp_path / "p.csv", text), "positives")


def test_labels_are_numbered_and_multi_hot_rows_kept() -> None:
    np.testing.assert_array_equal(read_labels(["b", "a", "b"], "labels", several=True), [1, 0, 1])
    multi_hot = read_labels([[2, 0], [0, 1]], "labels", several=True)
    np.testing.assert_array_equal(multi_hot, [[1, 0], [0, 1]])
    with pytest.raises(BadInput, match="one whole number per image"):
        read_labels([[1, 0]], "identities", several=False)


def test_rows_are_named_by_number_or_by_id_and_never_by_either() -> None:
    np.testing.assert_array_equal(rows_of(np.array(["b", "a"]), ["a", "b"], 2, "x", "image"), [1, 0])
    np.testing.assert_array_equal(rows_of(np.array([1, 0]), ["a", "b"], 2, "x", "image"), [1, 0])
    np.testing.assert_array_equal(rows_of(np.array([391895]), ["5", "391895"], 2, "x", "image"), [1])
    with pytest.raises(BadInput, match="is ambiguous: its entries could be rows or ids"):
        rows_of(np.array(["0", "1"]), ["1", "0"], 2, "x", "image")
    with pytest.raises(BadInput, match="entry 1 is '-1', which is not a given image; give rows from 0 to 1"):
        rows_of(np.array([0, -1]), None, 2, "x", "image")
