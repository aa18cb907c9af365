from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.equal_inputs import (
    equal_captions,
    equal_input_pairs,
    equal_pictures,
    repeated_captions,
)
from crossmodal_bench.data.images import ImageFiles


def corpus(captions: list[list[str]], images: ImageFiles | None = None) -> Corpus:
    """One training image, described as a dog, and then test images with these captions."""
    captions = [["a dog"], *captions]
    names = tuple(f"i{row}" for row in range(len(captions)))
    owner = np.repeat(np.arange(len(captions)), [len(own) for own in captions])
    return Corpus(
        name="mine",
        image_ids=names,
        caption_ids=tuple(f"c{row}" for row in range(len(owner))),
        caption_image=owner,
        split=np.array(["train"] + ["test"] * (len(captions) - 1)),
        captions=tuple(caption for own in captions for caption in own),
        images=images,
    )


def test_case_spacing_and_punctuation_do_not_tell_captions_apart() -> None:
    numbers = equal_captions(["A dog runs.", "a  dog runs", "A cat runs.", "???", "!!!", "A dog RUNS !"])
    assert numbers[0] == numbers[1] == numbers[5]
    assert len({numbers[0], numbers[2], numbers[3], numbers[4]}) == 4


def test_letters_are_equal_however_they_are_encoded() -> None:
    composed, decomposed = equal_captions(["a caf\u00e9", "a cafe\u0301"])
    assert composed == decomposed


def test_only_captions_of_other_images_are_repetitions() -> None:
    within = corpus([["a dog", "a dog"], ["a cat", "two cats"]])
    assert repeated_captions(within, "test") == 0
    across = corpus([["a dog", "one dog"], ["a cat", "A dog."], ["a dog", "a bird"]])
    assert repeated_captions(across, "test") == 3
    # Repetitions of what stands in another split are none.
    assert repeated_captions(corpus([["a dog"], ["a cat"]]), "test") == 0


def test_shared_captions_are_right_for_both_images_and_the_others_are_not() -> None:
    pairs = equal_input_pairs(corpus([["a dog", "x"], ["A dog.", "y"], ["z"]]), "test")
    expected = {(0, 0), (0, 1), (0, 2), (1, 2), (1, 3), (1, 0), (2, 4)}
    assert {(int(image), int(caption)) for image, caption in pairs} == expected
    assert len(pairs) == len(expected)


def test_pictures_of_the_same_bytes_share_their_captions(tmp_path: Path) -> None:
    for name, colour in (("a", "red"), ("b", "red"), ("c", "blue")):
        Image.new("RGB", (4, 4), colour).save(tmp_path / f"{name}.png")
    paths = [tmp_path / f"{name}.png" for name in "aabc"]
    pictures = corpus([["one"], ["two"], ["three"]], ImageFiles(paths))
    first, second, third = equal_pictures(pictures, np.arange(1, 4))
    assert first == second != third
    pairs = equal_input_pairs(pictures, "test")
    assert {(int(image), int(caption)) for image, caption in pairs} == {
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
        (2, 2),
    }
    paths[2].unlink()
    with pytest.raises(BadInput, match=r"b\.png cannot be read"):
        equal_pictures(pictures, np.arange(4))
