"""The query browser: each method's answers to single images and captions, from the records' ranks.

For the page, one call::

    queries = queries_context([table.source for table in shown], runs, data_root)

returns None if no record keeps rankings, or else what ``templates/queries.html`` needs, included as
``{% if queries %}{% include "queries.html" %}{% endif %}``:

- ``queries.json``: the text of a ``<script type="application/json">``, in which no character ends the script
  or has a meaning in HTML, so the template uses it as ``| safe``;
- ``queries.sections``: for readers without scripts, each protocol's title, methods and sentences on what was
  left out.

``assets/queries.js`` then draws it: ``mountQueries(element, data)`` with the template's
``#queries-browser`` and the parsed text of its ``#queries-data``. Pictures are ``data:`` URLs, which the
content security policy must allow (``img-src data:``). The state is kept by the page's ``getState(key)``,
``setState(key, value)`` and the event ``statechange``, under keys that begin with ``query``.

For each protocol, a page has ``MOST_ROWS`` rows by their first seed and ``MOST_QUERIES`` queries per
direction, the same for all rows; it says what it leaves out, and ``write_queries`` writes everything. This
needs no model and no data set: see ``reporting.page.gallery`` for captions and pictures.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.core.atomic_files import replace_file
from crossmodal_bench.core.errors import BadInput, printable
from crossmodal_bench.evaluation.metric_table import SIDES
from crossmodal_bench.evaluation.ranking.query_ranks import Side
from crossmodal_bench.evaluation.ranking.ranks import Ranks
from crossmodal_bench.jobs.query_ids import Ids, digest, load_query_ids
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.page.gallery import Gallery, gallery_of
from crossmodal_bench.reporting.rows.leaderboard import Row, Table
from crossmodal_bench.reporting.rows.row_results import read_query_results, read_results

MOST_ROWS = 20
"""Maximum number of rows per protocol in a page."""
MOST_QUERIES = 1000
"""Maximum number of queries per direction in a page."""
TOP = 5
"""Number of answers per query in a page."""
LARGEST_PICTURES = 4 * 2**20
"""Total size of a page's thumbnails, in bytes of base64."""
LONGEST = 300
"""Maximum number of characters of a caption on the page."""
OWN_CAPTIONS = 5
"""Number of captions shown with an image that is the query."""
RARE = 5
"""A word is rare if fewer training captions contain it."""

SLICES: Mapping[str, int] = {"short": 1, "long": 2, "rare": 4, "near": 8, "hubs": 16, "ties": 32}
"""The bit of each slice in a query's flags; the last two depend on the method."""

_ALL = "`crossmodal-bench report --queries all` writes every query of every row and seed to report/queries/"
_OTHERS = re.compile(r"[^\u200c\u200d]+")
"""Format characters other than the joiners of Persian and Indian scripts, which are legitimate."""


@dataclass(frozen=True, eq=False)
class Rankings:
    """One run's answers to every query of its protocol.

    Attributes:
        record: the run's record, under the protocol.
        ids: the ids of its images and captions.
        ranks: the ranks of all queries.
        clusters: (n_images,), (n_texts,) as in ``QueryResults``.
    """

    record: Record
    ids: Ids
    ranks: Ranks
    clusters: tuple[NDArray[np.int64], NDArray[np.int64]]

    def top(self, side: Side) -> NDArray[np.int64]:
        """(n_queries, at most 10) gallery rows, best first."""
        return self.ranks.i2t_top if side == "i2t" else self.ranks.t2i_top

    def scores(self, side: Side) -> NDArray[np.floating[Any]]:
        """The scores of the top rows."""
        return self.ranks.i2t_top_scores if side == "i2t" else self.ranks.t2i_top_scores

    def owner(self, gallery: Gallery | None) -> NDArray[np.int64]:
        """(n_texts,) row of each caption's image; -1 if unknown."""
        if gallery is not None:
            return gallery.owner
        images, texts = self.clusters
        if np.array_equal(images, np.arange(len(images))):
            return np.where((texts >= 0) & (texts < len(images)), texts, -1)
        return np.full(len(texts), -1)


