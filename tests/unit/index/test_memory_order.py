"""Ids in order."""

from __future__ import annotations

import random

from sidecar.index.memory_order import OrderedIds


def test_pages_are_those_of_a_sorted_list_while_ids_come_and_go() -> None:
    rng = random.Random(1)
    ids, there = OrderedIds(), set()
    assert ids.after("", 10) == []
    for share_added in (1.0, 0.3, 0.0, 0.7):
        for _ in range(4000):
            if rng.random() < share_added:
                one = f"{rng.randrange(10**6):x}"
                if one not in there:
                    ids.add(one)
                    there.add(one)
            elif there:
                one = rng.choice(sorted(there)) if len(there) < 50 else there.pop()
                ids.remove(one)
                there.discard(one)
        expected = sorted(there)
        assert ids.after("", 10**6) == expected
        for _ in range(50):
            after, count = f"{rng.randrange(10**6):x}", rng.randrange(1, 1500)
            assert ids.after(after, count) == [one for one in expected if one > after][:count]


def test_a_copy_does_not_follow_the_original() -> None:
    ids = OrderedIds()
    ids.add("a")
    copy = ids.copy()
    ids.add("b")
    ids.remove("a")
    assert copy.after("", 10) == ["a"]
