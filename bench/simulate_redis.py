"""A model of Redis: keys with lifetimes, within a bound of bytes.

What goes when it is full is chosen as Redis does: of a few entries taken at random, the one that
was used longest ago, or least often by a counter of eight bits that counts roughly the logarithm
and falls by one each minute. Redis also remembers good candidates of earlier choices; this does
not.
"""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass
from typing import Literal

Policy = Literal["noeviction", "allkeys-lru", "allkeys-lfu"]

_SAMPLES = 5  # maxmemory-samples
_LFU_NEW, _LFU_FACTOR, _LFU_DECAY_SECONDS = 5, 10, 60.0


@dataclass(slots=True)
class _Held:
    expires: float
    place: int
    used: float
    uses: float


class SimulatedRedis:
    """Entries of ``entry_bytes`` each, at most ``max_bytes`` of them; 0 is no bound.

    Times are in seconds of any clock that never goes back.
    """

    def __init__(
        self,
        entry_bytes: float,
        max_bytes: float = 0,
        policy: Policy = "allkeys-lru",
        seed: int = 0,
    ) -> None:
        self.evictions = 0
        self._room = max_bytes / entry_bytes if max_bytes else math.inf
        self._policy = policy
        self._random = random.Random(seed)
        self._held: dict[object, _Held] = {}
        # The same keys, to take some at random.
        self._keys: list[object] = []
        self._ends: list[tuple[float, int, object]] = []
        self._sets = 0

    def __len__(self) -> int:
        return len(self._held)

    def expire(self, now: float) -> None:
        """Takes out what has expired."""
        while self._ends and self._ends[0][0] <= now:
            expires, _, key = heapq.heappop(self._ends)
            held = self._held.get(key)
            if held is not None and held.expires == expires:
                self._remove(key)

    def get(self, key: object, now: float) -> float | None:
        """When the entry expires; None without one."""
        self.expire(now)
        held = self._held.get(key)
        if held is None:
            return None
        if self._policy == "allkeys-lfu":
            uses = self._uses(held, now)
            above = max(0.0, uses - _LFU_NEW)
            held.uses = min(255.0, uses + (self._random.random() < 1 / (above * _LFU_FACTOR + 1)))
        held.used = now
        return held.expires

    def set_nx(self, key: object, now: float, expires: float) -> bool:
        """Stores an entry unless there is one, or no room; says whether it did."""
        self.expire(now)
        if key in self._held:
            return False
        while len(self._held) + 1 > self._room:
            if self._policy == "noeviction" or not self._held:
                return False
            self._evict(now)
        self._held[key] = _Held(expires, len(self._keys), now, _LFU_NEW)
        self._keys.append(key)
        if expires < math.inf:
            self._sets += 1
            heapq.heappush(self._ends, (expires, self._sets, key))
        return True

    def _evict(self, now: float) -> None:
        chosen = {self._random.choice(self._keys) for _ in range(_SAMPLES)}
        by_use = self._policy == "allkeys-lfu"
        self._remove(
            min(
                sorted(chosen, key=lambda key: self._held[key].place),
                key=lambda key: (
                    self._uses(self._held[key], now) if by_use else self._held[key].used
                ),
            )
        )
        self.evictions += 1

    def _uses(self, held: _Held, now: float) -> float:
        return max(0.0, held.uses - (now - held.used) // _LFU_DECAY_SECONDS)

    def _remove(self, key: object) -> None:
        held = self._held.pop(key)
        last = self._keys.pop()
        if last != key:
            self._keys[held.place] = last
            self._held[last].place = held.place