@dataclass(frozen=True, eq=False)
class Answers:
    """One row's answers to the chosen queries of one direction.

    Attributes:
        expected: (n,) expected rank of the best correct answer; NaN if there is none.
        tied: (n,) number of wrong answers with the same score.
        top: (n, at most 5) gallery rows, best first.
        scores: their scores.
        right: (n, at most 5) which of them are correct.
        hubs: (n,) whether the query is a hub, or its first answer is a wrong hub.
    """

    expected: NDArray[np.float64]
    tied: NDArray[np.int64]
    top: NDArray[np.int64]
    scores: NDArray[np.floating[Any]]
    right: NDArray[np.bool_]
    hubs: NDArray[np.bool_]


@dataclass(frozen=True)
class RowQueries:
    """One row's answers, by direction; ``partly``: only the best correct answer is known to be correct."""

    name: str
    preset: str
    seed: int
    partly: bool
    answers: Mapping[Side, Answers]


@dataclass(frozen=True, eq=False)
class SideQueries:
    """The chosen queries of one direction.

    Attributes:
        chosen: (n,) their rows, ascending.
        of: total number of queries.
        flags: (n,) sums of ``SLICES``, for the slices that do not depend on the method.
        short: maximum number of words of a short caption; None if captions are unknown.
        long: minimum number of words of a long caption, likewise.
    """

    chosen: NDArray[np.int64]
    of: int
    flags: NDArray[np.int64]
    short: int | None
    long: int | None


@dataclass(frozen=True, eq=False)
class ProtocolQueries:
    """The rows of one table that answered the same queries.

    Attributes:
        title: data set, protocol and split.
        ids: the ids of images and captions.
        gallery: their captions and pictures, if known.
        owner: (n_texts,) row of each caption's image; -1 if unknown.
        sides: the queries by direction.
        rows: the methods, best first.
        left_out: sentences on what is left out.
    """

    title: str
    ids: Ids
    gallery: Gallery | None
    owner: NDArray[np.int64]
    sides: Mapping[Side, SideQueries]
    rows: tuple[RowQueries, ...]
    left_out: tuple[str, ...]


def queries_context(
    tables: Sequence[Table], runs: Path, data_root: Path | None = None
) -> dict[str, Any] | None:
    """What the template ``queries.html`` needs; see the module's docstring.

    Args:
        tables: the leaderboards.
        runs: the folder of the report.
        data_root: where to read captions and pictures that are not stored with the records; None: nowhere.


    Returns:
        None if no record of the tables keeps rankings.
    """
    galleries = Galleries(runs, data_root)
    protocols = [part for table in tables for part in protocol_queries(table, galleries)]
    if not any(part.rows for part in protocols):
        return None
    data = plain(protocols)
    sections = [
        {
            "title": part["title"],
            "methods": [f"{row['name']}, {row['preset']}, seed {row['seed']}" for row in part["rows"]],
            "left_out": part["leftOut"],
        }
        for part in data["protocols"]
    ]
    return {"json": script_text(data), "sections": sections}


def script_text(data: Any) -> str:
    """JSON as the text of a script element: no character ends it or has a meaning in HTML."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


class Galleries:
    """Reads the galleries of splits, each once."""

    def __init__(self, runs: Path, data_root: Path | None) -> None:
        self.runs = runs
        self.data_root = data_root
        self._known: dict[tuple[str, str, str], Gallery | None] = {}

    def of(self, records: Iterable[Record], ids: Ids) -> Gallery | None:
        """The first of the records' galleries that has these ids in this order."""
        for record in records:
            key = (record.job.dataset, record.data.fingerprint, record.evaluated_on)
            if key not in self._known:
                self._known[key] = gallery_of(record, self.runs, self.data_root)
            gallery = self._known[key]
            if gallery is not None and (list(gallery.image_ids), list(gallery.caption_ids)) == ids:
                return gallery
        return None


