"""The Wikipedia set of Costa Pereira et al. (TPAMI 2014): one text per image, ten categories."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.core.files import read_text
from crossmodal_bench.data.corpus import Corpus, Labels
from crossmodal_bench.data.datasets.base import DatasetReader, folder_below
from crossmodal_bench.data.files.arrays import check_finite, find_array_file, load_array
from crossmodal_bench.data.files.pickled import load_pickled

CATEGORIES = (
    "art & architecture",
    "biology",
    "geography & places",
    "history",
    "literature & theatre",
    "media",
    "music",
    "royalty & nobility",
    "sport & recreation",
    "warfare",
)
NUMBERS = {str(number): number - 1 for number in range(1, len(CATEGORIES) + 1)}
DEEP = "deep_features"
SHALLOW_HINT = "it comes with the Wikipedia set of SVCL, San Diego"
DEEP_HINT = (
    "deep features are not distributed under that name: provide {train,test}_{img_feats,txt_vecs,labels}.pkl "
    "as used by ACMR's demo, or save your own arrays as I_tr, T_tr, I_te, T_te of deep_features.npz"
)
PARTS = {
    "train": ("I_tr", "T_tr", "trainset_txt_img_cat.list"),
    "test": ("I_te", "T_te", "testset_txt_img_cat.list"),
}


class Wikipedia(DatasetReader):
    """``wikipedia/``: the two category lists, and one array file with ``I_tr``, ``T_tr``, ``I_te``, ``T_te``.

    Instead of the array file, there may be ``{train,test}_{img_feats,txt_vecs,labels}.pkl``, as used by
    ACMR's demo. Their labels must match those of the lists, item by item, however they are numbered; without
    the lists, items are named by number, and their split cannot be recognised.

    Args:
        features: stem of the array file (``.mat`` or ``.npz``): ``raw_features`` is the distribution's own,
            with 128-d SIFT words and 10-d LDA; ``deep_features`` is our own name for features of a network
            (VGG's fc7 of 4,096 and bags of words of 3,000 or 5,000), for which the pickles can stand in.
        split: ``official`` (2,173/693), or ``draw``: 1,300/1,566 drawn from the same 2,866 (the sizes that
            ACMR states; its draw was never published). ``draws``: likewise, but each seed of a bench has its
            own draw, so that an interval over seeds covers the draw as well.
        draw_seed: which draw; under ``draws``, a bench sets it to each job's seed.
        folder: name below the data root.
    """

    def __init__(
        self,
        features: str = "raw_features",
        split: Literal["official", "draw", "draws"] = "official",
        draw_seed: int = 0,
        folder: str = "wikipedia",
    ) -> None:
        self.features = features
        self.split = split
        self.draw_seed = draw_seed
        self.redrawn = split == "draws"
        self.folder = folder

    def read(self, root: Path) -> Corpus:
        """The corpus in ``root/wikipedia``."""
        folder = folder_below(root, self.folder, "raw_features.mat and the two *set_txt_img_cat.list files")
        ids: list[str] = []
        labels: list[int] = []
        split: list[str] = []
        images: list[np.ndarray] = []
        texts: list[np.ndarray] = []
        pickles = self.features == DEEP and any(folder.glob("*.pkl")) and not any(folder.glob(f"{DEEP}.*"))
        hint = SHALLOW_HINT if self.features != DEEP else DEEP_HINT
        arrays = folder if pickles else find_array_file(folder, self.features, hint)
        for part, (image_key, text_key, list_name) in PARTS.items():
            if pickles:
                items, features = _read_pickles(folder, part, list_name)
            else:
                items = _read_list(folder / list_name)
                features = tuple(
                    load_array(arrays, key, ndim=2, rows=len(items)) for key in (image_key, text_key)
                )
            images.append(features[0])
            texts.append(features[1])
            ids += [name for name, _ in items]
            labels += [label for _, label in items]
            split += [part] * len(items)
        for kind, (train, test) in (("image", images), ("text", texts)):
            if train.shape[1] != test.shape[1]:
                raise BadInput(
                    f"{arrays}: the {kind} features of train and test are {train.shape[1]} and "
                    f"{test.shape[1]} wide; use one width"
                )
        if self.split != "official":
            split = _draw(len(ids), self.draw_seed)
        return Corpus(
            # Protocols match by name: a seed's own draw must never pass for the draw shared by all seeds.
            name="wikipedia-draws" if self.redrawn else "wikipedia",
            image_ids=tuple(ids),
            caption_ids=tuple(ids),
            caption_image=np.arange(len(ids)),
            split=np.array(split),
            labels=Labels(
                np.array(labels, dtype=np.int64),
                names=CATEGORIES,
                rule="ten categories of the distribution",
            ),
            image_features=np.concatenate(images).astype(np.float32),
            text_features=np.concatenate(texts).astype(np.float32),
            source=str(folder),
        )


def _read_pickles(
    folder: Path, part: str, list_name: str
) -> tuple[list[tuple[str, int]], tuple[np.ndarray, ...]]:
    """The items of a part, as for ``_read_list``, and their image and text features.

    Raises:
        BadInput: a file that is missing or not a table of numbers, mismatched counts, or labels that don't
            match the list.
    """
    paths = [folder / f"{part}_{name}.pkl" for name in ("img_feats", "txt_vecs", "labels")]
    for path in paths:
        if not path.is_file():
            raise MissingInput(f"{path} is missing; {DEEP_HINT}")
    images, texts, labels = map(load_pickled, paths)
    numbers = labels.argmax(axis=1) if labels.ndim == 2 and labels.shape[1] > 1 else labels.reshape(-1)
    for path, features in zip(paths, (images, texts), strict=False):
        if features.ndim != 2:
            raise BadInput(f"{path} has shape {features.shape}; it must have one row per item")
        if len(features) != len(numbers):
            raise BadInput(
                f"{path} has {len(features)} rows, but {paths[2].name} has {len(numbers)}; the counts must "
                "agree"
            )
        check_finite(features, str(path))
    if not (folder / list_name).is_file():
        known = {value: number for number, value in enumerate(np.unique(numbers).tolist())}
        if len(known) > len(CATEGORIES):
            raise BadInput(f"{paths[2]} has {len(known)} distinct labels; Wikipedia has {len(CATEGORIES)}")
        items = [(f"{part}/{row}", known[value]) for row, value in enumerate(numbers.tolist())]
        return items, (images, texts)
    items = _read_list(folder / list_name)
    categories = [label for _, label in items]
    pairs = set(zip(numbers.tolist(), categories, strict=False))
    if len(items) != len(numbers) or not len(pairs) == len(set(categories)) == len(set(numbers.tolist())):
        raise BadInput(
            f"{paths[2]} has labels that don't match those of {list_name}, item by item; remove the list, so "
            "that the items are numbered"
        )
    return items, (images, texts)


def _read_list(path: Path) -> list[tuple[str, int]]:
    """The names (``text id/image id``) and class indices of a category list, in its order."""
    if not path.is_file():
        raise MissingInput(f"{path} is missing; it comes with the Wikipedia set's features")
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        cells = line.split()
        if len(cells) != 3 or cells[2].lstrip("0") not in NUMBERS:
            raise BadInput(
                f"{path}, line {number}: '{line[:60]}' is not 'text id, image id, category 1..10'; fix it"
            )
        rows.append((f"{cells[0]}/{cells[1]}", NUMBERS[cells[2].lstrip("0")]))
    return rows


def _draw(n: int, seed: int, train: int = 1300) -> list[str]:
    """The split of each of n items, with ``train`` of them drawn for training."""
    if n <= train:
        raise BadInput(f"wikipedia: {n} items are too few to draw {train} for training; use split: official")
    chosen = set(np.random.default_rng(seed).permutation(n)[:train].tolist())
    return ["train" if i in chosen else "test" for i in range(n)]
