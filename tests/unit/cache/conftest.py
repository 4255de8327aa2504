from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

import pytest

from sidecar.cache.accounts import Account
from sidecar.cache.hot import ENTRY_OVERHEAD_BYTES, HotEntry, HotTier
from sidecar.cache.rooms import SLOT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

Policy = Literal["s3fifo", "lru"]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class CheckedTier(HotTier[str]):
    """A hot tier that looks itself over after every operation.

    It has room for ``entries`` of a hundred bytes together with their keys. `fill` puts such, on
    one account.
    """

    def __init__(self, entries: int, policy: Policy = "s3fifo") -> None:
        self.clock = Clock()
        self.account = Account("embed", "default", "model")
        self._accounts = {self.account}
        self._most = 0
        super().__init__(entries * (ENTRY_OVERHEAD_BYTES + 100), self.clock, policy)

    @property
    def keys(self) -> set[bytes]:
        return set(self._entries)

    def fill(self, *keys: bytes) -> None:
        for key in keys:
            self.put(key, "", 100 - len(key), self.account)

    def get(self, key: bytes) -> HotEntry[str] | None:
        held = super().get(key)
        self.check()
        return held

    def put(
        self, key: bytes, value: str, payload_bytes: int, account: Account, **options: Any
    ) -> None:
        self._accounts.add(account)
        super().put(key, value, payload_bytes, account, **options)
        self.check()

    def remove(self, key: bytes) -> None:
        super().remove(key)
        self._check_queues()

    def limit(self, limit_of: Callable[[str], int] | None) -> None:
        super().limit(limit_of)
        self.check()
        for entry in self._entries.values():
            name = entry.account.namespace
            assert (name in self._rooms) == bool(limit_of and limit_of(name))

    def clear(self) -> int:
        count = super().clear()
        assert len(self) == self.bytes == 0
        assert not self._ghosts | self._old_ghosts
        self.check()
        return count

    def check(self) -> None:
        entries = self._entries
        assert len(self) == len(entries)
        sizes = sum(entry.size for entry in entries.values())
        assert self.bytes == sizes + self._slots() <= self.capacity_bytes
        self._check_queues()
        self._check_accounts()
        self._check_rooms()

    def _check_queues(self) -> None:
        entries = self._entries
        assert all(entries[key] is entry for key, entry in self._small.items())
        assert self._small_bytes == sum(entry.size for entry in self._small.values())
        assert all(0 <= entry.hits <= 3 for entry in entries.values())
        self._most = max(self._most, len(entries) - len(self._small))
        assert len(self._ghosts) <= self._most // 2
        assert len(self._old_ghosts) <= self._most // 2 + 1
        ghosts = self._ghosts | self._old_ghosts
        assert not {hash(key) for key in entries} & ghosts
        if self._is_lru:
            assert not self._small
            assert not ghosts

    def _slots(self) -> int:
        return SLOT_BYTES * sum(len(room) for room in self._rooms.values())

    def _check_rooms(self) -> None:
        for namespace, room in self._rooms.items():
            mine = {
                key: entry
                for key, entry in self._entries.items()
                if entry.account.namespace == namespace
            }
            assert dict(room._entries) == mine
            assert room.bytes == sum(entry.size + SLOT_BYTES for entry in mine.values())
            assert room.bytes <= room.limit_bytes

    def _check_accounts(self) -> None:
        counts: Counter[Account] = Counter()
        sizes: Counter[Account] = Counter()
        since: Counter[Account] = Counter()
        for entry in self._entries.values():
            counts[entry.account] += 1
            sizes[entry.account] += entry.size
            since[entry.account] += entry.since
        for account in self._accounts:
            assert account.hot_entries == counts[account]
            assert account.hot_bytes == sizes[account]
        evictions = sum(account.evictions for account in self._accounts)
        assert evictions == self.counters.evictions
        assert self.ages() == pytest.approx(
            {account: self.clock.now - since[account] / counts[account] for account in counts}
        )


@pytest.fixture(scope="session")
def checked_tier() -> type[CheckedTier]:
    return CheckedTier