def protocol_queries(table: Table, galleries: Galleries) -> list[ProtocolQueries]:
    """The queries of one table for a page: one part for each set of queries that rows answered.

    A table whose runs keep no rankings has no part, as there is nothing to browse.
    """
    groups: dict[str, list[tuple[Row, Rankings]]] = {}
    unread: dict[str, list[str]] = {}
    beyond = []
    for row in _in_order(table.rows):
        if sum(map(len, groups.values())) == MOST_ROWS:
            beyond.append(_label(row))
            continue
        try:
            rankings = _first_rankings(row)
        except BadInput as error:
            unread.setdefault(str(error), []).append(_label(row))
            continue
        groups.setdefault(digest(*rankings.ids), []).append((row, rankings))
    sentences = _sentences_on_rows(beyond, unread)
    parts = []
    for number, members in enumerate(groups.values(), start=1):
        of_several = f", queries {number} of {len(groups)}" if len(groups) > 1 else ""
        split = "" if table.evaluated_on == "test" else f", {table.evaluated_on}"
        title = f"{table.dataset}, {members[0][1].record.protocol_label}{split}{of_several}"
        parts.append(_protocol_part(title, members, galleries, sentences))
    return parts


def _in_order(rows: Sequence[Row]) -> list[Row]:
    """Own rows before references; sweeps last, as their many settings would crowd out the methods."""
    return sorted(rows, key=lambda row: (row.reference, bool(row.overrides)))


def _label(row: Row) -> str:
    return f"{row.name} ({row.preset})"


def _sentences_on_rows(beyond: Sequence[str], unread: Mapping[str, Sequence[str]]) -> list[str]:
    sentences = []
    if beyond:
        sentences.append(
            f"{_several(len(beyond), 'row')} beyond the first {MOST_ROWS} left out: {_listed(beyond)}."
        )
    sentences += [f"{_listed(names)} left out: {reason}." for reason, names in unread.items()]
    return sentences


def _several(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'s' * (count != 1)}"


def _listed(names: Sequence[str], most: int = 6) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _first_rankings(row: Row) -> Rankings:
    """The rankings of the first seed that has some; the first seed's BadInput if none has."""
    errors = []
    for record in row.records:
        try:
            return read_rankings(record, verified=bool(row.results.runs))
        except BadInput as error:
            errors.append(error)
    raise errors[0]


def read_rankings(record: Record, *, verified: bool = False) -> Rankings:
    """A run's answers to its queries.

    Args:
        record: the run's record.
        verified: whether its file is already known to match the record's numbers.

    Raises:
        BadInput: the file of ranks is missing, damaged or from another run, or the protocol has no ranking.
    """
    results = read_query_results(record)
    if "ranks" not in results.families:
        raise BadInput(f"{record.protocol_label} keeps one number per query, but no ranking")
    if not verified and (reason := read_results([record], read_query_results).missing):
        raise BadInput(f"{record.ranks} is from another run than the record ({reason}); run its job again")
    ids = load_query_ids(record.files, record.ranks)
    ranks = Ranks.load(record.ranks)
    clusters = (results.image_cluster, results.text_cluster)
    if not _fit(ranks, ids, clusters):
        raise BadInput(f"{record.ranks} has inconsistent rankings; run its job again")
    return Rankings(record, ids, ranks, clusters)


def _fit(ranks: Ranks, ids: Ids, clusters: tuple[NDArray[np.int64], NDArray[np.int64]]) -> bool:
    """Whether all arrays match these items."""
    arrays = ranks.arrays()
    for side, queries, items in (("i2t", *map(len, ids)), ("t2i", *map(len, reversed(ids)))):
        top, scores = arrays[f"{side}_top"], arrays[f"{side}_top_scores"]
        if top.ndim != 2 or top.shape != scores.shape or top.shape[0] != queries or not top.shape[1]:
            return False
        if top.dtype.kind != "i" or scores.dtype.kind != "f" or not np.isfinite(scores).all():
            return False
        if top.min() < 0 or top.max() >= items:
            return False
        per_query = [arrays[f"{side}{end}"] for end in ("", "_expected", "_tied", "_tied_positives")]
        if any(array.shape != (queries,) or array.dtype.kind not in "if" for array in per_query):
            return False
    return (len(clusters[0]), len(clusters[1])) == (len(ids[0]), len(ids[1]))


