"""Others' regions become the memory-mapped form: whole, in the images' order, however often it is killed."""

from __future__ import annotations

import base64
import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import fakes
import numpy as np
import pytest
from numpy.typing import NDArray

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.data import Corpus
from crossmodal_bench.data.datasets import Karpathy
from crossmodal_bench.data.import_regions import FOLDER, UNFINISHED, import_regions

REGIONS, DIM = 3, 5


def regions_of(row: int, count: int = REGIONS, dim: int = DIM) -> NDArray[np.float32]:
    return np.random.default_rng(row).normal(size=(count, dim)).astype(np.float32)


def line(image: str, regions: NDArray[np.float32], columns: int = 6) -> bytes:
    features = base64.b64encode(regions.tobytes())
    boxes = base64.b64encode(np.zeros((len(regions), 4), np.float32).tobytes())
    count = str(len(regions)).encode()
    cells = [image.encode(), b"24", b"20", count, boxes, features]
    if columns == 10:
        cells = [image.encode(), b"20", b"24", b"", b"", b"", b"", count, boxes, features]
    return b"\t".join(cells) + b"\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fakes.write_karpathy(tmp_path, "mine", fakes.karpathy_entries({"train": 9, "val": 3, "test": 4}))


def corpus_of(folder: Path) -> Corpus:
    return Karpathy("mine").read(folder.parent)


def imported(folder: Path, *sources: Path, count: int | None = None) -> Corpus:
    bare = Karpathy("mine", check_images=False).read(folder.parent)
    import_regions(bare, folder, sources, count, lambda done, total: None)
    return corpus_of(folder)


def write_tsv(path: Path, rows: list[int], columns: int = 6, count: int = REGIONS) -> Path:
    path.write_bytes(b"".join(line(str(row), regions_of(row, count), columns) for row in rows))
    return path


@pytest.mark.parametrize("columns", [6, 10])
def test_a_tsv_becomes_the_regions_of_the_images(folder: Path, columns: int) -> None:
    order = [row for row in np.random.default_rng(1).permutation(16).tolist()]
    source = write_tsv(folder / "regions.tsv", [*order, 999], columns)
    corpus = imported(folder, source)
    assert corpus.regions is not None and len(corpus.regions) == 16
    assert corpus.regions.origin == FOLDER
    for row in range(16):
        assert np.array_equal(corpus.regions[row], regions_of(row))
    assert sorted(path.name for path in (folder / FOLDER).iterdir()) == [
        *("dev_caps.txt", "dev_ids.txt", "dev_ims.npy", "test_caps.txt", "test_ids.txt", "test_ims.npy"),
        *("train_caps.txt", "train_ids.txt", "train_ims.npy"),
    ]


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_a_file_an_image_will_do(folder: Path, suffix: str) -> None:
    source = folder / "boxes"
    source.mkdir()
    for row in range(16):
        path = source / f"{row:04d}{suffix}"
        if suffix == ".npy":
            np.save(path, regions_of(row))
        else:
            np.savez(path, x=regions_of(row), bbox=np.zeros((REGIONS, 4)))
    corpus = imported(folder, source)
    assert corpus.regions is not None
    assert all(np.array_equal(corpus.regions[row], regions_of(row)) for row in range(16))


def test_images_of_the_same_sentences_are_told_apart_by_their_ids(tmp_path: Path) -> None:
    entries = fakes.karpathy_entries({"train": 9, "val": 3, "test": 4})
    for entry in entries:
        entry["sentences"] = [{"raw": "a field"}]
    folder = fakes.write_karpathy(tmp_path, "mine", entries)
    corpus = imported(folder, write_tsv(folder / "a.tsv", list(range(16))))
    assert corpus.regions is not None and np.array_equal(corpus.regions[7], regions_of(7))


def test_the_first_regions_of_a_changing_number(folder: Path) -> None:
    source = folder / "a.tsv"
    source.write_bytes(b"".join(line(str(row), regions_of(row, 3 + row % 4)) for row in range(16)))
    with pytest.raises(
        BadInput, match=r"a\.tsv, byte \d+: image '1' has 4 regions of 5, but 3 x 5 are needed"
    ):
        imported(folder, source)
    corpus = imported(folder, source, count=2)
    assert corpus.regions is not None and corpus.regions.count == 2
    assert np.array_equal(corpus.regions[6], regions_of(6, 5)[:2])


