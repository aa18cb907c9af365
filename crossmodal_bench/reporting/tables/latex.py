"""Leaderboards as LaTeX tables with booktabs rules, for \\input into a paper."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from crossmodal_bench.core.errors import printable
from crossmodal_bench.evaluation.metric_table import SIDES, lookup
from crossmodal_bench.reporting.tables.shown import Line, ShownTable, Value

_PREAMBLE = r"""% Needs \usepackage{booktabs}; for pdfLaTeX, XeLaTeX and LuaLaTeX, in any font encoding.
"""

_SIGNS: Mapping[str, str] = {
    "\\": r"{\textbackslash}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"{\textasciitilde}",
    "^": r"{\textasciicircum}",
    "<": r"{\textless}",
    ">": r"{\textgreater}",
    "|": r"{\textbar}",
    # German language packages make the quotation mark a command.
    '"': r"{\char34}",
    # After the end of a row, LaTeX would read these as options.
    "*": "{*}",
    "[": "{[}",
    "]": "{]}",
    # ?` and !` would become inverted marks.
    "`": "{`}",
    "±": r"$\pm$",
    "→": r"$\rightarrow$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "·": r"$\cdot$",
    "–": r"{\textendash}",
    "—": r"{\textemdash}",
    "…": r"{\ldots}",
    "★": r"$\star$",
    "ß": r"{\ss}",
    "æ": r"{\ae}",
    "Æ": r"{\AE}",
    "ø": r"{\o}",
    "Ø": r"{\O}",
}

_ACCENTS: Mapping[str, str] = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0308": '"',
    "\u030a": "r",
    "\u030c": "v",
    "\u0327": "c",
}
"""Accents with a LaTeX command, by their combining characters."""


def latex(tables: Iterable[ShownTable]) -> str:
    """Every table as a ``table`` environment: numbers with ±, in bold for rows that are not significantly
    behind the first; the caption explains both. Costs are left out; notes are comments.
    """
    return "\n".join([_PREAMBLE, *map(_environment, tables)])


def escaped(text: str) -> str:
    """Plain text as LaTeX source; a character missing in LaTeX's own fonts becomes its code point."""
    signs = "".join(map(_sign, " ".join(printable(text).split())))
    # Two hyphens in a row would become a dash.
    return re.sub("-(?=-)", "-{}", signs)


def _environment(table: ShownTable) -> str:
    presets = ", ".join(dict.fromkeys(line.preset for line in table.lines))
    sentences = [f"{table.title}. Preset {presets}.", *(f"{note}." for note in table.meaning)]
    head = ["method", "preset", "n", "± over"]
    directions, rules = _directions(table.metrics, first=len(head) + 1)
    headers = [*head, *(metric.removeprefix(f"{lookup(metric).side}/") for metric in table.metrics)]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(' '.join(sentences))}}}",
        rf"\begin{{tabular}}{{@{{}}llrl{'r' * len(table.metrics)}@{{}}}}",
        r"\toprule",
        *([_row(["", "", "", "", *directions]), rules] if rules else []),
        _row([escaped(header) for header in headers]),
    ]
    for _, of_one_preset in itertools.groupby(table.lines, key=lambda line: line.preset):
        lines.append(r"\midrule")
        for line in of_one_preset:
            lines += row_lines(line, table.metrics)
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\footnotesize\textbf{{Warning: {escaped(text)}.}}" for text in table.warnings]
    lines.append(r"\end{table}")
    # A comment ends at the end of its line, and escaped text is a single line.
    return "\n".join([*lines, *(f"% {escaped(note)}" for note in table.notes), ""])


def _directions(metrics: Sequence[str], first: int) -> tuple[list[str], str]:
    """The headings above metrics of the same direction, and the rules below them; without rules, neither.

    Args:
        metrics: the columns.
        first: number of the first of these columns, from 1.
    """
    cells = []
    rules = []
    column = first
    for side, together in itertools.groupby(metrics, key=lambda metric: lookup(metric).side):
        width = len(list(together))
        if side is None:
            cells += [""] * width
        else:
            cells.append(rf"\multicolumn{{{width}}}{{c}}{{{escaped(SIDES[side])}}}")
            rules.append(rf"\cmidrule(lr){{{column}-{column + width - 1}}}")
        column += width
    return cells, " ".join(rules)


def row_lines(line: Line, metrics: Sequence[str]) -> Iterable[str]:
    """One row of the ``tabular``, followed by the comparable published ones."""
    head = [line.marked_name, line.preset, str(line.n), line.over]
    yield _row([*map(escaped, head), *(_value(line.values[metric]) for metric in metrics)])
    for published in line.published:
        values = [escaped(published.values.get(metric, "")) for metric in metrics]
        yield _row([rf"\emph{{{escaped(published.source)}}}", "paper", "", "", *values])


def _row(cells: Iterable[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _value(value: Value) -> str:
    number = rf"\textbf{{{escaped(value.text)}}}" if value.marked else escaped(value.text)
    if not value.margin:
        return number
    return rf"{number}{{\scriptsize\,{escaped(value.margin)}}}"


def _sign(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    if character.isascii():
        return character
    decomposed = unicodedata.normalize("NFD", character)
    letter, marks = decomposed[0], decomposed[1:]
    if letter.isascii() and letter.isalpha() and marks in _ACCENTS:
        return rf"\{_ACCENTS[marks]}{{{letter}}}"
    return rf"\texttt{{U+{ord(character):04X}}}"
