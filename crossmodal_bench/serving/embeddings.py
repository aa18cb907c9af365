"""Export of the vectors of the split a run was tested on, with their ids, for other programs."""

from __future__ import annotations

import io
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.core.atomic_files import replace_file
from crossmodal_bench.core.errors import BadInput, nearest, tell
from crossmodal_bench.serving.galleries import kept_gallery
from crossmodal_bench.serving.trained_run import TrainedRun, check_vectors

Format = Literal["npy", "parquet"]


def export_embeddings(run: TrainedRun, folder: Path, kind: str = "npy") -> list[Path]:
    """Write the image and caption vectors from which the run's record was computed.

    As ``npy``: ``images.npy`` and ``texts.npy`` (float32), ``image_ids.txt`` and ``caption_ids.txt``. As
    ``parquet``: ``images.parquet`` (``id``, ``vector``) and ``texts.parquet`` (``id``, ``image``,
    ``caption``, ``vector``).

    Args:
        run: the run.
        folder: the target folder, created if missing.
        kind: ``npy`` or ``parquet``.

    Returns:
        The files.

    Raises:
        BadInput: an unknown kind, Parquet without pyarrow, a method that does not score by one vector per
            image and caption, ids that do not fit on a line, or a folder that cannot be written.
    """
    if kind not in get_args(Format):
        raise BadInput(f"--format is '{kind}'{nearest(kind, get_args(Format))}")
    check_vectors(run)
    if run.record.files.exported_weights.is_file():
        raise BadInput(
            f"{run.record.directory} is an exported run without its test split, so there are no vectors to "
            "export; name the original run"
        )
    # Fail before anything is encoded.
    parquet = _pyarrow() if kind == "parquet" else None
    gallery = kept_gallery(run.record, run.data_root, tell)
    assert gallery.images is not None and gallery.texts is not None
    images, texts = (
        run.model.comparable_vectors(side).float().numpy() for side in (gallery.images, gallery.texts)
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if parquet is None:
            return [
                _write_array(folder / "images.npy", images),
                _write_array(folder / "texts.npy", texts),
                _write_lines(folder / "image_ids.txt", gallery.image_ids),
                _write_lines(folder / "caption_ids.txt", gallery.caption_ids),
            ]
        owners = [gallery.image_ids[row] for row in gallery.caption_image]
        captions = gallery.captions or [None] * len(gallery.caption_ids)
        return [
            _write_table(parquet, folder / "images.parquet", images, {"id": gallery.image_ids}),
            _write_table(
                parquet,
                folder / "texts.parquet",
                texts,
                {"id": gallery.caption_ids, "image": owners, "caption": captions},
            ),
        ]
    except OSError as error:
        raise BadInput(
            f"{folder} cannot be written ({error.strerror or error}); free space there, or name another"
        ) from error


def evaluation_command(run: TrainedRun, folder: Path) -> str:
    """The command that reproduces the run's numbers from the ``npy`` files of ``export_embeddings``."""
    record = run.record
    words = [
        *("crossmodal-bench", "evaluate"),
        *("--images", str(folder / "images.npy"), "--texts", str(folder / "texts.npy")),
        *("--image-ids", str(folder / "image_ids.txt"), "--caption-ids", str(folder / "caption_ids.txt")),
        *("--similarity", str(run.model.vector_similarity)),
        *("--dataset", record.job.dataset, "--data-root", str(run.data_root)),
        *("--name", f"{record.job.method}-exported"),
    ]
    return shlex.join(words)


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise BadInput(
            "--format parquet needs pyarrow, which is not installed; pip install "
            "'crossmodal-bench[parquet]', or use --format npy"
        ) from error
    return pyarrow


def _write_array(path: Path, vectors: NDArray[np.float32]) -> Path:
    replace_file(path, lambda stream: np.save(stream, vectors, allow_pickle=False))
    return path


def _write_lines(path: Path, names: Sequence[str]) -> Path:
    wrong = next((name for name in names if name != name.strip() or "\n" in name or "\r" in name), None)
    if wrong is not None:
        raise BadInput(f"id {wrong!r} has a line break, or spaces at an end; use --format parquet")
    replace_file(path, lambda stream: stream.write(("\n".join(names) + "\n").encode()))
    return path


def _write_table(
    pyarrow: Any, path: Path, vectors: NDArray[np.float32], columns: dict[str, Sequence[str | None]]
) -> Path:
    flat = pyarrow.array(np.ascontiguousarray(vectors).reshape(-1))
    arrays = {name: pyarrow.array(list(values), pyarrow.string()) for name, values in columns.items()}
    arrays["vector"] = pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(arrays), buffer)
    replace_file(path, lambda stream: stream.write(buffer.getvalue()))
    return path
