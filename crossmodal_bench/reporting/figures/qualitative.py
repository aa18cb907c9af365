"""What a model retrieves and generates for a few queries, both successes and failures.

As in TIMAM's Figures 4 and 5, ADDR's Figure 4 and GXN's Figures 3 to 6.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from crossmodal_bench.core.atomic_files import replace_file
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.text import Vocabulary
from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.reporting.figures import drawing

# A report lists panels but draws none, so it must not wait for Lightning and scikit-learn.
if TYPE_CHECKING:
    from torch import Tensor

    from crossmodal_bench.training.generated_outputs import GeneratedOutputs
    from crossmodal_bench.training.shown_retrieval import RetrievedItems

MAPPED_WORDS = 40
"""Number of words in the map."""
DPI = 100
CELL, GAP, HEADING = 148, 5, 26
"""Pixels of a picture's cell, its padding, and the line of text above it."""
CAPTIONS_WIDTH = 760
"""Pixels of a picture next to its captions."""


def panels(files: JobDirectory) -> dict[Path, str]:
    """The panels of a job that a page shows: generated outputs. Retrieved items can be browsed there."""
    return {
        files.captions_panel: "the best captions of some test images, successes and failures (✓: correct), "
        "and the caption the model writes, if it does (as in GXN, Figure 3)",
        files.pictures_panel: "the image of some test captions, successes and failures, the best images "
        "(framed: correct), and the image the model draws, if it does (as in GXN, Figures 4 and 5)",
        files.words_panel: "vectors of the most frequent content words, two principal components (as in GXN, "
        "Figure 6)",
    }


def save_panels(outputs: GeneratedOutputs) -> None:
    """Draw what a tested model retrieves and generates, and save the panels with the job's files."""
    files = outputs.files
    if outputs.vocabulary is not None and outputs.word_vectors is not None:
        panel = words_panel(outputs.vocabulary, outputs.word_vectors)
        if panel is not None:
            _save(files.words_panel, panel)
    corpus, split = outputs.corpus, outputs.split
    generates = bool(outputs.written) or outputs.drawn is not None
    of_images, of_captions = outputs.retrieved.get("i2t"), outputs.retrieved.get("t2i")
    if of_images is not None and len(of_images.queries):
        path = files.captions_panel if generates else files.retrieved_captions
        _save(path, captions_panel(corpus, split, of_images, outputs.written))
    if of_captions is not None and len(of_captions.queries):
        path = files.pictures_panel if generates else files.retrieved_pictures
        _save(path, pictures_panel(corpus, split, of_captions, outputs.drawn))


def _save(path: Path, panel: bytes) -> None:
    # An existing link is replaced, not followed.
    replace_file(path, lambda stream: stream.write(panel), durable=False)


def captions_panel(corpus: Corpus, split: str, found: RetrievedItems, written: Sequence[str]) -> bytes:
    """Some images with their best captions and, below, those the model writes.

    Args:
        corpus, split: what was searched.
        found: what some images retrieve.
        written: a caption for each image of the split, or nothing.
    """
    assert corpus.captions is not None
    images = corpus.image_rows(split)
    captions = corpus.caption_rows(split)
    sheet = _Sheet(len(found.queries), CAPTIONS_WIDTH)
    for line, query in enumerate(found.queries):
        sheet.picture(line, 0, _picture(corpus, int(images[query])))
        sheet.heading(line, _verdict(int(found.best[line])))
        lines = [
            f"{'✓' if right else '–'} {corpus.captions[captions[row]]}"
            for row, right in zip(found.top[line], found.right[line], strict=True)
        ]
        if written:
            lines.append(f"writes: {written[query]}")
        sheet.beside(line, "\n".join(textwrap.fill(text, 90, subsequent_indent="    ") for text in lines))
    return _small(drawing.png(sheet.figure))


