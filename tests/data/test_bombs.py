"""Small files that promise huge contents, and files that would run code: refused, in little memory."""

from __future__ import annotations

import json
import pickle
import resource
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
import scipy.io
import scipy.sparse
import torch
from PIL import Image
from torch import nn

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.files import read_json, read_yaml
from crossmodal_bench.data.datasets import Karpathy
from crossmodal_bench.data.files.arrays import load_array
from crossmodal_bench.data.images import LARGEST, ImageFiles
from crossmodal_bench.data.regions import map_regions
from crossmodal_bench.networks import weight_files

MEGABYTE = 2**20


def complaint(read: Callable[[], Any], megabytes: int = 40) -> str:
    """What BadInput says; nothing of more than ``megabytes`` was allocated by Python or NumPy on the way."""
    tracemalloc.start()
    try:
        with pytest.raises(BadInput) as raised:
            read()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < megabytes * MEGABYTE
    return str(raised.value)


def npy_header(shape: str, dtype: str = "<f8") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text = text.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize("shape", ["(1000000000000,)", "(1000000, 1000000, 1)", "(4294967296, 4294967296)"])
@pytest.mark.parametrize("read", [load_array, map_regions])
def test_an_array_is_as_large_as_its_file(tmp_path: Path, shape: str, read: Callable[[Path], Any]) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(npy_header(shape))
    assert "is truncated or not a .npy file (its shape (" in complaint(lambda: read(path))


def test_rows_without_width_are_not_counted_to_a_trillion(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(npy_header("(1000000000000, 0)"))
    assert "holds no values" in complaint(lambda: load_array(path))


def test_a_compressed_archive_expands_in_proportion(tmp_path: Path) -> None:
    import zipfile

    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as stream:
        stream.write(npy_header("(600, 1048576)", "|u1"))
        for _ in range(600):
            stream.write(bytes(MEGABYTE))
    assert path.stat().st_size < MEGABYTE
    assert "a takes 629,145,728 bytes in memory" in complaint(lambda: load_array(path, "a"))


def test_an_archive_with_another_packing_is_no_matlab_file(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.ones(3))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 10] = 99
    path.write_bytes(content)
    assert "is truncated or not a .npz file" in complaint(lambda: load_array(path, "a"))


def test_a_region_file_that_begins_as_an_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(b"PK\x03\x04" + bytes(50))
    assert "is truncated or not a .npy file" in complaint(lambda: map_regions(path))


@pytest.mark.slow
def test_a_packed_matlab_file_expands_in_proportion(tmp_path: Path) -> None:
    path, packer = tmp_path / "a.mat", zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(MEGABYTE)) for _ in range(600)) + packer.flush()
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    path.write_bytes(header + struct.pack("<II", 15, len(packed)) + packed)
    assert "its compressed part takes" in complaint(lambda: load_array(path, "a"), megabytes=100)


def test_a_sparse_matrix_expands_in_proportion(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"a": scipy.sparse.csc_matrix(([1.0], ([5], [5])), shape=(10**6, 10**5))})
    assert "a takes 800,000,000,000 bytes in memory" in complaint(lambda: load_array(path, "a"))


def test_a_sparse_matrix_writes_nowhere_else(tmp_path: Path) -> None:
    """SciPy alone would be killed by the system here."""
    matrix = scipy.sparse.csc_matrix(np.eye(3))
    matrix.indices[1] = 10**8
    scipy.io.savemat(tmp_path / "a.mat", {"a": matrix})
    assert "indices must be < 3" in complaint(lambda: load_array(tmp_path / "a.mat", "a"))


