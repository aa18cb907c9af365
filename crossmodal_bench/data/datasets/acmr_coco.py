"""The subset of MS-COCO that ACMR uses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.datasets.base import DatasetReader
from crossmodal_bench.data.datasets.karpathy import Karpathy


class AcmrCoco(DatasetReader):
    """The images of train2014 (82,783), split at random into 66,226 for training and 16,557 for testing.

    ACMR states the sizes (Table 1), but not the draw.

    Args:
        folder: MS-COCO in Karpathy's layout, below the data root.
        train: number of training images.
        test: number of test images.
        draw_seed: which draw.
    """

    def __init__(
        self, folder: str = "coco", train: int = 66226, test: int = 16557, draw_seed: int = 0
    ) -> None:
        self.folder = folder
        self.train = train
        self.test = test
        self.draw_seed = draw_seed

    def read(self, root: Path) -> Corpus:
        """The corpus in ``root/coco``.

        Raises:
            BadInput: the number of images in train2014 is not ``train`` + ``test``; or any fault of
                Karpathy's layout.
        """
        corpus = Karpathy(self.folder).read(root)
        in_train2014 = np.array([name.startswith("train2014/") for name in corpus.image_ids])
        rows = np.flatnonzero(in_train2014)
        if len(rows) != self.train + self.test:
            raise BadInput(
                f"{corpus.source}: {len(rows)} images have the filepath 'train2014', but "
                f"{self.train + self.test} are needed; use Karpathy's dataset_coco.json"
            )
        rows = np.random.default_rng(self.draw_seed).permutation(rows)
        split = np.full(len(in_train2014), "train", dtype="<U5")
        split[rows[self.train :]] = "test"
        # Extra positives of COCO's own test images don't apply to these.
        drawn = replace(corpus, split=split, positives=None).without_images(
            np.flatnonzero(~in_train2014).tolist()
        )
        return replace(drawn, name="acmr_coco")
