"""What a model retrieves and generates for a few queries, to look at (GXN, Figures 3 to 6)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.core.atomic_files import replace_file
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.text import Vocabulary
from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.reporting.figures import drawing

# A report says which panels there may be and draws none: it does not wait for Lightning and scikit-learn.
if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from crossmodal_bench.evaluation import Ranks
    from crossmodal_bench.training.generated_outputs import GeneratedOutputs

TOP = 5
"""Retrieved items of a query."""
MAPPED_WORDS = 40
"""Words of the map."""


def panels(files: JobDirectory) -> dict[Path, str]:
    """The panels that a job may have, and what each of them shows."""
    return {
        files.captions_panel: "the best captions of some test images (✓: the image's own) and what the model "
        "writes (as GXN, Figure 3)",
        files.pictures_panel: "the image of some test captions, the best images, and what the model draws "
        "(as GXN, Figures 4 and 5)",
        files.words_panel: "vectors of the most frequent content words, two principal components (as GXN, "
        "Figure 6)",
    }


def save_panels(outputs: GeneratedOutputs) -> None:
    """Draw what a tested model retrieves and generates, and leave the panels with the job's files."""
    files = outputs.files
    corpus = outputs.corpus
    ranks = outputs.ranks
    if outputs.vocabulary is not None and outputs.word_vectors is not None:
        panel = words_panel(outputs.vocabulary, outputs.word_vectors)
        if panel is not None:
            _save(files.words_panel, panel)
    generates = bool(outputs.written) or outputs.drawn is not None
    if generates and ranks is not None and corpus.images is not None:
        _save(files.captions_panel, captions_panel(corpus, outputs.split, ranks, outputs.written))
        _save(files.pictures_panel, pictures_panel(corpus, outputs.split, ranks, outputs.drawn))


def _save(path: Path, panel: bytes) -> None:
    # A link that lies there is replaced, not written through.
    replace_file(path, lambda stream: stream.write(panel), durable=False)


def captions_panel(corpus: Corpus, split: str, ranks: Ranks, written: Sequence[str]) -> bytes:
    """Some images with their best captions and, below, those that the model writes.

    Args:
        corpus, split: what was searched.
        ranks: of the split.
        written: a caption for each image of the split, or nothing.
    """
    from crossmodal_bench.training.generated_outputs import shown_queries

    assert corpus.captions is not None
    images = corpus.image_rows(split)
    captions = corpus.caption_rows(split)
    queries = shown_queries(len(images))
    figure, axes = _grid(len(queries), 2, (2.0, 7.5), 1.7)
    for line, query in zip(axes, queries, strict=True):
        _picture(line[0], corpus, int(images[query]))
        line[1].axis("off")
        lines = []
        for row in ranks.i2t_top[query][:TOP]:
            own = corpus.caption_image[captions[row]] == images[query]
            lines.append(f"{'✓' if own else '–'} {corpus.captions[captions[row]]}")
        if written:
            lines.append(f"writes: {written[query]}")
        text = "\n".join(textwrap.fill(caption, 90, subsequent_indent="    ") for caption in lines)
        line[1].text(0, 0.5, text, va="center", fontsize=8, transform=line[1].transAxes)
    return drawing.png(figure)


def pictures_panel(corpus: Corpus, split: str, ranks: Ranks, drawn: Tensor | None) -> bytes:
    """Some captions with their own image, their best images and, last, those that the model draws.

    Args:
        corpus, split: what was searched.
        ranks: of the split.
        drawn: (n, 3, 64, 64), -1 to 1, of the captions that ``shown_queries`` picks; or None.
    """
    from crossmodal_bench.training.generated_outputs import shown_queries

    assert corpus.captions is not None
    images = corpus.image_rows(split)
    captions = corpus.caption_rows(split)
    queries = shown_queries(len(captions))
    columns = 1 + TOP + (drawn is not None)
    figure, axes = _grid(len(queries), columns, (1.4,) * columns, 1.75)
    for index, (line, query) in enumerate(zip(axes, queries, strict=True)):
        own = int(corpus.caption_image[captions[query]])
        _picture(line[0], corpus, own)
        name = textwrap.shorten(corpus.captions[captions[query]], 110)
        # It stands above all of them, and must not make room for itself beside its own.
        line[0].text(0, 1.06, name, fontsize=8, transform=line[0].transAxes).set_in_layout(False)
        for axis in line[1:]:
            axis.axis("off")
        for axis, row in zip(line[1:], ranks.t2i_top[query][:TOP], strict=False):
            _picture(axis, corpus, int(images[row]), marked=int(images[row]) == own)
        if drawn is not None:
            line[-1].imshow(((drawn[index].permute(1, 2, 0) + 1) / 2).clamp(0, 1).numpy())
            if index == 0:
                line[-1].set_title("draws", fontsize=8)
    return drawing.png(figure)


def words_panel(vocabulary: Vocabulary, vectors: NDArray[np.floating]) -> bytes | None:
    """The most frequent content words by their vectors (V, D); None where there are fewer than three."""
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


def _grid(rows: int, columns: int, widths: Sequence[float], height: float) -> tuple[Figure, list[list[Axes]]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(sum(widths), height * rows), dpi=100, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, width_ratios=widths)
    return figure, [list(line) for line in axes]


def _picture(axis: Axes, corpus: Corpus, row: int, marked: bool = False) -> None:
    assert corpus.images is not None
    axis.set_axis_on()
    axis.imshow(corpus.images[row])
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(marked)
    for side in axis.spines.values():
        side.set(color=drawing.PALETTE[2], linewidth=3)
