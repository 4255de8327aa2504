"""The most frequent of many keys, counted in bounded memory.

Misra and Gries' algorithm ("Finding repeated elements", 1982) with the decrement of Anderson et al.
("A High-Performance Algorithm for Identifying Frequent Items in Data Streams", 2017): when there is
no room, the median is taken off every count and half of the keys go, so that a key costs constant
time on average.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

K = TypeVar("K", bound="Hashable")


class HeavyHitters(Generic[K]):
    """At most ``capacity`` keys. A count is never too large, and too small by at most twice
    ``total`` / ``capacity``: a key that makes up more than that of the stream is there.

    ``size`` is the sum of what ``size_of`` gives for each key.
    """

    def __init__(self, capacity: int, size_of: Callable[[K], int]) -> None:
        self.total = 0
        self.size = 0
        self._capacity = capacity
        self._size_of = size_of
        self._counts: dict[K, int] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, key: K, weight: int = 1) -> None:
        """Counts a key that came ``weight`` times."""
        counts = self._counts
        if key not in counts:
            self.size += self._size_of(key)
        counts[key] = counts.get(key, 0) + weight
        self.total += weight
        if len(counts) > self._capacity:
            self.shrink()

    def top(self, count: int) -> list[tuple[K, int]]:
        """The ``count`` most frequent keys, and how often they came; of equals, older ones."""
        return sorted(self._counts.items(), key=lambda item: -item[1])[:count]

    def take(self, count: int) -> list[tuple[K, int]]:
        """As `top`, and forgets them."""
        taken = self.top(count)
        for key, times in taken:
            del self._counts[key]
            self.total -= times
            self.size -= self._size_of(key)
        return taken

    def halve(self) -> None:
        """Halves every count; keys that came once go."""
        self._keep({key: times // 2 for key, times in self._counts.items() if times > 1})
        self.total //= 2

    def shrink(self) -> None:
        """Makes room as if ``capacity`` were exceeded: half of the keys go, or more."""
        median = sorted(self._counts.values())[len(self._counts) // 2]
        self._keep({key: n - median for key, n in self._counts.items() if n > median})

    def _keep(self, counts: dict[K, int]) -> None:
        self._counts = counts
        self.size = sum(map(self._size_of, counts))