def pictures_panel(corpus: Corpus, split: str, found: RetrievedItems, drawn: Tensor | None) -> bytes:
    """Some captions with their own image, their best images and, last, those the model draws.

    Args:
        corpus, split: what was searched.
        found: what some captions retrieve.
        drawn: (n, 3, 64, 64), -1 to 1, of the same captions; or None.
    """
    assert corpus.captions is not None
    images = corpus.image_rows(split)
    captions = corpus.caption_rows(split)
    shown = found.top.shape[1]
    columns = 1 + shown + (drawn is not None)
    sheet = _Sheet(len(found.queries), columns * CELL)
    for line, query in enumerate(found.queries):
        sheet.picture(line, 0, _picture(corpus, int(corpus.caption_image[captions[query]])))
        caption = textwrap.shorten(corpus.captions[captions[query]], 100)
        drawn_last = "; the last one is drawn" if drawn is not None else ""
        sheet.heading(line, f"{caption} ({_verdict(int(found.best[line]))}{drawn_last})")
        for column, row in enumerate(found.top[line]):
            framed = bool(found.right[line, column])
            sheet.picture(line, 1 + column, _picture(corpus, int(images[row])), framed=framed)
        if drawn is not None:
            pixels = ((drawn[line].permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255)
            sheet.picture(line, columns - 1, Image.fromarray(pixels.to(torch.uint8).numpy()))
    return _small(drawing.png(sheet.figure))


def _small(png: bytes) -> bytes:
    """The same picture in 256 colours, a third of the bytes."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256, Image.Quantize.FASTOCTREE).save(buffer, "PNG")
    return buffer.getvalue()


def _verdict(best: int) -> str:
    """The outcome of a query, by the rank of its best correct item."""
    return "found" if best == 1 else f"missed: rank {best:,}"


def words_panel(vocabulary: Vocabulary, vectors: NDArray[np.floating]) -> bytes | None:
    """The most frequent content words by their vectors (V, D); None if there are fewer than three."""
    from sklearn.decomposition import PCA
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    content = [
        row
        for row, word in enumerate(vocabulary.words)
        if len(word) >= 3 and word.isalpha() and word not in ENGLISH_STOP_WORDS
    ][:MAPPED_WORDS]
    if len(content) < 3:
        return None
    points = PCA(2, random_state=0).fit_transform(vectors[content])
    figure, (axis,) = drawing.figure(1, width=6.4, height=4.8)
    axis.plot(*points.T, ".", color=drawing.PALETTE[0], markersize=4)
    for row, (x, y) in zip(content, points, strict=True):
        axis.annotate(vocabulary.words[row], (x, y), fontsize=7, xytext=(2, 2), textcoords="offset points")
    axis.set(xlabel="first component", ylabel="second component")
    return drawing.png(figure)


class _Sheet:
    """Lines of pictures and texts at fixed positions: axes with automatic layout would be slow."""

    def __init__(self, lines: int, width: int) -> None:
        from matplotlib.figure import Figure

        self.height = lines * (HEADING + CELL)
        self.figure = Figure(figsize=(width / DPI, self.height / DPI), dpi=DPI)

    def _top(self, line: int) -> int:
        """The position of a line of pictures, in pixels from the bottom."""
        return self.height - line * (HEADING + CELL) - HEADING

    def picture(self, line: int, column: int, picture: Image.Image, framed: bool = False) -> None:
        """A picture, as large as its cell allows; framed if it is correct."""
        from matplotlib.patches import Rectangle

        fitted = ImageOps.contain(picture, (CELL - 2 * GAP, CELL - 2 * GAP))
        left, bottom = column * CELL + GAP, self._top(line) - GAP - fitted.height
        self.figure.figimage(np.asarray(fitted), left, bottom, origin="upper")
        if framed:
            frame = Rectangle((left, bottom), *fitted.size, fill=False, transform=None)
            frame.set(edgecolor=drawing.PALETTE[2], linewidth=4)
            self.figure.add_artist(frame)

    def heading(self, line: int, text: str) -> None:
        """A text above a line."""
        self.figure.text(GAP, self._top(line), text, fontsize=8, va="bottom", transform=None)

    def beside(self, line: int, text: str) -> None:
        """A text to the right of a line's first picture."""
        middle = self._top(line) - CELL // 2
        self.figure.text(CELL + GAP, middle, text, fontsize=8, va="center", transform=None)


def _picture(corpus: Corpus, row: int) -> Image.Image:
    assert corpus.images is not None
    return Image.fromarray(np.asarray(corpus.images[row]))
