"""The part of the hot tier that a namespace with a limit of its own may take."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from sidecar.cache.hot import HotEntry

T = TypeVar("T")

# What a place in a room's queue costs at most, measured with tracemalloc.
SLOT_BYTES = 144


class Room(Generic[T]):
    """The entries of one namespace, in the order in which they make room for others of it.

    ``bytes`` are those of the entries and of their places here, at most ``limit_bytes``.
    """

    __slots__ = ("_entries", "bytes", "limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self._entries: OrderedDict[bytes, HotEntry[T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, key: bytes, entry: HotEntry[T]) -> None:
        """Puts an entry, which is not here yet, behind the others."""
        self._entries[key] = entry
        self.bytes += entry.size + SLOT_BYTES

    def remove(self, key: bytes) -> None:
        """Takes out an entry, which is here."""
        self.bytes -= self._entries.pop(key).size + SLOT_BYTES

    def first(self) -> tuple[bytes, HotEntry[T]]:
        """The entry whose turn it is to go."""
        return next(iter(self._entries.items()))

    def spare(self, key: bytes) -> None:
        """Lets an entry go round once more."""
        self._entries.move_to_end(key)
