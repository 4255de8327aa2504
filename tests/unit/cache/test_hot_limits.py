"""Namespaces that may take only so many bytes of the hot tier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from sidecar.cache.accounts import Account
from sidecar.cache.hot import MAX_LOOKS

if TYPE_CHECKING:
    from collections.abc import Iterable

Policy = Literal["s3fifo", "lru"]
POLICIES: list[Policy] = ["s3fifo", "lru"]
CheckedTier = Any
"""That of tests/unit/cache/conftest.py: a tier that is looked over after every operation."""


@pytest.fixture(params=POLICIES)
def policy(request: pytest.FixtureRequest) -> Policy:
    return cast("Policy", request.param)


@pytest.fixture
def shop() -> Account:
    return Account("embed", "shop", "model")


def fill(hot: Any, account: Account, keys: Iterable[bytes]) -> None:
    for key in keys:
        hot.put(key, "", 100 - len(key), account)


def letters(text: str) -> list[bytes]:
    return [letter.encode() for letter in text]


def kept(hot: Any) -> str:
    return "".join(sorted(key.decode() for key in hot.keys))


def test_a_namespace_at_its_limit_makes_room_with_its_own_oldest_entries(
    checked_tier: CheckedTier, policy: Policy, shop: Account
) -> None:
    hot = checked_tier(100, policy)
    hot.limit({"shop": 3 * hot.taken}.get)
    fill(hot, hot.account, letters("xyz"))
    fill(hot, shop, letters("abcde"))
    assert kept(hot) == "cdexyz"
    assert (shop.evictions, hot.account.evictions) == (2, 0)


def test_all_accounts_of_a_namespace_share_its_limit(
    checked_tier: CheckedTier, shop: Account
) -> None:
    hot = checked_tier(100)
    hot.limit({"shop": 3 * hot.taken}.get)
    fill(hot, shop, letters("ab"))
    fill(hot, Account("search", "shop", "other"), letters("cd"))
    assert kept(hot) == "bcd"


def test_what_was_hit_is_spared(checked_tier: CheckedTier, policy: Policy, shop: Account) -> None:
    hot = checked_tier(100, policy)
    hot.limit({"shop": 3 * hot.taken}.get)
    fill(hot, shop, letters("abc"))
    hot.get(b"a")
    fill(hot, shop, letters("de"))
    assert kept(hot) == "ade"
    fill(hot, shop, letters("f"))
    assert kept(hot) == "def"


def test_what_has_expired_makes_room_first_when_it_is_met(
    checked_tier: CheckedTier, policy: Policy, shop: Account
) -> None:
    hot = checked_tier(100, policy)
    hot.limit({"shop": 3 * hot.taken}.get)
    hot.put(b"a", "", 99, shop, ttl=1)
    hot.get(b"a")
    fill(hot, shop, letters("bc"))
    hot.clock.now += 1
    fill(hot, shop, letters("d"))
    assert kept(hot) == "bcd"
    assert (hot.counters.expirations, hot.counters.evictions) == (1, 0)


def test_a_put_looks_at_a_bounded_number_of_entries_that_were_hit(
    checked_tier: CheckedTier, shop: Account
) -> None:
    many = 3 * MAX_LOOKS
    hot = checked_tier(2 * many)
    hot.limit({"shop": many * hot.taken}.get)
    keys = [b"%d" % number for number in range(many)]
    fill(hot, shop, keys)
    for key in keys:
        hot.get(key)
    fill(hot, shop, letters("a"))
    assert sum(hot.get(key).hits == 1 for key in hot.keys) <= MAX_LOOKS + 1


def test_an_entry_that_is_larger_than_the_limit_is_not_taken_and_pushes_nothing_out(
    checked_tier: CheckedTier, policy: Policy, shop: Account
) -> None:
    hot = checked_tier(100, policy)
    hot.limit({"shop": 2 * hot.taken}.get)
    fill(hot, shop, letters("ab"))
    hot.put(b"c", "", 99 + hot.taken + 1, shop)
    assert kept(hot) == "ab"
    hot.put(b"c", "", 99 + hot.taken, shop)
    assert kept(hot) == "c"


def test_a_limit_that_is_lowered_holds_at_once(
    checked_tier: CheckedTier, policy: Policy, shop: Account
) -> None:
    hot = checked_tier(100, policy)
    hot.limit({"shop": 5 * hot.taken}.get)
    fill(hot, hot.account, letters("xyz"))
    fill(hot, shop, letters("abcde"))
    hot.limit({"shop": 2 * hot.taken}.get)
    assert kept(hot) == "dexyz"


def test_a_limit_that_comes_later_counts_what_is_there(
    checked_tier: CheckedTier, policy: Policy, shop: Account
) -> None:
    hot = checked_tier(100, policy)
    fill(hot, hot.account, letters("xyz"))
    fill(hot, shop, letters("abcde"))
    hot.limit({"shop": 2 * hot.taken}.get)
    assert kept(hot) == "dexyz"
    fill(hot, shop, letters("f"))
    assert kept(hot) == "efxyz"


def test_without_its_limit_a_namespace_takes_what_there_is(
    checked_tier: CheckedTier, policy: Policy, shop: Account
) -> None:
    hot = checked_tier(100, policy)
    hot.limit({"shop": 2 * hot.taken}.get)
    fill(hot, shop, letters("abc"))
    hot.limit(None)
    fill(hot, shop, letters("defgh"))
    assert kept(hot) == "bcdefgh"
    assert hot.bytes == shop.hot_bytes


def test_a_namespace_is_forgotten_with_its_last_entry(
    checked_tier: CheckedTier, policy: Policy, shop: Account
) -> None:
    hot, blog = checked_tier(100, policy), Account("embed", "blog", "model")
    hot.limit(lambda name: 2 * hot.taken)
    fill(hot, shop, letters("abc"))
    fill(hot, blog, letters("xyz"))
    for key in letters("abc"):
        hot.remove(key)
    asked: set[str] = set()
    hot.limit(lambda name: asked.add(name) or 0)
    assert asked == {"blog"}


def test_places_in_the_queue_of_a_new_limit_make_room_in_the_tier(
    checked_tier: CheckedTier, policy: Policy, shop: Account
) -> None:
    hot = checked_tier(100, policy)
    fill(hot, shop, (b"%d" % number for number in range(100)))
    assert len(hot) == 100
    hot.limit({"shop": 200 * hot.taken}.get)
    assert len(hot) == hot.capacity_bytes // hot.taken


class Machine(RuleBasedStateMachine):
    """Two namespaces with limits that change, and one without; the tier checks its sums."""

    keys = st.integers(0, 20).map(lambda number: b"%02d" % number)

    def __init__(self, checked_tier: CheckedTier, policy: Policy) -> None:
        super().__init__()
        self.hot = checked_tier(60, policy)
        self.free = Account("embed", "free", "m")
        self.limited = [
            Account("embed", "shop", "m"),
            Account("search", "shop", "m"),
            Account("embed", "blog", "m"),
        ]
        self.limits = {"shop": 4 * self.hot.taken, "blog": 0}
        self.hot.limit(self.limits.get)
        self.theirs: set[bytes] = set()

    @rule(keys=st.lists(keys, min_size=1, max_size=4))
    def put_free(self, keys: list[bytes]) -> None:
        for key in keys:
            self.hot.put(b"free" + key, "", 96, self.free)
            self.theirs.add(b"free" + key)

    @rule(
        keys=st.lists(keys, min_size=1, max_size=6),
        account=st.integers(0, 2),
        size=st.sampled_from([1, 99, 99, 99, 2000]),
        ttl=st.sampled_from([1.0, float("inf"), float("inf")]),
    )
    def put(self, keys: list[bytes], account: int, size: int, ttl: float) -> None:
        mine = self.limited[account]
        prefix = mine.namespace.encode()
        others = {key for key in self.hot.keys if not key.startswith(prefix)}
        had_room = self.hot.bytes + len(keys) * (2000 + self.hot.taken) <= self.hot.capacity_bytes
        for key in keys:
            self.hot.put(prefix + key, "", size, mine, ttl=ttl)
        if had_room:
            assert others <= self.hot.keys

    @rule(key=keys, name=st.sampled_from([b"shop", b"blog", b"free"]))
    def get(self, key: bytes, name: bytes) -> None:
        self.hot.get(name + key)

    @rule(key=keys, name=st.sampled_from([b"shop", b"blog", b"free"]))
    def remove(self, key: bytes, name: bytes) -> None:
        self.hot.remove(name + key)

    @rule(shop=st.sampled_from([0, 1, 4, 30]), blog=st.sampled_from([0, 3]))
    def limit(self, shop: int, blog: int) -> None:
        self.limits = {"shop": shop * self.hot.taken, "blog": blog * self.hot.taken}
        self.hot.limit(lambda name: self.limits.get(name, 0))

    @rule()
    def clear(self) -> None:
        self.hot.clear()

    @rule(seconds=st.sampled_from([0.5, 5.0]))
    def wait(self, seconds: float) -> None:
        self.hot.clock.now += seconds


def test_limits_hold_sums_are_exact_and_others_lose_nothing_to_a_namespace_at_its_limit(
    checked_tier: CheckedTier, policy: Policy
) -> None:
    run_state_machine_as_test(
        lambda: Machine(checked_tier, policy), settings=settings(max_examples=40)
    )
