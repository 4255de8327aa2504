"""Counts what became of semantic lookups, by how near the cached query was.

From these figures of his own traffic a user can choose a threshold: below the one that is set, how
many more queries would be answered; above it, how often guard and verifier had to refuse.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import ItemsView, Sequence

MAX_NAMESPACES = 1000
OTHERS = "(others)"
# All that is below 0.70 is one band: no threshold worth choosing is there.
_EDGES = (-1.0, 0.70, 0.75, 0.80, 0.85, 0.90, 0.925, 0.95, 0.97, 0.98, 0.99, 0.995, 1.0)

Outcome: TypeAlias = Literal[
    "answered", "refused_by_guard", "refused_by_verifier", "below_threshold"
]


@dataclass(slots=True)
class Band:
    """Lookups at a similarity of at least ``lower`` and below ``upper`` (1.0 is in the last).

    The similarity of a lookup is that of the query that answered or, if none did, of the nearest.
    ``looked_up`` is the sum of the outcomes.
    """

    lower: float
    upper: float
    looked_up: int = 0
    answered: int = 0
    refused_by_guard: int = 0
    refused_by_verifier: int = 0
    below_threshold: int = 0


class SemanticReport:
    """Bands by namespace, since start-up. Used from one event loop.

    The first `MAX_NAMESPACES` have bands of their own, what comes later shares those of `OTHERS`.
    """

    def __init__(self) -> None:
        self._bands: dict[str, Sequence[Band]] = {}

    def count(self, namespace: str, similarity: float, outcome: Outcome) -> None:
        """Counts a lookup that had a query to compare with."""
        if namespace not in self._bands and len(self._bands) >= MAX_NAMESPACES:
            namespace = OTHERS
        bands = self._bands.get(namespace)
        if bands is None:
            bands = tuple(Band(lower, upper) for lower, upper in itertools.pairwise(_EDGES))
            self._bands[namespace] = bands
        # The edges within; rounding may carry a similarity beyond the outer ones.
        band = bands[bisect_right(_EDGES, similarity, 1, len(_EDGES) - 1) - 1]
        band.looked_up += 1
        setattr(band, outcome, getattr(band, outcome) + 1)

    def items(self) -> ItemsView[str, Sequence[Band]]:
        """Each namespace with its bands, from the lowest to the highest."""
        return self._bands.items()