def right_answers(rankings: Rankings, side: Side, gallery: Gallery | None) -> tuple[NDArray[np.bool_], bool]:
    """Which of the best answers are correct.

    A file of ranks has each query's best correct answer, and the images (or persons) to which queries belong.
    These, or equal inputs if a protocol counts them, determine the other correct answers; anything that
    contradicts the ranks is discarded.

    Args:
        rankings: those of a run.
        side: a direction.
        gallery: used to find equal inputs; None if unavailable.

    Returns:
        (n_queries, at most 10), and whether only the best correct answer of each query is known.
    """
    top = rankings.top(side)
    images, texts = rankings.clusters if side == "i2t" else rankings.clusters[::-1]
    candidates = [images[:, None] == texts[top]]
    if gallery is not None:
        queries = np.broadcast_to(np.arange(len(top))[:, None], top.shape)
        pairs = (queries, top) if side == "i2t" else (top, queries)
        equal = np.isin(gallery.pair_numbers(*pairs), gallery.equal_pairs)
        by_equal_inputs = rankings.record.job.protocol.endswith("-equal")
        candidates.insert(0 if by_equal_inputs else 1, equal)
    query_ranks = rankings.ranks.of(side)
    # How ties were broken is not in the file.
    known = query_ranks.has_positive & (query_ranks.tied == 0)
    place = np.where(known, query_ranks.strict, 0)
    length = top.shape[1]
    for candidate in candidates:
        first = np.where(candidate.any(1), candidate.argmax(1) + 1, length + 1)
        if (first == np.minimum(place, length + 1))[known].all():
            return candidate, False
    return np.arange(1, length + 1) == place[:, None], True


def hub_images(rankings: Rankings) -> NDArray[np.bool_]:
    """(n_images,) which images are among the top ten of far more captions than others.

    More than two standard deviations above the mean, as Radovanović et al. define hubs ("Hubs in Space",
    JMLR 2010).
    """
    counts = np.bincount(rankings.ranks.t2i_top.ravel(), minlength=len(rankings.ids[0]))
    hubs: NDArray[np.bool_] = counts > counts.mean() + 2 * counts.std()
    return hubs


def _protocol_part(
    title: str, members: Sequence[tuple[Row, Rankings]], galleries: Galleries, sentences: Sequence[str]
) -> ProtocolQueries:
    first = members[0][1]
    gallery = galleries.of((rankings.record for _, rankings in members), first.ids)
    owner = first.owner(gallery)
    sides = {side: _chosen_queries(side, first.ids, owner, gallery) for side in SIDES}
    rows = []
    for row, rankings in members:
        answers, partly = {}, False
        for side in SIDES:
            answers[side], only_best = _answers(rankings, side, sides[side].chosen, gallery)
            partly |= only_best
        rows.append(RowQueries(row.name, row.preset, rankings.record.job.seed, partly, answers))
    left_out = [*_sentences_on_queries(sides, rows), *_sentences_on_seeds(members), *sentences]
    if gallery is None:
        left_out.append(
            "Captions and pictures are not stored with these records, so items are shown by their ids; "
            "`crossmodal-bench report --data-root FOLDER` reads them from the data set if it is available."
        )
    return ProtocolQueries(title, first.ids, gallery, owner, sides, tuple(rows), tuple(left_out))


