"""The hot tier: values in memory, bounded by bytes, in the order of S3-FIFO or of last use.

S3-FIFO: J. Yang, Y. Zhang, Z. Qiu, Y. Yue, R. Vinayak, "FIFO queues are all you need for cache
eviction", SOSP 2023. A new entry waits in a *small* queue for a tenth of the bytes. If it is asked
for again before it comes to the end of it, it moves to the *main* queue, otherwise it goes, and a
*ghost* of its key is kept for a while: a key that comes back while it is remembered goes to main
at once. An entry that comes to the end of main goes round again as often as it was hit, three
times at most. So what is asked for once, however much of it, only ever passes through small.

A namespace with a limit of its own keeps within it by pushing out its own entries, oldest first;
one that was hit goes round again there too (the algorithm known as CLOCK).

Used from one event loop only, so it needs no lock.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from sidecar.cache.rooms import SLOT_BYTES, Room

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.cache.accounts import Account

T = TypeVar("T")

# What an entry costs beside its key and payload: the objects, the queue's slot and its share of
# the ghosts, measured with tracemalloc (tests/unit/cache/test_hot.py).
ENTRY_OVERHEAD_BYTES = 848

MAX_HITS = 3
# An eviction looks at no more entries than this, so that a put in a tier where everything was just
# used does not go round all of it. It costs no hit rate that can be measured.
MAX_LOOKS = 128


@dataclass(slots=True)
class HotCounters:
    """Counters since start-up."""

    evictions: int = 0
    expirations: int = 0


class HotEntry(Generic[T]):
    """A value in memory, when it expires, and the last stamp under which it was found valid.

    ``since`` and ``expires`` are in seconds of the tier's monotonic clock. What a stamp means is
    up to the owner of the value: see `sidecar.cache.generations`. ``hits`` are those since the
    entry came into its queue, up to `MAX_HITS`, less one for each time that it was spared.
    """

    __slots__ = ("account", "expires", "hits", "since", "size", "stamp", "value")

    def __init__(
        self, value: T, size: int, account: Account, since: float, expires: float, stamp: int
    ) -> None:
        self.value = value
        self.size = size
        self.account = account
        self.since = since
        self.expires = expires
        self.stamp = stamp
        self.hits = 0


class HotTier(Generic[T]):
    """Entries within ``capacity_bytes``; 0 keeps nothing.

    ``policy`` says what goes when it is full: ``"s3fifo"`` as told above, ``"lru"`` the least
    recently used. An entry larger than an eighth of the capacity is not taken: it would push out
    too much. The accounts of entries say how many there are, their bytes, and how many were
    evicted.
    """

    def __init__(
        self,
        capacity_bytes: int,
        clock: Callable[[], float],
        policy: Literal["s3fifo", "lru"] = "s3fifo",
    ) -> None:
        self.capacity_bytes = capacity_bytes
        self.bytes = 0
        self.counters = HotCounters()
        self._clock = clock
        self._is_lru = policy == "lru"
        # All entries; those of main in the order in which they go, the next one first.
        self._entries: OrderedDict[bytes, HotEntry[T]] = OrderedDict()
        # Those of them that are in small, likewise. Least recently used needs only main.
        self._small: OrderedDict[bytes, HotEntry[T]] = OrderedDict()
        self._small_bytes = 0
        # 64-bit hashes of keys, in two generations of half as many as there are entries in main.
        self._ghosts: set[int] = set()
        self._old_ghosts: set[int] = set()
        # The sum of ``since`` over the entries of an account.
        self._since: dict[Account, float] = {}
        # All entries of the namespaces that have limits, by namespace; none is empty.
        self._rooms: dict[str, Room[T]] = {}
        self._limit_of: Callable[[str], int] | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> HotEntry[T] | None:
        """The entry, which is now less likely to go; None if absent or expired."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.expires <= self._clock():
            self._expire(key)
            if not self._is_lru:
                self._remember(key)
            return None
        if entry.hits < MAX_HITS:
            entry.hits += 1
        if self._is_lru:
            self._entries.move_to_end(key)
        return entry

    def put(
        self,
        key: bytes,
        value: T,
        payload_bytes: int,
        account: Account,
        *,
        ttl: float = math.inf,
        stamp: int = 0,
    ) -> None:
        """Stores a value for ``ttl`` seconds, in place of any that is there."""
        # What is asked for again need not prove itself again.
        into_main = self._is_lru or key in self._entries or self._is_remembered(key)
        self.remove(key)
        size = taken = len(key) + payload_bytes + ENTRY_OVERHEAD_BYTES
        most = self.capacity_bytes // 8
        room = None if self._limit_of is None else self._room(account.namespace)
        if room is not None:
            taken += SLOT_BYTES
            most = min(most, room.limit_bytes)
        if taken > most or ttl <= 0:
            return
        now = self._clock()
        if room is not None:
            self._make_room(room, taken, now)
        had_room = self.bytes + taken <= self.capacity_bytes
        while self.bytes + taken > self.capacity_bytes:
            self._evict(now)
        entry = self._entries[key] = HotEntry(value, size, account, now, now + ttl, stamp)
        if room is not None:
            self._keep_in(room, key, entry)
        self.bytes += taken
        account.hot_entries += 1
        account.hot_bytes += size
        self._since[account] = self._since.get(account, 0.0) + now
        if into_main:
            self._ghosts.discard(hash(key))
            self._old_ghosts.discard(hash(key))
            return
        self._small[key] = entry
        self._small_bytes += size
        while had_room and self._is_small_full():
            _, first = self._small.popitem(last=False)
            self._small_bytes -= first.size

    def remove(self, key: bytes) -> None:
        """Takes an entry out, if it is there. Every removal goes through here."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        if self._small.pop(key, None) is not None:
            self._small_bytes -= entry.size
        self.bytes -= entry.size
        account = entry.account
        if self._rooms and (room := self._rooms.get(account.namespace)) is not None:
            room.remove(key)
            self.bytes -= SLOT_BYTES
            if not room:
                # Names of namespaces come from callers: what has none is not to stay.
                del self._rooms[account.namespace]
        account.hot_entries -= 1
        account.hot_bytes -= entry.size
        if account.hot_entries:
            self._since[account] -= entry.since
        else:
            del self._since[account]

    def limit(self, limit_of: Callable[[str], int] | None) -> None:
        """Limits the bytes of namespaces; 0 is no limit, None limits none. What is too much goes.

        ``limit_of`` has to say the same of a namespace until the next call. Takes a moment for each
        entry there is if a namespace that has entries comes to be limited.
        """
        self._limit_of = limit_of
        limits = {name: limit_of(name) if limit_of else 0 for name in self._names()}
        for name in [name for name in self._rooms if not limits[name]]:
            self.bytes -= SLOT_BYTES * len(self._rooms.pop(name))
        if new := {name for name in limits if limits[name] and name not in self._rooms}:
            for key, entry in self._entries.items():
                name = entry.account.namespace
                if name in new and (room := self._room(name)) is not None:
                    self._keep_in(room, key, entry)
                    self.bytes += SLOT_BYTES
        now = self._clock()
        for name, room in list(self._rooms.items()):
            room.limit_bytes = limits[name]
            self._make_room(room, 0, now)
        while self.bytes > self.capacity_bytes:
            self._evict(now)

    def clear(self) -> int:
        """Takes everything out and says how many entries that were."""
        count = len(self._entries)
        for key in list(self._entries):
            self.remove(key)
        self._ghosts.clear()
        self._old_ghosts.clear()
        return count

    def ages(self) -> dict[Account, float]:
        """The mean age, in seconds, of the entries of each account that has any.

        From sums that are kept up to date: no entry is looked at.
        """
        now = self._clock()
        return {
            account: now - total / account.hot_entries for account, total in self._since.items()
        }

    def _is_small_full(self) -> bool:
        return self._small_bytes > self.capacity_bytes // 10

    def _names(self) -> set[str]:
        """The namespaces that have entries."""
        return {account.namespace for account in self._since}

    def _room(self, namespace: str) -> Room[T] | None:
        """The room of a namespace, if it has a limit; a new one for the first entry."""
        room = self._rooms.get(namespace)
        if room is None and self._limit_of is not None and (limit := self._limit_of(namespace)):
            room = Room(limit)
        return room

    def _keep_in(self, room: Room[T], key: bytes, entry: HotEntry[T]) -> None:
        # It may be a new one, or have been given up when the last entry in it made room.
        self._rooms[entry.account.namespace] = room
        room.add(key, entry)

    def _make_room(self, room: Room[T], taken: int, now: float) -> None:
        """Takes out entries of a namespace until so many bytes more are within its limit."""
        while room.bytes + taken > room.limit_bytes:
            for _ in range(MAX_LOOKS):
                key, entry = room.first()
                if entry.expires <= now or entry.hits == 0:
                    break
                entry.hits -= 1
                room.spare(key)
            if entry.expires <= now:
                self._expire(key)
            else:
                self._push_out(key, entry)

    def _evict(self, now: float) -> None:
        """Takes out the entry whose turn it is; those that were hit are spared and go to main."""
        for _ in range(MAX_LOOKS):
            queue = self._small if self._is_small_full() else self._entries
            key, entry = next(iter(queue.items()))
            if entry.expires <= now:
                self._expire(key)
                return
            if entry.hits == 0 or self._is_lru:
                break
            self._entries.move_to_end(key)
            if self._small.pop(key, None) is None:
                entry.hits -= 1
            else:
                self._small_bytes -= entry.size
                entry.hits = 0
        self._push_out(key, entry)

    def _push_out(self, key: bytes, entry: HotEntry[T]) -> None:
        """Takes out an entry that makes room for others."""
        is_small = key in self._small
        self.remove(key)
        self.counters.evictions += 1
        entry.account.evictions += 1
        if is_small:
            self._remember(key)

    def _expire(self, key: bytes) -> None:
        self.remove(key)
        self.counters.expirations += 1

    def _is_remembered(self, key: bytes) -> bool:
        return hash(key) in self._ghosts or hash(key) in self._old_ghosts

    def _remember(self, key: bytes) -> None:
        """Keeps the ghost of a key."""
        self._ghosts.add(hash(key))
        if len(self._ghosts) > (len(self._entries) - len(self._small)) // 2:
            self._old_ghosts, self._ghosts = self._ghosts, set()