def test_values_that_float32_would_make_infinite_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[1.0], [1e300]]))
    assert "holds values beyond float32, first in row 1" in complaint(lambda: load_array(tmp_path / "a.npy"))


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    rows = zlib.compress(bytes(min(height, 1000) * (width // 8 + 2)))
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("width", "height", "said"),
    [
        (8000, 7000, f"has 8000 x 7000 pixels, more than {LARGEST:,}"),
        (60000, 60000, "cannot be read as an image (Image size (3600000000 pixels) exceeds limit"),
        (1, 100_000, "one side more than 100 times the other"),
        (0, 5, "cannot be read as an image"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_picture_has_so_many_pixels(tmp_path: Path, width: int, height: int, said: str) -> None:
    (tmp_path / "a.png").write_bytes(png(width, height))
    assert said in complaint(lambda: ImageFiles([tmp_path / "a.png"])[0])


def test_no_other_program_is_started_for_a_picture(tmp_path: Path) -> None:
    """Pillow gives PostScript to Ghostscript."""
    path = tmp_path / "a.jpg"
    Image.fromarray(fakes.pixels(0)).save(path, format="EPS")
    assert "cannot identify image file" in complaint(lambda: ImageFiles([path])[0])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "more than 64 levels deep"),
        ("[" * 200 + "]" * 200, "more than 64 levels deep"),
        ("9" * 5000, "Exceeds the limit (4300 digits)"),
        ("[NaN]", "NaN is not a JSON number"),
        ("[-Infinity]", "-Infinity is not a JSON number"),
        ('{"a": 1, "a": 2}', "duplicate key 'a' in one object"),
        ("[1\0]", "line 1: Expecting ',' delimiter"),
    ],
)
def test_what_no_json_is(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert said in complaint(lambda: read_json(tmp_path / "a.json"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a [*a, *a]", "its references expand to more than"),
        ("a: &a [*a]", "levels deep"),
        (
            "a: &a [x, x, x]\n"
            + "".join(
                f"{n}: &{n} [{', '.join([f'*{m}'] * 9)}]\n"
                for m, n in zip("abcdefgh", "bcdefghi", strict=True)
            ),
            "its references expand to more than 100000 values",
        ),
        ("a: 1\na: 2", "line 2: duplicate key 'a'"),
        ("a: 2001-99-99", "month must be in 1..12"),
        ("a: 2001-09-09", "is a date; put it in quotation marks"),
        ("1: a", "the key 1 is not a string"),
        ("[" * 5000, "levels deep"),
        ("!!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("9" * 5000, "Exceeds the limit (4300 digits)"),
    ],
)
def test_what_no_yaml_is(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert said in complaint(lambda: read_yaml(tmp_path / "a.yaml"))


def test_merging_of_merged_mappings_stays_small(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "a: &a {k: 1}\n"
        + "".join(
            f"{n}: &{n} {{<<: [{', '.join([f'*{m}'] * 9)}]}}\n"
            for m, n in zip("abcdefgh", "bcdefghi", strict=True)
        )
    )
    try:
        # PyYAML itself takes a merged key once since 6.0.4.
        assert read_yaml(path) == {name: {"k": 1} for name in "abcdefghi"}
    except BadInput as error:
        assert "merges more than 10000 keys" in str(error)


def test_long_names_of_splits_do_not_make_every_row_as_wide(tmp_path: Path) -> None:
    entries = fakes.karpathy_entries({"train": 200, "test": 1})
    entries[5]["split"] = "x" * MEGABYTE
    fakes.write_karpathy(tmp_path, entries=entries, images=False)
    assert "unknown split 'xxx" in complaint(lambda: Karpathy("flickr8k", check_images=False).read(tmp_path))


def test_labels_are_a_matrix_of_bounded_width(tmp_path: Path) -> None:
    entries = fakes.karpathy_entries({"train": 5000, "test": 1}, per_image=1, labels=lambda row: [row])
    fakes.write_karpathy(tmp_path, entries=entries, images=False)
    read = Karpathy("flickr8k", check_images=False).read
    assert "has 5001 distinct values; use at most 4096" in complaint(lambda: read(tmp_path))


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "/etc/passwd", "C:\\x.jpg", "a\\..\\..\\b.jpg", "a\0.jpg", "n" * 300]
)
def test_names_of_pictures_lead_nowhere_else(tmp_path: Path, name: str) -> None:
    entries = fakes.karpathy_entries({"train": 2, "test": 1})
    folder = fakes.write_karpathy(tmp_path, entries=entries)
    (folder / "secret.jpg").write_bytes((folder / "images" / "0000.jpg").read_bytes())
    entries[0]["filename"] = name
    fakes.write_json(folder, entries)
    assert "leads out of the image folder" in complaint(lambda: Karpathy("flickr8k").read(tmp_path))


def test_a_folder_of_pictures_may_be_a_link(tmp_path: Path) -> None:
    folder = fakes.write_karpathy(tmp_path / "data")
    (folder / "images").rename(tmp_path / "elsewhere")
    (folder / "images").symlink_to(tmp_path / "elsewhere")
    assert Karpathy("flickr8k").read(tmp_path / "data").images is not None


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "a.json")
    assert "cannot be read (it is not a regular file)" in complaint(lambda: read_json(tmp_path / "a.json"))


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat", ".pth", ".pkl"])
def test_no_pickle_is_run(tmp_path: Path, suffix: str) -> None:
    path, trace = tmp_path / f"a{suffix}", tmp_path / "ran"
    objects = np.array([[[Payload(trace)]]], dtype=object)
    if suffix == ".npy":
        np.save(path, objects, allow_pickle=True)
    elif suffix == ".npz":
        np.savez(path, a=objects)
    elif suffix == ".pth":
        torch.save({"weight": Payload(trace)}, path)
    else:
        path.write_bytes(pickle.dumps(Payload(trace)))
    if suffix == ".pth":
        complaint(lambda: weight_files.load_state(nn.Linear(1, 1), path, "tiny"))
    else:
        complaint(lambda: load_array(path, "a"))
        complaint(lambda: map_regions(path))
    assert not trace.exists()


def test_code_in_a_tokenizers_folder_is_not_run(tmp_path: Path) -> None:
    from crossmodal_bench.data.language.wordpieces import build_tokenizer

    trace = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(trace)!r}, 'w')\nclass T: pass\nclass C: pass\n")
    auto = {"auto_map": {"AutoTokenizer": ["evil.T", None], "AutoConfig": "evil.C"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T", **auto}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", **auto}))
    complaint(lambda: build_tokenizer(str(tmp_path), ()), megabytes=400)
    assert not trace.exists()