def test_several_sources_and_one_that_comes_later(folder: Path) -> None:
    first, second = (
        write_tsv(folder / "1.tsv", list(range(7))),
        write_tsv(folder / "2.tsv", list(range(7, 16))),
    )
    with pytest.raises(
        BadInput, match=r"9 of 16 images of mine have no regions .* first '0007\.jpg'; give the oth"
    ):
        imported(folder, first)
    assert not (folder / FOLDER).exists() and (folder / UNFINISHED).is_dir()
    assert corpus_of(folder).regions is None, "what is unfinished is nobody's"
    corpus = imported(folder, second)
    assert corpus.regions is not None
    assert all(np.array_equal(corpus.regions[row], regions_of(row)) for row in range(16))
    with pytest.raises(BadInput, match=r"imported_precomp already exists; remove it to import again"):
        imported(folder, first)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"1\t2\t3\n", r"byte 0: the line has 3 columns; use 6 or 10"),
        (b"1\t24\t20\tx\tAA==\tAA==\n", r"byte 0: the boxes or features .* \(invalid literal"),
        (b"1\t24\t20\t3\t\t!!!!\n", r"byte 0: the boxes or features .*; copy the file again"),
        (b"1\t24\t20\t2\t\tAAAAAAAAAAAAAAAA\n", r"byte 0: the boxes or features .* \(cannot reshape"),
        (b"1\t24\t20\t0\t\t\n", r"byte 0: the boxes or features .* \(no boxes\)"),
        (line("1", np.full((3, 5), np.nan, np.float32)), r"image '1' has NaN or infinite values"),
        (line("x", regions_of(0)), r"the sources hold no image of mine"),
    ],
)
def test_a_broken_line_is_named(folder: Path, content: bytes, expected: str) -> None:
    source = folder / "a.tsv"
    source.write_bytes(content)
    with pytest.raises(BadInput, match=expected):
        imported(folder, source)


def test_a_source_that_is_not_there_or_empty(folder: Path) -> None:
    with pytest.raises(MissingInput, match=r"lost\.tsv is missing; give a TSV file, or a folder"):
        imported(folder, folder / "lost.tsv")
    (folder / "empty").mkdir()
    with pytest.raises(MissingInput, match=r"empty holds no \.npz or \.npy files"):
        imported(folder, folder / "empty")
    np.savez(folder / "empty" / "0001.npz", boxes=np.zeros(3))
    with pytest.raises(BadInput, match=r"0001\.npz has no array features, x, feat"):
        imported(folder, folder / "empty")


def test_a_note_of_other_images_begins_anew(folder: Path) -> None:
    with pytest.raises(BadInput, match="have no regions"):
        imported(folder, write_tsv(folder / "1.tsv", list(range(7))))
    note = folder / UNFINISHED / "import.json"
    for content in ("{}", "[1]", note.read_text().replace('"done": "', '"done": "?'), "nonsense"):
        note.write_text(content)
        with pytest.raises(BadInput, match="9 of 16 images"):
            imported(folder, folder / "1.tsv")


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.mark.slow  # two thousand images, killed and killed again
def test_a_killed_import_ends_with_the_same_bytes_and_its_memory_is_flat(tmp_path: Path) -> None:
    n = 2000
    results = []
    for name in ("undisturbed", "killed"):
        root = tmp_path / name
        entries = fakes.karpathy_entries({"train": n - 200, "val": 100, "test": 100}, per_image=1)
        folder = fakes.write_karpathy(root, "mine", entries, images=False)
        with (folder / "a.tsv").open("wb") as stream:
            for row in range(n):
                stream.write(line(str(row), regions_of(row, 36, 512)))
        words = [sys.executable, "-c", SCRIPT, "import-regions", "mine", "mine/a.tsv", "--data-root", "."]
        kills = 0
        while True:
            process = subprocess.Popen(
                words, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            if name == "killed" and kills < 4:
                before = done_of(folder)
                deadline = time.monotonic() + 60
                while done_of(folder) <= before and time.monotonic() < deadline and process.poll() is None:
                    time.sleep(0.01)
                process.send_signal(signal.SIGKILL)
                kills += 1
            out, err = process.communicate()
            if process.returncode == 0:
                break
            assert process.returncode == -signal.SIGKILL, err
        results.append(digests(folder / FOLDER))
        # 147 MB of regions, of which a handful is in memory at a time, mapped pages aside.
        assert float(out.split()[-1]) < 100, "MB beyond what the program itself takes"
    assert results[0] == results[1] and kills == 4


def done_of(folder: Path) -> int:
    note = folder / UNFINISHED / "import.json"
    return note.stat().st_mtime_ns if note.is_file() else 0


SCRIPT = """
import sys
from pathlib import Path
from crossmodal_bench.cli.main import main
import crossmodal_bench.training.lightning_cli, crossmodal_bench.data.import_regions
def private():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024
before = private()
status = main(sys.argv[1:])
print(private() - before)
sys.exit(status)
"""
