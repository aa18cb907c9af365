from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs import encoded_gallery
from crossmodal_bench.jobs.encoded_gallery import EncodedGallery, keep_gallery, read_gallery, write_gallery

RAGGED = EncodedGallery(
    "test",
    ("a", "b"),
    Encoding(torch.rand(2, 3, 4)),
    ("a#0", "b#0", "b#1"),
    Encoding(torch.rand(6, 4), torch.tensor([1, 2, 3])),
    np.array([0, 1, 1]),
    ("one", "zwei\n", "三"),
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "gallery.npz"
    write_gallery(path, RAGGED)
    found = read_gallery(path)
    assert (found.split, found.image_ids, found.captions) == ("test", ("a", "b"), RAGGED.captions)
    assert found.captions_of(1) == ["zwei\n", "三"]
    assert found.images is not None and RAGGED.images is not None
    assert torch.equal(found.images.values, RAGGED.images.values)
    assert found.texts is not None and found.texts.lengths is not None
    assert found.texts.lengths.tolist() == [1, 2, 3]
    # Scores are single precision whatever the encoder gave.
    write_gallery(path, EncodedGallery("x", ("a",), Encoding(torch.ones(1, 2, dtype=torch.bfloat16))))
    found = read_gallery(path)
    assert found.images is not None and found.images.values.dtype == torch.float32 and found.texts is None


def test_large_ones_are_not_kept_and_replace_no_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gallery.npz"
    assert keep_gallery(path, RAGGED) and path.is_file()
    monkeypatch.setattr(encoded_gallery, "KEPT", 100)
    assert not keep_gallery(path, RAGGED)
    assert not path.exists(), "what an earlier model has encoded"


def test_what_does_not_agree_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gallery.npz"
    write_gallery(path, RAGGED)
    with np.load(path) as stored:
        arrays = dict(stored)
    for damage in (
        {"text_lengths": np.array([1, 1, 1])},
        {"caption_image": np.array([0, 1, 7])},
        {"image_values": np.zeros((3, 3, 4), np.float32)},
        {"image_values": np.zeros((2, 3), np.int64)},
        {"names": np.frombuffer(b"{}", np.uint8)},
        {"names": np.frombuffer(b"\xff", np.uint8)},
    ):
        np.savez(path, **{**arrays, **damage})
        with pytest.raises(BadInput, match="delete it"):
            read_gallery(path)
    path.write_bytes(b"PK")
    with pytest.raises(BadInput):
        read_gallery(path)