@pytest.mark.slow  # a process of its own loads torch
def test_bombs_go_off_in_no_process_of_half_a_gigabyte_more(tmp_path: Path) -> None:
    """The limit is the system's own: what libraries allocate behind Python's back counts as well."""
    (tmp_path / "a.npy").write_bytes(npy_header("(100000000000,)"))
    (tmp_path / "a.png").write_bytes(png(8000, 7000))
    matrix = scipy.sparse.csc_matrix(([1.0], ([5], [5])), shape=(10**6, 10**5))
    scipy.io.savemat(tmp_path / "a.mat", {"a": matrix})
    script = f"""
import resource, sys
from pathlib import Path
from crossmodal_bench.data.files.arrays import load_array
from crossmodal_bench.data.images import ImageFiles
from crossmodal_bench.core.errors import BadInput
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**29,) * 2)
folder, said = Path({str(tmp_path)!r}), 0
for read in (
    lambda: load_array(folder / "a.npy"),
    lambda: load_array(folder / "a.mat", "a"),
    lambda: ImageFiles([folder / "a.png"])[0],
):
    try:
        read()
    except BadInput as error:
        said += "Unable to allocate" not in str(error)
sys.exit(said)
"""
    if not Path("/proc/self/statm").is_file():
        pytest.skip("no /proc")
    assert resource.RLIMIT_AS is not None
    assert subprocess.run([sys.executable, "-c", script]).returncode == 3
