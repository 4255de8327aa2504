"""The hot tier: a least-recently-used store in memory, bounded by bytes.

Used from one event loop only, so it needs no lock.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

# What an entry costs beside its key and payload: the objects and the dictionary's slot,
# measured with tracemalloc (tests/unit/cache/test_hot.py).
ENTRY_OVERHEAD_BYTES = 640


@dataclass(slots=True)
class HotCounters:
    """Counters since start-up."""

    evictions: int = 0
    expirations: int = 0


class HotEntry(Generic[T]):
    """A value in memory, when it expires, and the last stamp under which it was found valid.

    ``expires`` is in seconds of the tier's monotonic clock. What a stamp means is up to the
    owner of the value: see `sidecar.cache.generations`.
    """

    __slots__ = ("expires", "size", "stamp", "value")

    def __init__(self, value: T, size: int, expires: float, stamp: int) -> None:
        self.value = value
        self.size = size
        self.expires = expires
        self.stamp = stamp


class HotTier(Generic[T]):
    """Least-recently-used entries within ``capacity_bytes``; 0 keeps nothing.

    An entry larger than an eighth of the capacity is not taken: it would push out too much.
    """

    def __init__(self, capacity_bytes: int, clock: Callable[[], float]) -> None:
        self.capacity_bytes = capacity_bytes
        self.bytes = 0
        self.counters = HotCounters()
        self._clock = clock
        self._entries: OrderedDict[bytes, HotEntry[T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> HotEntry[T] | None:
        """The entry, which becomes the most recently used; None if absent or expired."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.expires <= self._clock():
            self.counters.expirations += 1
            self.remove(key)
            return None
        self._entries.move_to_end(key)
        return entry

    def put(
        self, key: bytes, value: T, payload_bytes: int, *, ttl: float = math.inf, stamp: int = 0
    ) -> None:
        """Stores a value for ``ttl`` seconds, in place of any that is there."""
        self.remove(key)
        size = len(key) + payload_bytes + ENTRY_OVERHEAD_BYTES
        if size > self.capacity_bytes // 8 or ttl <= 0:
            return
        self._entries[key] = HotEntry(value, size, self._clock() + ttl, stamp)
        self.bytes += size
        while self.bytes > self.capacity_bytes:
            self.remove(next(iter(self._entries)))
            self.counters.evictions += 1

    def remove(self, key: bytes) -> None:
        """Takes an entry out, if it is there. Every removal goes through here."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= entry.size

    def clear(self) -> int:
        """Takes everything out and says how many entries that were."""
        count = len(self._entries)
        self._entries.clear()
        self.bytes = 0
        return count
