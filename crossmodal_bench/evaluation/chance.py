"""What a model with random scores reaches: metrics' expected values, from the sizes of what is searched."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Search:
    """What the queries of one direction search.

    Attributes:
        gallery: how many items are ranked for each query.
        identities: into how many groups of equal size the gallery falls of which one is right: the images
            where positives are an image's own captions, the persons where positives go by identity.
        classes: how many classes the items have.
        relevant: the mean share of relevant items in the gallery by label, where it was measured.
        positives: how many items are right for a query, on average, where positives are any pairs.
    """

    gallery: int
    identities: int
    classes: int
    relevant: float | None = None
    positives: float | None = None

    @property
    def right_items(self) -> float:
        """How many items are right for a query."""
        return self.gallery / self.identities if self.positives is None else self.positives


def expected_hit(search: Search, k: int) -> float:
    """Share of queries with one of their positives among ``k`` items that are drawn from the gallery."""
    positives = search.right_items
    missed = 1.0
    for drawn in range(min(k, search.gallery)):
        missed *= max(0.0, (search.gallery - positives - drawn) / (search.gallery - drawn))
    return 1 - missed


def expected_positive_share(search: Search) -> float:
    """The share of right items in the gallery, which is that among the first R of a random order, too."""
    return search.right_items / search.gallery


def expected_class_share(search: Search) -> float:
    """One in the number of classes.

    It is the chance that a class which is drawn is the right one; and the share of a class among the images,
    averaged over classes, is that whatever their sizes.
    """
    return 1 / max(1, search.classes)


def expected_precision(search: Search) -> float:
    """The share of relevant items, which is the precision of a whole list in random order.

    Where it was not measured, as many items for each class are assumed.
    """
    return expected_class_share(search) if search.relevant is None else search.relevant
