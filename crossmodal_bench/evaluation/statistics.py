"""How sure a number is: over seeds, over test images, and between two methods on the same queries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from crossmodal_bench.evaluation import metric_table
from crossmodal_bench.evaluation.evaluate import Evaluation

WeightedMetric = Callable[[NDArray[np.float64], NDArray[np.int64]], float]
"""(values, how often each was drawn) to a number."""

_CELLS = 4_000_000  # draws x clusters held together


def t_interval(values: Sequence[float]) -> tuple[float, float, int]:
    """(mean, half width, n) of the 95 % Student interval over seeds; a single value has half width NaN.

    Raises ValueError for no value at all or one that is not finite: a failed run must be left out knowingly.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or not len(data) or not np.isfinite(data).all():
        raise ValueError("an interval needs at least one value, all finite")
    n = len(data)
    if n == 1:
        return float(data[0]), float("nan"), 1
    half = stats.t.ppf(0.975, n - 1) * data.std(ddof=1) / np.sqrt(n)
    return float(data.mean()), float(half), n


def bootstrap_interval(
    values: ArrayLike,
    image: ArrayLike,
    metric: WeightedMetric | None = None,
    n: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of a per-query metric when test images are drawn with replacement.

    values: (n_queries,); NaN marks a query that doesn't count. image: (n_queries,) the image that each query
    belongs to: queries of one image (its captions) are drawn together, because they are not independent.
    metric: default the mean.
    """
    data, clusters = _clustered(values, image)
    count = int(clusters.max()) + 1
    if metric is None:
        replicates = [_means(data[:, None], clusters, draws) for draws in _draws(count, n, seed)]
        return _interval(np.concatenate(replicates)[:, 0])
    return _interval(
        np.array([metric(data, draw[clusters]) for draws in _draws(count, n, seed) for draw in draws])
    )


def bootstrap_metrics(
    evaluation: Evaluation,
    caption_image: ArrayLike,
    image_identity: ArrayLike | None = None,
    *,
    n: int = 1000,
    seed: int = 0,
) -> dict[str, list[float]]:
    """By key, [low, high] of every mean over queries and of their combinations.

    They hold 95 % of what other test images would give.

    Queries are clustered by image, or by ``image_identity`` (n_images,): several images of one person are
    not independent. Image queries and text queries of a replicate come from the same draw, so that the
    intervals of sums and means over the directions hold. With folds the queries of all folds are drawn
    together. Where the queries are classes, these are drawn themselves.
    """
    owner = np.asarray(caption_image, dtype=np.int64)
    n_images = evaluation.counts[0]
    identity = np.arange(n_images)
    if image_identity is not None:
        identity = np.unique(np.asarray(image_identity), return_inverse=True)[1].astype(np.int64)
    clusters = {"images": identity, "texts": identity[owner]}
    families = evaluation.protocol.families
    intervals: dict[str, list[float]] = {}
    columns: dict[str, dict[str, NDArray[np.float64]]] = {"images": {}, "texts": {}}
    for metric in (metric for family in families for metric in metric_table.computed(family)):
        if not metric.per_query:
            continue
        values = metric.unit.scale * evaluation.per_query[metric.key]
        if metric.queries == "classes":
            intervals[metric.key] = list(bootstrap_interval(values, np.arange(len(values)), n=n, seed=seed))
        else:
            columns[metric.queries][metric.key] = values
    queries = {kind: np.stack(list(named.values()), 1) for kind, named in columns.items() if named}
    parts: dict[str, list[NDArray[np.float64]]] = {kind: [] for kind in queries}
    for draws in _draws(int(identity.max()) + 1, n, seed):
        for kind, values in queries.items():
            parts[kind].append(_means(values, clusters[kind], draws))
    replicates: dict[str, NDArray[np.float64]] = {}
    for kind, means in parts.items():
        replicates |= dict(zip(columns[kind], np.concatenate(means).T, strict=True))
    replicates |= dict(metric_table.combinations(replicates, families))
    return intervals | {key: list(_interval(values)) for key, values in replicates.items()}


def paired_randomisation(
    a: ArrayLike, b: ArrayLike, clusters: ArrayLike, n: int = 10_000, seed: int = 0
) -> float:
    """Two-sided p of mean(a) = mean(b) for two methods on the same queries.

    a, b: (n_queries,) per-query results; a query that is NaN in both is left out. clusters: (n_queries,) the
    image of each query: the two methods' results are swapped for all queries of an image together. The
    observed assignment counts as one of the n + 1, so p is never 0.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"the methods must answer the same queries, got {first.shape} and {second.shape}")
    if (np.isnan(first) != np.isnan(second)).any():
        raise ValueError("a query counts for one method and not for the other")
    data, groups = _clustered(first - second, clusters)
    sums = np.bincount(groups, weights=np.nan_to_num(data))
    # An image on which the methods agree adds nothing, whichever way it is swapped.
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    observed = abs(sums.sum())
    # Sums of the same terms in another order differ in the last digits and must still count as equal.
    reach = observed - 1e-9 * np.abs(sums).sum()
    generator = np.random.default_rng(seed)
    step = max(1, _CELLS // len(sums))
    extreme = 0
    for start in range(0, n, step):
        signs = generator.integers(0, 2, size=(min(step, n - start), len(sums)), dtype=np.int8)
        extreme += int((np.abs(2 * (signs @ sums) - sums.sum()) >= reach).sum())
    return (extreme + 1) / (n + 1)


def holm(pvalues: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of several p-values (Holm, 1979), in the order they came."""
    raw = np.asarray(pvalues, dtype=np.float64)
    if raw.ndim != 1 or ((raw < 0) | (raw > 1) | np.isnan(raw)).any():
        raise ValueError("p-values must lie between 0 and 1")
    order = np.argsort(raw, kind="stable")
    stepped = np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1))
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted.tolist()


def _clustered(values: ArrayLike, cluster: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Values and their clusters numbered from 0."""
    data, given = np.asarray(values, dtype=np.float64), np.asarray(cluster)
    if data.ndim != 1 or given.shape != data.shape or np.isnan(data).all():
        raise ValueError(f"values and clusters must be (n,) with a value, got {data.shape} and {given.shape}")
    return data, np.unique(given, return_inverse=True)[1].astype(np.int64)


def _draws(clusters: int, n: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """How often each cluster is drawn, for ``n`` replicates in pieces of (some, clusters)."""
    generator = np.random.default_rng(seed)
    step = max(1, _CELLS // clusters)
    for start in range(0, n, step):
        rows = min(step, n - start)
        picks = generator.integers(0, clusters, size=(rows, clusters))
        picks += np.arange(rows)[:, None] * clusters
        yield np.bincount(picks.ravel(), minlength=rows * clusters).reshape(rows, clusters)


def _means(
    values: NDArray[np.float64], clusters: NDArray[np.int64], draws: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(replicates, columns): means of (queries, columns) values over the queries drawn, NaN left out."""
    size = draws.shape[1]
    weights = draws.astype(np.float64)
    columns: list[NDArray[Any]] = []
    for column in values.T:
        sums = np.bincount(clusters, weights=np.nan_to_num(column), minlength=size)
        counts = np.bincount(clusters, weights=~np.isnan(column), minlength=size)
        with np.errstate(invalid="ignore"):
            columns.append((weights @ sums) / (weights @ counts))
    return np.stack(columns, 1)


def _interval(replicates: NDArray[np.float64]) -> tuple[float, float]:
    # A replicate without any query that counts has no mean (a handful of images at most); it says nothing.
    low, high = np.nanpercentile(replicates, [2.5, 97.5])
    return float(low), float(high)
