"""The style of all figures.

Colours are Okabe and Ito's, distinguishable under all common colour vision deficiencies, and never carry
meaning alone: a line also has its dash, and a point its marker. matplotlib is imported only to draw a figure,
with its Agg canvas and without pyplot, so that it needs no display and no global state.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from crossmodal_bench.core.errors import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#B8A900")
LONGEST_LINE = 300
"""Characters per line of text."""
MOST_LINES = 60
"""Maximum number of lines of a text."""
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def line(index: int) -> dict[str, Any]:
    """The style of the ``index``-th line of a figure; the first few dozen are all different."""
    cycle = index // len(PALETTE)
    return {
        "color": PALETTE[index % len(PALETTE)],
        "linestyle": DASHES[(index + cycle) % len(DASHES)],
        "marker": MARKERS[(index + cycle) % len(MARKERS)],
        "markersize": 4,
        "linewidth": 1.5,
    }


def figure(panels: int, width: float, height: float, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure of panels side by side, each ``width`` by ``height`` inches."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width * panels, height), dpi=120, layout="constrained")
    axes = list(drawn.subplots(1, panels, squeeze=False, sharey=sharey)[0])
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color="0.9", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=9)
    return drawn, axes


def legend(figure: Figure, axis: Axes, below: bool = True) -> None:
    """A legend of ``axis``, below the whole figure or inside the panel."""
    if below:
        figure.legend(
            *axis.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False
        )
    else:
        axis.legend(fontsize=8, framealpha=0.85)


def png(figure: Figure) -> bytes:
    """The figure as a PNG file.

    Its texts come from files, so a dollar sign does not start a formula, and long texts are cut.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if written := text.get_text():
            # The tick labels of a logarithmic axis, which are formulas, do not exist yet.
            text.set_parse_math(False)
            text.set_text(
                "\n".join(printable(line[:LONGEST_LINE]) for line in written.split("\n")[:MOST_LINES])
            )
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
