from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cache.semantic import SemanticIndex

if TYPE_CHECKING:
    from collections.abc import Sequence

SCOPE, OTHER = b"s" * 16, b"o" * 16


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def vector(*elements: float) -> Any:
    return np.array(elements, np.float32)


def at(degrees: float) -> Any:
    """A direction in the plane."""
    return vector(np.cos(np.radians(degrees)), np.sin(np.radians(degrees)))


def index(capacity: int = 100, clock: Clock | None = None) -> SemanticIndex:
    return SemanticIndex(capacity, clock or Clock())


def filled(angles: Sequence[float], capacity: int = 100) -> SemanticIndex:
    """One query for each angle; its key is the number of degrees."""
    made = index(capacity)
    for angle in angles:
        made.add(SCOPE, at(angle), b"%d" % angle, 0)
    return made


def keys(found: SemanticIndex, degrees: float, scope: bytes = SCOPE, count: int = 4) -> list[bytes]:
    return [match.key for match in found.nearest(scope, at(degrees), count)]


def test_the_nearest_come_first_and_no_more_than_asked_for() -> None:
    assert keys(filled([0, 40, 10, 90, 20]), 12, count=3) == [b"10", b"20", b"0"]


def test_similarity_is_the_cosine_whatever_the_lengths_of_the_vectors() -> None:
    made = index()
    made.add(SCOPE, 7 * at(60), b"k", 0)
    (match,) = made.nearest(SCOPE, 1e-3 * at(0))
    assert match.similarity == pytest.approx(0.5, abs=1e-6)


def test_a_query_is_found_by_itself_with_a_similarity_of_no_more_than_1() -> None:
    made = index()
    for number, row in enumerate(np.random.default_rng(0).standard_normal((200, 384))):
        made.add(SCOPE, row.astype(np.float32), b"%d" % number, 0)
        best = made.nearest(SCOPE, row.astype(np.float32), 1)[0]
        assert best.key == b"%d" % number
        assert 1 - 1e-6 < best.similarity <= 1


def test_another_scope_never_answers() -> None:
    made = filled([0])
    made.add(OTHER, at(0), b"other", 0)
    assert keys(made, 0) == [b"0"]
    assert keys(made, 0, OTHER) == [b"other"]
    assert keys(made, 0, b"x" * 16) == []


def test_a_vector_of_another_dimension_finds_and_disturbs_nothing() -> None:
    made = filled([0])
    made.add(SCOPE, vector(1, 0, 0), b"long", 0)
    assert made.nearest(SCOPE, vector(1)) == []
    assert [match.key for match in made.nearest(SCOPE, vector(1, 1, 1))] == [b"long"]
    assert keys(made, 0) == [b"0"]


@pytest.mark.parametrize("elements", [(0, 0), (np.nan, 1), (np.inf, 1), ()])
def test_a_vector_without_direction_is_not_taken_and_finds_nothing(elements: Any) -> None:
    made = filled([0])
    made.add(SCOPE, vector(*elements), b"none", 0)
    assert len(made) == 1
    assert made.nearest(SCOPE, vector(*elements)) == []


@pytest.mark.parametrize("size", [1e-44, 3e38])
def test_the_smallest_and_the_largest_numbers_have_a_direction(size: float) -> None:
    made = index()
    made.add(SCOPE, vector(size, size), b"k", 0)
    assert made.nearest(SCOPE, at(45))[0].similarity == pytest.approx(1)


def test_what_has_expired_is_left_out_and_gives_its_room_back() -> None:
    clock = Clock()
    made = index(clock=clock)
    made.add(SCOPE, at(0), b"short", 100_500)
    made.add(SCOPE, at(30), b"long", 200_000)
    made.add(SCOPE, at(60), b"for ever", 0)
    clock.now = 100.499
    assert keys(made, 0)[0] == b"short"
    clock.now = 100.5
    assert keys(made, 0) == [b"long", b"for ever"]
    assert len(made) == 2


def test_what_has_expired_already_is_not_taken_and_removes_the_one_before_it() -> None:
    made = filled([0])
    made.add(SCOPE, at(0), b"0", 99_999)
    assert len(made) == 0
    assert keys(made, 0) == []


def test_a_second_add_of_a_key_replaces_the_first_also_from_another_scope() -> None:
    made = filled([0, 90])
    made.add(SCOPE, at(45), b"0", 0)
    assert keys(made, 0) == [b"0", b"90"]
    assert made.nearest(SCOPE, at(0))[0].similarity == pytest.approx(np.sqrt(0.5))
    made.add(OTHER, at(45), b"0", 0)
    assert keys(made, 0) == [b"90"]
    assert len(made) == 2


def test_what_was_removed_is_not_found_and_the_others_are() -> None:
    made = filled(range(0, 90, 10))
    made.remove(b"0")
    made.remove(b"40")
    made.remove(b"unknown")
    assert keys(made, 0, count=9) == [b"10", b"20", b"30", b"50", b"60", b"70", b"80"]


def test_the_oldest_goes_first_when_it_is_full_over_all_scopes() -> None:
    made = filled([0, 10], capacity=3)
    made.add(OTHER, at(0), b"other", 0)
    made.add(OTHER, at(10), b"new", 0)
    assert len(made) == 3
    assert keys(made, 0) == [b"10"]


def test_one_that_was_the_nearest_of_late_outlives_an_older_one() -> None:
    made = filled([0, 40, 80], capacity=3)
    assert keys(made, 1, count=2) == [b"0", b"40"]
    made.add(SCOPE, at(20), b"20", 0)
    assert keys(made, 0, count=9) == [b"0", b"20", b"80"]


def test_without_room_nothing_is_kept() -> None:
    assert len(filled([0], capacity=0)) == 0


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "nearest", "remove", "tick"]),
        st.integers(0, 15),
        st.integers(0, 359),
        st.integers(0, 2),
    ),
    max_size=80,
)


@given(OPERATIONS, st.integers(1, 9))
def test_it_behaves_as_a_list_that_is_searched_from_end_to_end(
    operations: list[tuple[str, int, int, int]], capacity: int
) -> None:
    clock = Clock()
    made = index(capacity, clock)
    # Oldest first: key -> scope, angle, expiry.
    model: dict[bytes, tuple[bytes, int, float]] = {}
    for operation, number, degrees, choice in operations:
        key, scope = b"%d" % number, bytes([choice % 2]) * 16
        if operation == "add":
            ttl = [0, 3, 7][choice]
            made.add(scope, at(degrees), key, int((clock.now + ttl) * 1000) if ttl else 0)
            model.pop(key, None)
            while len(model) >= capacity:
                del model[next(iter(model))]
            model[key] = (scope, degrees, clock.now + ttl if ttl else np.inf)
        elif operation == "remove":
            made.remove(key)
            model.pop(key, None)
        elif operation == "tick":
            clock.now += choice
        else:
            found = made.nearest(scope, at(degrees), 3)
            for gone in [k for k, (s, _, end) in model.items() if s == scope and end <= clock.now]:
                del model[gone]
            cosines = {
                k: np.cos(np.radians(degrees - angle))
                for k, (s, angle, _) in model.items()
                if s == scope
            }
            best = sorted(cosines.values(), reverse=True)[:3]
            assert [match.similarity for match in found] == pytest.approx(best, abs=1e-5)
            assert len({match.key for match in found}) == len(found)
            for match in found:
                assert match.similarity == pytest.approx(cosines[match.key], abs=1e-5)
            if found:
                model[found[0].key] = model.pop(found[0].key)
        assert len(made) == len(model) <= capacity
