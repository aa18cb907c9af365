"""Data sets distributed as feature and label arrays: Pascal Sentence and NUS-WIDE-10K."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data.corpus import Corpus, Labels
from crossmodal_bench.data.datasets.base import DatasetReader, folder_below
from crossmodal_bench.data.files.arrays import find_array_file, load_array

HINT = "give image features, text features and labels of each split as .npy, .npz or .mat"


class FeatureArrays(DatasetReader):
    """A folder with ``{train,test}_{images,texts,labels}`` arrays, and optionally the same for ``val``.

    The names may also be ``{train,test}_{img,txt,img_lab}``, under which DSCMR and its successors share
    Pascal Sentence, Wikipedia and NUS-WIDE as ``.mat`` files. Images are (n, D_v), texts (n, D_t): text i
    belongs to image i. Labels are (n,) class numbers or (n, C) multi-hot. In ``.npz`` and ``.mat`` files, the
    array has the file's name or the key ``data``.

    Args:
        folder: name below the data root.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def read(self, root: Path) -> Corpus:
        """The corpus in ``root/folder``."""
        folder = folder_below(root, self.folder, "{train,test}_{images,texts,labels}.npy (or .npz, .mat)")
        images: list[np.ndarray] = []
        texts: list[np.ndarray] = []
        labels: list[np.ndarray] = []
        split: list[str] = []
        images_name, texts_name, labels_name = _names(folder)
        for part in ("train", "val", "test"):
            if part == "val" and not any(folder.glob(f"val_{images_name}.*")):
                continue
            images.append(_load(folder, f"{part}_{images_name}", ndim=2))
            n = len(images[-1])
            texts.append(_load(folder, f"{part}_{texts_name}", ndim=2, rows=n))
            stem = f"{part}_{labels_name}"
            labels.append(_classes(_load(folder, stem), f"{folder}: {stem}", n))
            split += [part] * n
        for kind, arrays in (("images", images), ("texts", texts), ("labels", labels)):
            if len({array.shape[1:] for array in arrays}) > 1:
                shapes = ", ".join(str(array.shape) for array in arrays)
                raise BadInput(
                    f"{folder}: the splits' {kind} have different widths ({shapes}); use one width"
                )
        ids = tuple(f"{part}/{i}" for i, part in enumerate(split))
        joined = np.concatenate(labels)
        if joined.ndim == 2 and (joined.sum(axis=1) == 1).all():
            joined = joined.argmax(axis=1)
        if joined.ndim == 2:
            n_classes = joined.shape[1]
        else:
            # Class numbers may start anywhere and have gaps.
            numbers, joined = np.unique(joined, return_inverse=True)
            joined = joined.astype(np.int64)
            n_classes = len(numbers)
        return Corpus(
            name=self.folder,
            image_ids=ids,
            caption_ids=ids,
            caption_image=np.arange(len(ids)),
            split=np.array(split),
            labels=Labels(joined, rule=f"{n_classes} classes of the label arrays"),
            image_features=np.concatenate(images).astype(np.float32),
            text_features=np.concatenate(texts).astype(np.float32),
            source=str(folder),
        )


class PascalSentence(FeatureArrays):
    """Pascal Sentence (Rashtchian et al. 2010), 20 classes; ACMR: 800/200 pairs, 4,096-d VGG, 1,000-d BoW."""

    def __init__(self, folder: str = "pascal_sentence") -> None:
        super().__init__(folder)


class NUSWide10K(FeatureArrays):
    """NUS-WIDE-10K (Chua et al. 2009); ACMR uses 8,000/1,000 pairs, 4,096-d VGG, 1,000-d BoW."""

    def __init__(self, folder: str = "nuswide10k") -> None:
        super().__init__(folder)


def _names(folder: Path) -> tuple[str, str, str]:
    """The names of the image, text and label arrays; ours if there is no file yet."""
    theirs = any(folder.glob("train_img.*")) and not any(folder.glob("train_images.*"))
    return ("img", "txt", "img_lab") if theirs else ("images", "texts", "labels")


def _load(folder: Path, stem: str, *, ndim: int | None = None, rows: int | None = None) -> np.ndarray:
    """The array in the file ``stem``; in an archive, under that name or else ``data``."""
    path = find_array_file(folder, stem, HINT)
    if path.suffix == ".npy":
        return load_array(path, ndim=ndim, rows=rows)
    try:
        return load_array(path, stem, ndim=ndim, rows=rows)
    except BadInput as error:
        if "has no array" not in str(error):
            raise
        return load_array(path, "data", ndim=ndim, rows=rows)


def _classes(labels: np.ndarray, where: str, rows: int) -> np.ndarray:
    """(n,) class numbers or (n, C) multi-hot, in int64; BadInput for anything else."""
    if labels.ndim == 2 and 1 in labels.shape:
        labels = labels.reshape(-1)
    with np.errstate(invalid="ignore"):
        whole = labels.astype(np.int64)
    if labels.ndim > 2 or (labels != whole).any():
        raise BadInput(
            f"{where} has shape {labels.shape} or fractions; give (n,) class numbers or (n, C) zeros and ones"
        )
    if len(labels) != rows:
        raise BadInput(f"{where} has {len(labels)} rows for {rows} images; the counts must agree")
    if whole.ndim == 2 and not np.isin(whole, (0, 1)).all():
        raise BadInput(f"{where} is a matrix with values other than 0 and 1; use zeros and ones")
    return whole
