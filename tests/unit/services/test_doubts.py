"""A set in bounded memory that never has too little in it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.services.doubts import Doubts

OPERATIONS = st.lists(st.tuples(st.booleans(), st.integers(0, 15)), max_size=60)


@given(OPERATIONS, st.integers(1, 8))
def test_what_was_put_in_is_there_until_it_is_taken_out(
    operations: list[tuple[bool, int]], capacity: int
) -> None:
    doubts: Doubts[int] = Doubts(capacity)
    exact: set[int] = set()
    for adds, one in operations:
        if adds:
            doubts.add(one)
            exact.add(one)
        else:
            doubts.discard(one)
            exact.discard(one)
            assert one not in doubts
        assert all(each in doubts for each in exact)
        assert len(doubts._doubtful) <= capacity
        assert len(doubts._settled or ()) <= capacity


@given(OPERATIONS)
def test_while_there_is_room_nothing_else_is_there(operations: list[tuple[bool, int]]) -> None:
    doubts: Doubts[int] = Doubts(16)
    exact: set[int] = set()
    for adds, one in operations:
        (doubts.add if adds else doubts.discard)(one)
        (exact.add if adds else exact.discard)(one)
        assert {each for each in range(20) if each in doubts} == exact
