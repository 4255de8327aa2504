"""What stays when the tier is full."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from sidecar.cache.accounts import Account
from sidecar.cache.hot import MAX_LOOKS

Tiers = Any
"""Those of tests/unit/cache/conftest.py: of one kind."""
CheckedTier = Any
"""That of tests/unit/cache/conftest.py: a tier that is looked over after every operation."""


def play(hot: Any, operations: str) -> str:
    """Plays ``ab`` (puts), ``?ab`` (gets), ``-ab`` (removes); returns what was evicted, in order.

    An upper-case letter is a put that lives for a second; a dot is a second.
    """
    evicted = ""
    for word in operations.split():
        for letter in word.lstrip("?-"):
            key, before = letter.lower().encode(), hot.keys
            if word[0] == "?":
                hot.get(key)
            elif word[0] == "-":
                hot.remove(key)
            elif letter == ".":
                hot.clock.now += 1
            else:
                ttl = 1 if letter.isupper() else float("inf")
                hot.put(key, letter, 99, hot.account, ttl=ttl)
                evicted += "".join(sorted(gone.decode() for gone in before - hot.keys))
    return evicted


@pytest.mark.parametrize(
    ("operations", "evicted"),
    [
        ("abcdefghij", ""),
        ("abcdefghij kl", "ab"),
        ("abcdefghij ?a k", "b"),
        ("abcdefghij ?ba kl", "cd"),
        ("abcdefghij a k", "b"),
        ("abcdefghij -b k", ""),
        ("abcdefghij ?abcdefghij klm", "abc"),
    ],
)
def test_under_lru_the_least_recently_used_goes_first(
    checked_tier: CheckedTier, operations: str, evicted: str
) -> None:
    assert play(checked_tier(10, "lru"), operations) == evicted


@pytest.mark.parametrize(
    ("operations", "evicted"),
    [
        # While there is room, a to i move on to main and j, a tenth of the bytes, is in small.
        ("abcdefghij", ""),
        ("abcdefghij -b k", ""),
        # Small gets k too, which is more than a tenth: from then on what comes goes again.
        ("abcdefghij k", "a"),
        ("abcdefghij klmn", "ajkl"),
        # What was hit in small moves to main, and the first of main goes.
        ("abcdefghij k ?k lmn", "ajbl"),
        # What was hit in main goes round again, as often as it was hit.
        ("abcdefghij ?ac k", "b"),
        ("abcdefghij ?aaa k", "b"),
        # What was evicted from small and comes back while it is remembered goes to main.
        ("abcdefghij kl j mno", "ajkblm"),
        # What was evicted from main is not remembered.
        ("abcdefghij kl a mno", "ajklam"),
        # What is put again has been asked for again.
        ("abcdefghij kl l mno", "ajbkm"),
        # So has what expired and was looked for.
        ("abcdefghi J . ?j j klm", "abk"),
        # What expired makes room whatever its hits.
        ("Abcdefghij ?aaa . k", "a"),
    ],
)
def test_under_s3fifo_what_was_not_asked_for_again_goes_first(
    checked_tier: CheckedTier, operations: str, evicted: str
) -> None:
    assert play(checked_tier(10), operations) == evicted


def warm_and_scan(tiers: Tiers, policy: Literal["s3fifo", "lru"], cold_keys: int) -> int:
    """How many of 80 keys, in use, are in a tier for 100 after a scan of cold keys."""
    hot = tiers.new(100 * (tiers.overhead_bytes + 8), lambda: 0.0, policy)
    account = Account("embed", "default", "model")
    popular = [b"%08d" % number for number in range(80)]
    for _ in range(3):
        for key in popular:
            if hot.get(key) is None:
                hot.put(key, None, 0, account)
    for number in range(cold_keys):
        hot.put(b"c%07d" % number, None, 0, account)
    return sum(hot.get(key) is not None for key in popular)


def test_what_is_in_use_survives_a_scan_of_cold_keys(tiers: Tiers) -> None:
    assert warm_and_scan(tiers, "s3fifo", 20_000) == 80


def test_under_lru_a_scan_of_cold_keys_wipes_the_tier(tiers: Tiers) -> None:
    assert warm_and_scan(tiers, "lru", 20_000) == 0


@pytest.mark.parametrize(("hits", "rounds"), [(0, 0), (1, 1), (2, 2), (3, 3), (9, 3)])
def test_an_entry_goes_round_main_as_often_as_it_was_hit_three_times_at_most(
    checked_tier: CheckedTier, hits: int, rounds: int
) -> None:
    hot = checked_tier(20)
    hot.fill(*(b"%d" % number for number in range(20)))
    for _ in range(hits):
        hot.get(b"0")
    evicted = 0
    while b"0" in hot.keys:
        key = b"new%d" % evicted
        hot.put(key, "", 99, hot.account)
        hot.get(key)
        evicted = hot.counters.evictions
    assert evicted // 17 == rounds


def test_hits_in_small_are_not_counted_in_main(checked_tier: CheckedTier) -> None:
    hot = checked_tier(10)
    play(hot, "abcdefghij ?jjj klm")
    assert hot.get(b"j").hits == 1


@pytest.mark.parametrize("evicted_since", [0, 8])
def test_a_cleared_tier_remembers_no_key(checked_tier: CheckedTier, evicted_since: int) -> None:
    hot = checked_tier(10)
    play(hot, "abcdefghij kl" + "mnopqrst"[:evicted_since])
    assert b"j" not in hot.keys
    hot.clear()
    assert play(hot, "abcdefghij klmn") == "ajkl"


def test_a_put_looks_at_a_bounded_number_of_entries_that_were_hit(
    checked_tier: CheckedTier,
) -> None:
    hot = checked_tier(3 * MAX_LOOKS)
    keys = [b"%d" % number for number in range(3 * MAX_LOOKS)]
    hot.fill(*keys)
    for key in keys:
        hot.get(key)
    hot.fill(b"a")
    left = [key for key in keys if key in hot.keys]
    assert len(left) == len(keys) - hot.counters.evictions
    assert sum(hot.get(key).hits == 1 for key in left) < 2 * MAX_LOOKS
