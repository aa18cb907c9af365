"""Chance level: the expected values of metrics for random scores, given the sizes of what is searched."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Search:
    """What the queries of one direction search.

    Attributes:
        gallery: number of items ranked for each query.
        identities: number of equally large groups in the gallery, one of which is correct: the images if
            positives are an image's own captions, the persons if positives are by identity.
        classes: number of classes of the items.
        relevant: mean share of relevant items in the gallery by label, if it was measured.
        positives: mean number of correct items per query, if positives are arbitrary pairs.
    """

    gallery: int
    identities: int
    classes: int
    relevant: float | None = None
    positives: float | None = None

    @property
    def right_items(self) -> float:
        """The number of correct items per query."""
        return self.gallery / self.identities if self.positives is None else self.positives


def expected_hit(search: Search, k: int) -> float:
    """The share of queries with a positive among ``k`` items drawn at random from the gallery."""
    positives = search.right_items
    missed = 1.0
    for drawn in range(min(k, search.gallery)):
        missed *= max(0.0, (search.gallery - positives - drawn) / (search.gallery - drawn))
    return 1 - missed


def expected_positive_share(search: Search) -> float:
    """The share of correct items in the gallery, which is also that among the first R in random order."""
    return search.right_items / search.gallery


def expected_class_share(search: Search) -> float:
    """One over the number of classes.

    That is the probability that a class drawn at random is the correct one; it is also the share of a class
    among the images, averaged over classes, whatever their sizes.
    """
    return 1 / max(1, search.classes)


def expected_precision(search: Search) -> float:
    """The share of relevant items, which is the precision of a whole list in random order.

    If it was not measured, classes are assumed to be equally large.
    """
    return expected_class_share(search) if search.relevant is None else search.relevant