def _chosen_queries(side: Side, ids: Ids, owner: NDArray[np.int64], gallery: Gallery | None) -> SideQueries:
    count = len(ids[0] if side == "i2t" else ids[1])
    chosen = np.arange(count)
    if count > MOST_QUERIES:
        # The choice depends on the queries alone, not on the methods or the time of the report.
        seed = int(digest(*ids), 16)
        chosen = np.sort(np.random.default_rng([seed, count]).choice(count, MOST_QUERIES, replace=False))
    if gallery is None or not gallery.captions:
        near = np.zeros(count, np.bool_) if gallery is None or side == "t2i" else gallery.image_twin
        if gallery is not None and side == "t2i":
            near = gallery.image_twin[owner]
        return SideQueries(chosen, count, near[chosen] * SLICES["near"], None, None)
    rare = (gallery.rarest >= 0) & (gallery.rarest < RARE)
    near = gallery.caption_twin | gallery.image_twin[owner]
    words = gallery.words.astype(np.float64)
    if side == "i2t":
        size = np.maximum(np.bincount(owner, minlength=count), 1)
        words = np.bincount(owner, words, minlength=count) / size
        rare = np.bincount(owner, rare, minlength=count) > 0
        near = gallery.image_twin
    short, long = np.floor(np.quantile(words, 1 / 3)), np.ceil(np.quantile(words, 2 / 3))
    flags = rare * SLICES["rare"] + near * SLICES["near"]
    if short < long:
        flags = flags + (words <= short) * SLICES["short"] + (words >= long) * SLICES["long"]
        return SideQueries(chosen, count, flags[chosen], int(short), int(long))
    return SideQueries(chosen, count, flags[chosen], None, None)


def _answers(
    rankings: Rankings, side: Side, chosen: NDArray[np.int64], gallery: Gallery | None
) -> tuple[Answers, bool]:
    """A row's answers to some queries, and whether only the best correct answer of each is known."""
    right, only_best = right_answers(rankings, side, gallery)
    top = rankings.top(side)[:, :TOP]
    hubs = hub_images(rankings)
    by_hubs = hubs if side == "i2t" else hubs[top[:, 0]] & ~right[:, 0]
    query_ranks = rankings.ranks.of(side)
    answers = Answers(
        expected=query_ranks.expected[chosen],
        tied=query_ranks.tied[chosen],
        top=top[chosen],
        scores=rankings.scores(side)[chosen, :TOP],
        right=right[chosen, :TOP],
        hubs=by_hubs[chosen],
    )
    return answers, only_best


def _sentences_on_queries(sides: Mapping[Side, SideQueries], rows: Sequence[RowQueries]) -> list[str]:
    sentences = []
    for side, queries in sides.items():
        if len(queries.chosen) < queries.of:
            items = "images" if side == "i2t" else "captions"
            sentences.append(
                f"{len(queries.chosen):,} of {queries.of:,} {items} are included as queries, drawn at random "
                "and the same for all methods."
            )
    partly = [f"{row.name} ({row.preset})" for row in rows if row.partly]
    if partly:
        sentences.append(
            f"For {_listed(partly)}, only the best of several correct answers is marked: the file of ranks "
            "does not say which others are correct."
        )
    return sentences


def _sentences_on_seeds(members: Sequence[tuple[Row, Rankings]]) -> list[str]:
    others = sum(len(row.records) - 1 for row, _ in members)
    if not others:
        return []
    return [f"Each row is shown by one seed; {_several(others, 'run')} with other seeds left out."]


