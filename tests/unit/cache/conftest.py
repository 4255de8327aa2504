from __future__ import annotations

import weakref
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import pytest

from sidecar.cache import hot as python
from sidecar.cache.accounts import Account
from sidecar.cache.rooms import SLOT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

Policy = Literal["s3fifo", "lru"]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Tiers:
    """Tiers of one kind, and what they charge for an entry, and for a place in a limited one's."""

    new: Callable[..., Any]
    overhead_bytes: int
    slot_bytes: int


@dataclass(frozen=True)
class Put:
    """What was put last by a key; what is in a tier keeps its value alive."""

    value: weakref.ref[Text]
    size: int
    account: Account
    since: float


class Text(str):
    """A string that can be referred to weakly."""


class CheckedTier:
    """A hot tier that is looked over after every operation.

    It has room for ``entries`` of a hundred bytes together with their keys. `fill` puts such, on
    one account.
    """

    def __init__(self, tiers: Tiers, entries: int, policy: Policy = "s3fifo") -> None:
        self.clock = Clock()
        self.account = Account("embed", "default", "model")
        self.tier = tiers.new(entries * (tiers.overhead_bytes + 100), self.clock, policy)
        self.counters = self.tier.counters
        self.capacity_bytes = self.tier.capacity_bytes
        self._tiers = tiers
        self._accounts = {self.account}
        self._puts: dict[bytes, Put] = {}
        self._limit_of: Callable[[str], int | None] = lambda name: 0
        self._most = 0

    def __len__(self) -> int:
        return len(self.tier)

    @property
    def bytes(self) -> int:
        count: int = self.tier.bytes
        return count

    @property
    def taken(self) -> int:
        """What an entry of a hundred bytes with its key takes in a namespace with a limit."""
        return self._tiers.overhead_bytes + 100 + self._tiers.slot_bytes

    @property
    def keys(self) -> set[bytes]:
        """Those that are there, without a look at any."""
        return set(self._held())

    def fill(self, *keys: bytes) -> None:
        for key in keys:
            self.put(key, "", 100 - len(key), self.account)

    def get(self, key: bytes) -> Any:
        held = self.tier.get(key)
        self.check()
        return held

    def put(
        self, key: bytes, value: str, payload_bytes: int, account: Account, **options: Any
    ) -> None:
        self._accounts.add(account)
        text = Text(value)
        size = len(key) + payload_bytes + self._tiers.overhead_bytes
        self._puts[key] = Put(weakref.ref(text), size, account, self.clock.now)
        self.tier.put(key, text, payload_bytes, account, **options)
        del text
        self.check()

    def remove(self, key: bytes) -> None:
        self.tier.remove(key)
        assert key not in self.keys
        self.check()

    def limit(self, limit_of: Callable[[str], int] | None) -> None:
        self._limit_of = limit_of or (lambda name: 0)
        self.tier.limit(limit_of)
        self.check()

    def clear(self) -> int:
        count: int = self.tier.clear()
        assert len(self) == self.bytes == 0
        self.check()
        return count

    def ages(self) -> dict[Account, float]:
        ages: dict[Account, float] = self.tier.ages()
        return ages

    def check(self) -> None:
        held = self._held()
        assert len(self) == len(held)
        taken: Counter[str] = Counter()
        for put in held.values():
            name = put.account.namespace
            taken[name] += put.size + (self._tiers.slot_bytes if self._limit_of(name) else 0)
        assert self.bytes == sum(taken.values()) <= self.capacity_bytes
        assert all(size <= (self._limit_of(name) or size) for name, size in taken.items())
        self._check_accounts(held)
        if isinstance(self.tier, python.HotTier):
            self._check_queues(self.tier)
            assert self.tier._rooms.keys() == {name for name in taken if self._limit_of(name)}

    def _held(self) -> dict[bytes, Put]:
        return {key: put for key, put in self._puts.items() if put.value() is not None}

    def _check_accounts(self, held: dict[bytes, Put]) -> None:
        counts: Counter[Account] = Counter()
        sizes: Counter[Account] = Counter()
        since: Counter[Account] = Counter()
        for put in held.values():
            counts[put.account] += 1
            sizes[put.account] += put.size
            since[put.account] += put.since
        for account in self._accounts:
            assert account.hot_entries == counts[account]
            assert account.hot_bytes == sizes[account]
        evictions = sum(account.evictions for account in self._accounts)
        assert evictions == self.counters.evictions
        assert self.ages() == pytest.approx(
            {account: self.clock.now - since[account] / counts[account] for account in counts}
        )

    def _check_queues(self, tier: python.HotTier[str]) -> None:
        entries = tier._entries
        assert all(entries[key] is entry for key, entry in tier._small.items())
        assert tier._small_bytes == sum(entry.size for entry in tier._small.values())
        assert all(0 <= entry.hits <= 3 for entry in entries.values())
        self._most = max(self._most, len(entries) - len(tier._small))
        assert len(tier._ghosts) <= self._most // 2
        assert len(tier._old_ghosts) <= self._most // 2 + 1
        ghosts = tier._ghosts | tier._old_ghosts
        assert not {hash(key) for key in entries} & ghosts
        if tier._is_lru:
            assert not tier._small
            assert not ghosts


@pytest.fixture(scope="session", params=["python", "native"])
def tiers(request: pytest.FixtureRequest) -> Tiers:
    """Those in Python, and those in Rust if the extension was built."""
    if request.param == "python":
        return Tiers(python.HotTier, python.ENTRY_OVERHEAD_BYTES, SLOT_BYTES)
    native = pytest.importorskip("embercache_native")
    return Tiers(native.HotTier, native.ENTRY_OVERHEAD_BYTES, 0)


@pytest.fixture(scope="session")
def checked_tier(tiers: Tiers) -> Callable[..., CheckedTier]:
    return partial(CheckedTier, tiers)
