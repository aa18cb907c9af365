"""The Wikipedia set of Costa Pereira et al. (TPAMI 2014): one text per image, ten categories."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.core.files import read_text
from crossmodal_bench.data.arrays import find_array_file, load_array
from crossmodal_bench.data.corpus import Corpus, Labels
from crossmodal_bench.data.datasets.base import DatasetReader, folder_below

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
PARTS = {
    "train": ("I_tr", "T_tr", "trainset_txt_img_cat.list"),
    "test": ("I_te", "T_te", "testset_txt_img_cat.list"),
}


class Wikipedia(DatasetReader):
    """``wikipedia/``: the two category lists, and one array file with ``I_tr``, ``T_tr``, ``I_te``, ``T_te``.

    Args:
        features: stem of the array file (``.mat`` or ``.npz``): ``raw_features`` is the distribution's own,
            with 128-d SIFT words and 10-d LDA; ``deep_features`` is the name for 4,096-d VGG and 3,000-d bag
            of words.
        split: ``official`` (2,173/693), or ``draw``: 1,300/1,566 drawn from the same 2,866 (the sizes that
            ACMR states; its draw was never published). ``draws``: likewise, but each seed of a bench takes
            a draw of its own, so that an interval over seeds has the draw in it, too.
        draw_seed: which draw; under ``draws``, a bench gives each job its seed.
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
        arrays = find_array_file(folder, self.features, "it comes with the Wikipedia set of SVCL, San Diego")
        ids: list[str] = []
        labels: list[int] = []
        split: list[str] = []
        images: list[np.ndarray] = []
        texts: list[np.ndarray] = []
        for part, (image_key, text_key, list_name) in PARTS.items():
            items = _read_list(folder / list_name)
            images.append(load_array(arrays, image_key, ndim=2, rows=len(items)))
            texts.append(load_array(arrays, text_key, ndim=2, rows=len(items)))
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
            # Protocols go by the name: a draw of a seed's own is never taken for the one draw of all seeds.
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


def _read_list(path: Path) -> list[tuple[str, int]]:
    """The names (``text id/image id``) and class indices of a category list, in its order."""
    if not path.is_file():
        raise MissingInput(f"{path} is missing; it comes with the Wikipedia set's features")
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        cells = line.split()
        if len(cells) != 3 or cells[2].lstrip("0") not in NUMBERS:
            raise BadInput(
                f"{path}, line {number}: '{line[:60]}' is not 'text id, image id, category 1..10'; mend it"
            )
        rows.append((f"{cells[0]}/{cells[1]}", NUMBERS[cells[2].lstrip("0")]))
    return rows


def _draw(n: int, seed: int, train: int = 1300) -> list[str]:
    """The split of each of n items, of which ``train`` are drawn for training."""
    if n <= train:
        raise BadInput(f"wikipedia: {n} items are too few to draw {train} for training; use split: official")
    chosen = set(np.random.default_rng(seed).permutation(n)[:train].tolist())
    return ["train" if i in chosen else "test" for i in range(n)]