def plain(protocols: Sequence[ProtocolQueries]) -> dict[str, Any]:
    """Everything as JSON for ``assets/queries.js``.

    Items are listed once for all parts with the same ids, and referred to by their position in these lists;
    numbers of queries are typed arrays in base64, little-endian.
    """
    by_ids: dict[str, list[ProtocolQueries]] = {}
    for part in protocols:
        by_ids.setdefault(digest(*part.ids), []).append(part)
    lists = {key: _Items(parts) for key, parts in by_ids.items()}
    # Parts that need least come first, and leave the rest of the budget to the others.
    budget = LARGEST_PICTURES
    for number, items in enumerate(sorted(lists.values(), key=lambda items: items.wanted)):
        budget -= items.take_pictures(budget // (len(lists) - number))
    places = {key: (number, items) for number, (key, items) in enumerate(lists.items())}
    return {
        "slices": dict(SLICES),
        "items": [items.plain() for items in lists.values()],
        "all": _ALL,
        "protocols": [_plain_part(part, *places[digest(*part.ids)]) for part in protocols],
    }


class _Items:
    """The images and captions a page refers to, and their new positions."""

    def __init__(self, parts: Sequence[ProtocolQueries]) -> None:
        self.ids = parts[0].ids
        self.owner = parts[0].owner
        self.gallery = next((part.gallery for part in parts if part.gallery is not None), None)
        wanted_images: list[NDArray[np.int64]] = []
        answers_of_images: list[NDArray[np.int64]] = []
        texts: list[NDArray[np.int64]] = []
        for part in parts:
            images, captions = (part.sides[side].chosen for side in SIDES)
            wanted_images += [images, self._owners(captions)]
            answers_of_images += [row.answers["t2i"].top.ravel() for row in part.rows]
            answered = [row.answers["i2t"].top.ravel() for row in part.rows]
            texts += [captions, self._captions_of(images), *answered]
        self.captions = np.unique(np.concatenate(texts))
        owners = self._owners(self.captions)
        # Queries first, then the most frequent answers, then the images of captions that are answers.
        answers = np.concatenate(answers_of_images) if answers_of_images else np.zeros(0, np.int64)
        times = np.bincount(answers, minlength=len(self.ids[0]))
        often = np.lexsort((np.arange(len(times)), -times))[: np.count_nonzero(times)]
        by_need = np.concatenate([*wanted_images, often, owners])
        _, first = np.unique(by_need, return_index=True)
        self._by_need = by_need[np.sort(first)]
        self.images = np.sort(self._by_need)
        self.left_out = 0
        self._pictures: dict[int, str] = {}

    def _owners(self, captions: NDArray[np.int64]) -> NDArray[np.int64]:
        owners = self.owner[captions]
        return owners[owners >= 0]

    def _captions_of(self, images: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first few captions of each image."""
        order = np.argsort(self.owner, kind="stable")
        owner = self.owner[order]
        starts = np.searchsorted(owner, images)
        places = starts[:, None] + np.arange(OWN_CAPTIONS)
        inside = (places < np.searchsorted(owner, images, side="right")[:, None]) & (places < len(owner))
        return order[places[inside]]

    @property
    def wanted(self) -> int:
        """Number of base64 characters of all pictures."""
        if self.gallery is None or not self.gallery.thumbnails:
            return 0
        return sum(_base64_size(self.gallery.thumbnails[row]) for row in self.images.tolist())

    def take_pictures(self, budget: int) -> int:
        """Take the most needed pictures that fit; return their number of characters."""
        taken = 0
        if self.gallery is None or not self.gallery.thumbnails:
            return taken
        for row in self._by_need.tolist():
            picture = self.gallery.thumbnails[row]
            size = _base64_size(picture)
            if size and taken + size <= budget:
                self._pictures[row] = base64.b64encode(picture).decode("ascii")
                taken += size
            else:
                self.left_out += bool(size)
        return taken

    def image_positions(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions in the list of images; one past its end for -1."""
        return np.where(rows < 0, len(self.images), np.searchsorted(self.images, rows))

    def caption_positions(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions in the list of captions."""
        return np.searchsorted(self.captions, rows)

    def plain(self) -> dict[str, Any]:
        """Names, texts and pictures."""
        sentences = self.gallery.captions if self.gallery is not None else ()
        images = self.images.tolist()
        captions = self.captions.tolist()
        return {
            "images": [_shown(self.ids[0][row]) for row in images],
            "pictures": [self._pictures.get(row, "") for row in images] if self._pictures else [],
            "captionIds": [_shown(self.ids[1][row]) for row in captions],
            "captions": [_shown(sentences[row]) for row in captions] if sentences else [],
            "owner": _packed(self.image_positions(self.owner[self.captions])),
        }


def _base64_size(content: bytes) -> int:
    return -(-len(content) // 3) * 4


def _plain_part(part: ProtocolQueries, number: int, items: _Items) -> dict[str, Any]:
    left_out = list(part.left_out)
    if items.left_out:
        left_out.append(f"{_several(items.left_out, 'picture')} left out to keep the page small.")
    return {
        "title": _shown(part.title),
        "items": number,
        "leftOut": [_shown(sentence) for sentence in left_out],
        "sides": {side: _plain_side(part, side, items) for side in SIDES},
        "rows": [
            {
                "name": _shown(row.name),
                "preset": _shown(row.preset),
                "seed": row.seed,
                "answers": {side: _plain_answers(row.answers[side], side, items) for side in SIDES},
            }
            for row in part.rows
        ],
    }


def _plain_side(part: ProtocolQueries, side: Side, items: _Items) -> dict[str, Any]:
    queries = part.sides[side]
    position = items.image_positions if side == "i2t" else items.caption_positions
    labels = {
        slice_: {"label": label, "meaning": meaning} for slice_, label, meaning in _slices(side, queries)
    }
    if queries.short is None:
        del labels["short"], labels["long"]
    if part.gallery is None or not part.gallery.captions:
        del labels["rare"]
    if part.gallery is None:
        del labels["near"]
    return {
        "queries": _packed(position(queries.chosen)),
        "of": queries.of,
        "gallery": len(part.ids[1] if side == "i2t" else part.ids[0]),
        "flags": _packed(queries.flags),
        "labels": labels,
    }


def _slices(side: Side, queries: SideQueries) -> Iterator[tuple[str, str, str]]:
    """Key, name and meaning of each slice; the meaning continues a sentence after "only"."""
    length = "captions of" if side == "t2i" else "images whose captions have, on average,"
    yield "short", "short captions", f"{length} at most {queries.short} words"
    yield "long", "long captions", f"{length} {queries.long} words or more"
    whose = "captions" if side == "t2i" else "images with a caption"
    yield "rare", "rare words", f"{whose} containing a word that fewer than {RARE} training captions have"
    if side == "t2i":
        near = "captions with a near-duplicate caption of another image, or with a near-duplicate image"
        hubs = (
            "captions whose first answer is a wrong hub: an image returned for far more captions than others"
        )
    else:
        near = "images with a near-duplicate"
        hubs = "images that are hubs: returned for far more captions than others"
    yield "near", "near-duplicates", near
    yield "hubs", "hub images", hubs
    yield "ties", "ties", "queries whose first correct answer is tied with wrong ones"


def _plain_answers(answers: Answers, side: Side, items: _Items) -> dict[str, Any]:
    position = items.caption_positions if side == "i2t" else items.image_positions
    bits = (answers.right << np.arange(answers.right.shape[1])).sum(1)
    flags = answers.hubs * SLICES["hubs"] + (answers.tied > 0) * SLICES["ties"]
    return {
        "width": answers.top.shape[1],
        "expected": _packed(answers.expected.astype("<f4")),
        "tied": _packed(answers.tied),
        "top": _packed(position(answers.top)),
        "scores": _packed(answers.scores.astype("<f4")),
        "right": _packed(bits),
        "flags": _packed(flags),
    }


def _packed(values: NDArray[Any]) -> dict[str, str]:
    """A typed array in base64; non-negative integers in as few bytes as the largest one needs."""
    if values.dtype.kind != "f":
        largest = int(values.max(initial=0))
        values = values.astype("<u1" if largest < 2**8 else "<u2" if largest < 2**16 else "<u4")
    text = base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
    return {"type": f"{values.dtype.kind}{values.dtype.itemsize}", "data": text}


def _shown(text: str) -> str:
    """Text from untrusted files for the page: one line, of bounded length, without control characters."""
    cut = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    return _OTHERS.sub(lambda part: printable(part[0]), cut)


def write_queries(
    tables: Sequence[Table], folder: Path, runs: Path, data_root: Path | None = None
) -> list[Path]:
    """Write every query of every row and seed, one JSON Lines file per protocol and row.

    A line has ``dataset``, ``protocol``, ``method`` (the row's name), ``preset`` and ``seed``; ``direction``,
    ``query`` (its id) and, if known, ``caption``; ``rank`` of the best correct answer with all ties against
    the query, ``expected_rank`` over all orders of the ties, and the number of wrong answers ``tied`` with it
    (all null without a correct answer); and the first ten ``answers``, each with ``id``, ``score``, ``right``
    (null if unknown) and, if known, ``caption``. Everything but ASCII is escaped.

    Files that an earlier report left there and that this one does not write are removed.

    Args:
        tables: the leaderboards.
        folder: the target folder.
        runs, data_root: as for ``queries_context``.

    Raises:
        BadInput: a file cannot be written, or the folder is a link out of ``runs``.
    """
    galleries = Galleries(runs, data_root)
    if not folder.resolve().is_relative_to(runs.resolve()):
        raise BadInput(f"{folder} is a link out of {runs}; replace it with a folder, or remove it")
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for table in tables:
            for row in table.rows:
                lines = list(_lines(row, galleries))
                if lines:
                    written.append(folder / _file_name(row))
                    content = "".join(lines).encode()
                    replace_file(written[-1], lambda stream, content=content: stream.write(content))  # type: ignore[misc]
        for path in folder.glob("*--????????????????.jsonl"):
            if path not in written:
                path.unlink()
    except OSError as error:
        raise BadInput(
            f"{folder} cannot be written ({error.strerror or error}): free space or make it writable"
        ) from error
    return written


def _file_name(row: Row) -> str:
    """A readable file name, made unique by a digest of the row's key."""
    names = (f"{row.protocol}@{row.version}", row.method, row.label, row.preset)
    readable = "-".join(re.sub(r"[^A-Za-z0-9@_.]+", "_", name).strip("._")[:40] for name in names if name)
    kind = ("ensemble" if row.ensemble else "single", "reference" if row.reference else "own")
    split = (row.dataset, row.evaluated_on, str(row.unverified))
    identity = json.dumps([*names, *split, *kind, row.overrides], sort_keys=True)
    return f"{readable}--{hashlib.sha256(identity.encode()).hexdigest()[:16]}.jsonl"


def _lines(row: Row, galleries: Galleries) -> Iterator[str]:
    for record in row.records:
        try:
            rankings = read_rankings(record, verified=bool(row.results.runs))
        except BadInput:
            # Reported on the page.
            continue
        gallery = galleries.of([record], rankings.ids)
        head = {
            "dataset": row.dataset,
            "protocol": record.protocol_label,
            "method": row.name,
            "preset": row.preset,
            "seed": record.job.seed,
        }
        for side in SIDES:
            for line in _side_lines(rankings, side, gallery):
                yield json.dumps({**head, "direction": side, **line}) + "\n"


def _side_lines(rankings: Rankings, side: Side, gallery: Gallery | None) -> Iterator[dict[str, Any]]:
    captions = gallery.captions if gallery is not None else ()
    right, only_best = right_answers(rankings, side, gallery)
    ranks = rankings.ranks.of(side)
    queries, items = rankings.ids if side == "i2t" else rankings.ids[::-1]
    expected = ranks.expected.tolist()
    tops = zip(rankings.top(side).tolist(), rankings.scores(side).tolist(), right.tolist(), strict=True)
    for query, (top, scores, marks) in enumerate(tops):
        answerable = bool(ranks.has_positive[query])
        answers = []
        for item, score, mark in zip(top, scores, marks, strict=True):
            answer = {"id": items[item], "score": float(f"{score:.7g}")}
            answer["right"] = mark if mark or not only_best else None
            if captions and side == "i2t":
                answer["caption"] = captions[item]
            answers.append(answer)
        line: dict[str, Any] = {"query": queries[query]}
        if captions and side == "t2i":
            line["caption"] = captions[query]
        yield {
            **line,
            "rank": int(ranks.strict[query]) if answerable else None,
            "expected_rank": expected[query] if answerable else None,
            "tied": int(ranks.tied[query]) if answerable else None,
            "answers": answers,
        }
