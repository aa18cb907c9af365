"""Oxford Flowers-102 with Reed et al.'s captions: 102 species, 8,189 images."""

from __future__ import annotations

from typing import Literal

from crossmodal_bench.data.datasets.class_folders import ClassFolders


class Flowers(ClassFolders):
    """``flowers/``: ``text_c10/`` and the class lists (62, 20 and 20 species); ``jpg/`` of Flowers-102.

    Args:
        folder: name below the data root.
        train_on: see ClassFolders.
    """

    name = "flowers"
    pictures = "jpg"
    pictures_by_class = False

    def __init__(self, folder: str = "flowers", train_on: Literal["train", "trainval"] = "train") -> None:
        super().__init__(folder, train_on)
