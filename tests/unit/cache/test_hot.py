from __future__ import annotations

import gc
import weakref
from typing import Any, Literal, cast

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from sidecar.cache.accounts import Account

Policy = Literal["s3fifo", "lru"]
POLICIES: list[Policy] = ["s3fifo", "lru"]
Tiers = Any
"""Those of tests/unit/cache/conftest.py: of one kind."""
CheckedTier = Any
"""That of tests/unit/cache/conftest.py: a tier that is looked over after every operation."""


@pytest.fixture(params=POLICIES)
def policy(request: pytest.FixtureRequest) -> Policy:
    return cast("Policy", request.param)


def test_what_was_put_is_got(checked_tier: CheckedTier, policy: Policy) -> None:
    hot = checked_tier(16, policy)
    hot.put(b"a", "A", 99, hot.account, stamp=7)
    held = hot.get(b"a")
    assert (held.value, held.stamp) == ("A", 7)
    assert hot.get(b"b") is None


def test_what_is_put_again_is_got_as_put_last(checked_tier: CheckedTier, policy: Policy) -> None:
    hot = checked_tier(16, policy)
    hot.put(b"a", "old", 300, hot.account)
    hot.put(b"a", "new", 99, hot.account)
    assert hot.get(b"a").value == "new"
    assert (len(hot), hot.bytes) == (1, hot.capacity_bytes // 16)


def test_an_entry_expires_at_its_time_and_gives_its_room_back(
    checked_tier: CheckedTier, policy: Policy
) -> None:
    hot = checked_tier(16, policy)
    hot.put(b"a", "A", 99, hot.account, ttl=5)
    hot.clock.now += 4.999
    assert hot.get(b"a") is not None
    hot.clock.now += 0.001
    assert hot.get(b"a") is None
    assert (len(hot), hot.bytes, hot.counters.expirations) == (0, 0, 1)


def test_an_entry_that_makes_room_when_it_has_expired_is_no_eviction(
    checked_tier: CheckedTier, policy: Policy
) -> None:
    hot = checked_tier(8, policy)
    hot.put(b"a", "A", 99, hot.account, ttl=5)
    hot.get(b"a")
    hot.fill(b"b", b"c", b"d", b"e", b"f", b"g", b"h")
    hot.get(b"b")
    hot.clock.now += 5
    hot.put(b"b", "B", 99, hot.account)
    hot.fill(b"i")
    assert b"a" not in hot.keys
    assert (hot.counters.expirations, hot.counters.evictions) == (1, 0)


@pytest.mark.parametrize("missing", [0, 1])
def test_an_entry_larger_than_an_eighth_of_the_tier_is_not_taken(
    tiers: Tiers, policy: Policy, missing: int
) -> None:
    size = tiers.overhead_bytes + 1 + 99
    hot = tiers.new(8 * size - missing, lambda: 0.0, policy)
    hot.put(b"a", "A", 99, Account("", "", ""))
    assert len(hot) == 1 - missing


def test_a_tier_without_capacity_keeps_nothing(tiers: Tiers, policy: Policy) -> None:
    hot = tiers.new(0, lambda: 0.0, policy)
    hot.put(b"a", "A", 0, Account("", "", ""))
    assert (hot.get(b"a"), len(hot), hot.bytes) == (None, 0, 0)


def test_an_entry_that_is_too_large_still_removes_the_one_before_it(
    checked_tier: CheckedTier, policy: Policy
) -> None:
    hot = checked_tier(8, policy)
    hot.put(b"a", "old", 99, hot.account)
    hot.put(b"a", "new", 10_000, hot.account)
    assert hot.get(b"a") is None


def test_an_entry_without_lifetime_left_is_not_taken(
    checked_tier: CheckedTier, policy: Policy
) -> None:
    hot = checked_tier(8, policy)
    hot.put(b"a", "A", 99, hot.account, ttl=0)
    assert len(hot) == 0


def test_an_account_knows_its_entries_their_bytes_and_how_many_were_evicted(
    checked_tier: CheckedTier, policy: Policy
) -> None:
    hot = checked_tier(8, policy)
    mine, other = Account("embed", "mine", ""), Account("embed", "other", "")
    hot.put(b"a", "", 99, mine)
    for key in b"bcdefghi":
        hot.put(bytes([key]), "", 99, other)
    assert (mine.hot_entries, mine.hot_bytes, mine.evictions) == (0, 0, 1)
    assert (other.hot_entries, other.hot_bytes, other.evictions) == (8, hot.bytes, 0)
    hot.put(b"i", "", 99, mine)
    hot.remove(b"h")
    assert (mine.hot_entries, other.hot_entries, other.evictions) == (1, 6, 0)
    assert hot.clear() == 7
    assert (mine.hot_entries, mine.hot_bytes, other.hot_entries, other.hot_bytes) == (0, 0, 0, 0)


def test_the_mean_age_is_told_by_account(checked_tier: CheckedTier, policy: Policy) -> None:
    hot = checked_tier(16, policy)
    mine, other = Account("embed", "mine", ""), Account("embed", "other", "")
    assert hot.ages() == {}
    hot.put(b"a", "", 99, mine)
    hot.clock.now += 10
    hot.put(b"b", "", 99, mine)
    hot.put(b"c", "", 99, other)
    hot.clock.now += 1
    assert hot.ages() == {mine: 6.0, other: 1.0}
    hot.put(b"a", "", 99, other)
    hot.remove(b"c")
    assert hot.ages() == {mine: 1.0, other: 0.0}


class Machine(RuleBasedStateMachine):
    """Two accounts, a dozen keys and a clock against a dictionary that never forgets."""

    keys = st.integers(0, 11).map(lambda number: bytes([97 + number]))

    def __init__(self, checked_tier: CheckedTier, policy: Policy) -> None:
        super().__init__()
        self.hot = checked_tier(8, policy)
        self.accounts = [self.hot.account, Account("search", "default", "model")]
        self.stored: dict[bytes, tuple[str, float]] = {}
        self.puts = 0

    @rule(
        keys=st.lists(keys, min_size=1, max_size=4),
        size=st.sampled_from([1, 40, 99, 99, 99, 300]),
        ttl=st.sampled_from([0.0, 1.0, 5.0, float("inf")]),
        account=st.integers(0, 1),
    )
    def put(self, keys: list[bytes], size: int, ttl: float, account: int) -> None:
        for key in keys:
            self.puts += 1
            value = f"{key!r} {self.puts}"
            self.hot.put(key, value, size, self.accounts[account], ttl=ttl)
            self.stored.pop(key, None)
            if ttl and size < 300:
                self.stored[key] = (value, self.hot.clock.now + ttl)

    @rule(keys=st.lists(keys, min_size=1, max_size=4))
    def get(self, keys: list[bytes]) -> None:
        for key in keys:
            self.get_one(key)

    def get_one(self, key: bytes) -> None:
        held = self.hot.get(key)
        value, expires = self.stored.get(key, (None, 0.0))
        if held is not None:
            assert held.value == value
            assert expires > self.hot.clock.now
        elif expires > self.hot.clock.now:
            assert self.hot.counters.evictions

    @rule(key=keys)
    def remove(self, key: bytes) -> None:
        self.hot.remove(key)
        self.stored.pop(key, None)

    @precondition(lambda self: len(self.hot) > 6)
    @rule()
    def clear(self) -> None:
        entries = len(self.hot)
        assert self.hot.clear() == entries
        self.stored.clear()

    @rule(seconds=st.sampled_from([0.5, 1.0, 5.0]))
    def wait(self, seconds: float) -> None:
        self.hot.clock.now += seconds


def test_no_get_returns_the_value_of_another_key_nor_one_that_expired_or_was_removed(
    checked_tier: CheckedTier, policy: Policy
) -> None:
    run_state_machine_as_test(lambda: Machine(checked_tier, policy))


def test_a_held_entry_is_given_another_value_and_stamp(
    checked_tier: CheckedTier, policy: Policy
) -> None:
    hot, account = checked_tier(16, policy).tier, Account("", "", "")
    hot.put(b"a", "A", 99, account, stamp=7)
    held = hot.get(b"a")
    held.value, held.stamp = "B", 8
    again = hot.get(b"a")
    assert (again.value, again.stamp, again.account) == ("B", 8, account)


def test_an_entry_that_went_can_still_be_read_by_who_holds_it(
    checked_tier: CheckedTier, policy: Policy
) -> None:
    hot = checked_tier(16, policy).tier
    hot.put(b"a", "A", 99, Account("", "", ""), ttl=5.0)
    held = hot.get(b"a")
    hot.clear()
    assert (held.value, held.expires - held.since) == ("A", 5.0)


def test_a_value_that_uses_the_tier_as_it_goes_finds_itself_gone(
    tiers: Tiers, policy: Policy
) -> None:
    hot, account, seen = tiers.new(2**20, lambda: 0.0, policy), Account("", "", ""), []

    class Value:
        def __del__(self) -> None:
            seen.append((hot.get(b"a"), len(hot), account.hot_entries))

    hot.put(b"a", Value(), 99, account)
    hot.remove(b"a")
    hot.put(b"a", Value(), 99, account)
    hot.clear()
    assert seen == [(None, 0, 0)] * 2


def test_a_clock_that_uses_the_tier_stops_nothing(tiers: Tiers, policy: Policy) -> None:
    def clock() -> float:
        hot.remove(b"a")
        return 0.0

    hot = tiers.new(2**20, clock, policy)
    hot.put(b"a", "A", 99, Account("", "", ""))
    hot.put(b"b", "B", 99, Account("", "", ""))
    assert hot.get(b"b").value == "B"
    assert hot.get(b"a") is None


def test_an_error_of_a_clock_or_of_limits_passes_through_and_the_tier_goes_on(
    tiers: Tiers, policy: Policy
) -> None:
    errors: list[Exception] = []

    def fail_once() -> float:
        if errors:
            raise errors.pop()
        return 0.0

    hot, account = tiers.new(2**20, fail_once, policy), Account("", "shop", "")
    hot.limit(lambda name: int(fail_once()))
    errors.append(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        hot.put(b"a", "A", 99, account)
    hot.put(b"a", "A", 99, account)
    errors.append(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        hot.get(b"a")
    assert (hot.get(b"a").value, account.hot_entries) == ("A", 1)


def test_a_tier_that_only_its_values_refer_to_is_let_go(tiers: Tiers, policy: Policy) -> None:
    class Value:
        pass

    value = Value()
    value.tier = tiers.new(2**20, lambda: 0.0, policy)
    value.tier.put(b"a", value, 99, Account("", "", ""))
    gone = weakref.ref(value)
    del value
    gc.collect()
    assert gone() is None
