"""Caltech-UCSD Birds (CUB-200-2011) with Reed et al.'s captions: 200 species, 11,788 images."""

from __future__ import annotations

from typing import Literal

from crossmodal_bench.data.datasets.class_folders import ClassFolders


class CUB(ClassFolders):
    """``cub/``: ``text_c10/`` and the class lists (100, 50 and 50 species); ``images/`` of CUB_200_2011.

    Args:
        folder: name below the data root.
        train_on: see ClassFolders.
    """

    name = "cub"
    pictures = "images"
    pictures_by_class = True

    def __init__(self, folder: str = "cub", train_on: Literal["train", "trainval"] = "train") -> None:
        super().__init__(folder, train_on)
