"""The tier in Rust does what the one in Python does, to the last entry."""

from __future__ import annotations

import weakref
from typing import Any, Literal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from sidecar.cache import hot as python
from sidecar.cache import rooms
from sidecar.cache.accounts import Account

native = pytest.importorskip("embercache_native")

Policy = Literal["s3fifo", "lru"]
ENTRIES = 30
NAMESPACES = ["shop", "blog", "free"]
# What an entry takes with a payload of 100 bytes; its key has 16, as one with an answer must have.
TAKEN = native.ENTRY_OVERHEAD_BYTES + 16 + 100


class Value:
    """Something that can be referred to weakly."""


class Twin:
    """A tier, its accounts, and what was put there last by each key."""

    def __init__(self, tier: Any) -> None:
        self.tier = tier
        self.accounts = [Account("embed", name, "m") for name in [*NAMESPACES, "shop"]]
        self.values: dict[bytes, tuple[int, weakref.ref[Value]]] = {}

    def put(self, key: bytes, number: int, size: int, account: int, ttl: float) -> None:
        value = Value()
        self.values[key] = number, weakref.ref(value)
        self.tier.put(key, value, size, self.accounts[account], ttl=ttl, stamp=number)

    def get(self, key: bytes) -> Any:
        held = self.tier.get(key)
        if held is None:
            return None
        assert held.value is self.values[key][1]()
        account = self.accounts.index(held.account)
        return held.stamp, held.size, account, held.since, held.expires, held.hits

    def seen(self) -> Any:
        """All that can be seen of it without a change."""
        ages = {self.accounts.index(account): age for account, age in self.tier.ages().items()}
        return (
            (len(self.tier), self.tier.bytes, self.tier.capacity_bytes),
            (self.tier.counters.evictions, self.tier.counters.expirations),
            [(each.hot_entries, each.hot_bytes, each.evictions) for each in self.accounts],
            ages,
            {number for number, value in self.values.values() if value() is not None},
        )


class Machine(RuleBasedStateMachine):
    """Every operation is done to both, and says and leaves the same."""

    keys = st.lists(st.integers(0, 59), min_size=1, max_size=10, unique=True).map(
        lambda numbers: [b"%016d" % number for number in numbers]
    )

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.now = 100.0
        self.puts = 0
        capacity = ENTRIES * TAKEN
        self.python = Twin(python.HotTier(capacity, lambda: self.now, policy))
        self.native = Twin(native.HotTier(capacity, lambda: self.now, policy))
        self.twins = [self.python, self.native]

    @rule(
        keys=keys,
        size=st.sampled_from([0, 90, 100, 100, 110, 3000]),
        account=st.integers(0, 3),
        ttl=st.sampled_from([-1.0, 0.0, 1.0, 5.0, float("inf"), float("inf")]),
    )
    def put(self, keys: list[bytes], size: int, account: int, ttl: float) -> None:
        for key in keys:
            self.puts += 1
            for twin in self.twins:
                twin.put(key, self.puts, size, account, ttl)

    @rule(keys=keys, times=st.integers(1, 4))
    def get(self, keys: list[bytes], times: int) -> None:
        for key in keys * times:
            assert self.python.get(key) == self.native.get(key)

    @rule(
        numbers=st.lists(st.integers(0, 44), min_size=20, max_size=60),
        first=st.sampled_from([0, 0, 15]),
    )
    def put_what_is_missing(self, numbers: list[int], first: int) -> None:
        for number in numbers:
            key = b"%016d" % (first + number)
            got = self.python.get(key)
            assert got == self.native.get(key)
            if got is None:
                self.put([key], 100, 2, float("inf"))

    @rule(keys=keys)
    def answer(self, keys: list[bytes]) -> None:
        answer = native.Answer(b"", [], [], native.Tally(), 1, 1)
        for key in keys:
            self.native.tier.answer(key, answer)

    @rule(key=keys)
    def remove(self, key: list[bytes]) -> None:
        for twin in self.twins:
            twin.tier.remove(key[0])

    @rule(limits=st.lists(st.sampled_from([0, 0, 1, 3, 10, 40]), min_size=2, max_size=2))
    def limit(self, limits: list[int]) -> None:
        by_name = {name: limit * TAKEN for name, limit in zip(NAMESPACES, limits, strict=False)}
        for twin in self.twins:
            twin.tier.limit((lambda name: by_name.get(name, 0)) if any(limits) else None)

    @rule(seconds=st.sampled_from([0.25, 1.0, 5.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(sure=st.integers(0, 3))
    def clear(self, sure: int) -> None:
        if not sure:
            assert self.python.tier.clear() == self.native.tier.clear()

    @invariant()
    def both_are_the_same(self) -> None:
        assert self.python.seen() == self.native.seen()


@pytest.mark.parametrize("policy", ["s3fifo", "lru"])
def test_both_tiers_keep_and_say_the_same_whatever_is_done(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only what they charge differs.
    monkeypatch.setattr(python, "ENTRY_OVERHEAD_BYTES", native.ENTRY_OVERHEAD_BYTES)
    monkeypatch.setattr(python, "SLOT_BYTES", 0)
    monkeypatch.setattr(rooms, "SLOT_BYTES", 0)
    run_state_machine_as_test(
        lambda: Machine(policy), settings=settings(max_examples=60, stateful_step_count=40)
    )
