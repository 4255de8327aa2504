"""What filters mean, and when two of them are the same."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.index.filters import And, In, Not, Or, Range, canonical_filter, matches

if TYPE_CHECKING:
    from sidecar.index.filters import Filter
    from sidecar.index.types import Scalar

FIELDS = st.sampled_from("ab")
SCALARS = st.sampled_from(["", "a", "b1", "1", 0.0, -0.0, 1.0, 0.5, True, False])
BOUNDS = st.none() | st.sampled_from([-1.0, 0.0, -0.0, 0.5, 1.0])
FILTERS = st.recursive(
    st.builds(In, FIELDS, st.lists(SCALARS, max_size=3).map(tuple))
    | st.builds(Range, FIELDS, BOUNDS, BOUNDS, BOUNDS, BOUNDS),
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(And, st.lists(inner, max_size=3).map(tuple))
        | st.builds(Or, st.lists(inner, max_size=3).map(tuple))
    ),
    max_leaves=6,
)
METADATA = st.dictionaries(FIELDS, SCALARS)


@pytest.mark.parametrize(
    ("where", "metadata", "passes"),
    [
        (In("a", ("x", "y")), {"a": "y"}, True),
        (In("a", ("x", "y")), {"a": "z"}, False),
        (In("a", ()), {"a": "z"}, False),
        (In("a", ("x",)), {}, False),
        (Not(In("a", ("x",))), {}, True),
        (In("a", (1.0,)), {"a": True}, False),
        (In("a", (True,)), {"a": 1.0}, False),
        (In("a", ("1",)), {"a": 1.0}, False),
        (In("a", (False,)), {"a": False}, True),
        (In("a", ("",)), {"a": ""}, True),
        (In("a", (0.0,)), {"a": -0.0}, True),
        (In("a", (2,)), {"a": 2.0}, True),
        (Range("a"), {"a": 2.0}, True),
        (Range("a"), {"a": "2"}, False),
        (Range("a"), {"a": True}, False),
        (Range("a"), {}, False),
        (Range("a", above=2.0), {"a": 2.0}, False),
        (Range("a", least=2.0), {"a": 2.0}, True),
        (Range("a", below=2.0), {"a": 2.0}, False),
        (Range("a", most=2.0), {"a": 2.0}, True),
        (Range("a", least=0.0), {"a": -0.0}, True),
        (Range("a", above=1.0, most=3.0), {"a": 0.0}, False),
        (Not(Range("a", least=2.0)), {"a": "text"}, True),
        (And(()), {}, True),
        (Or(()), {}, False),
        (And((In("a", ("x",)), In("b", ("y",)))), {"a": "x", "b": "z"}, False),
        (Or((In("a", ("x",)), In("b", ("y",)))), {"a": "x", "b": "z"}, True),
    ],
    ids=str,
)
def test_a_document_passes_if_its_metadata_meet_the_condition(
    where: Filter, metadata: dict[str, Scalar], passes: bool
) -> None:
    assert matches(where, metadata) is passes


@given(where=FILTERS, seed=st.integers())
def test_order_and_repetition_of_parts_do_not_make_another_filter(where: Filter, seed: int) -> None:
    assert canonical_filter(_shuffled(where, random.Random(seed))) == canonical_filter(where)


@given(one=FILTERS, other=FILTERS, documents=st.lists(METADATA, min_size=1, max_size=5))
def test_filters_that_let_other_documents_through_are_never_the_same(
    one: Filter, other: Filter, documents: list[dict[str, Scalar]]
) -> None:
    if canonical_filter(one) == canonical_filter(other):
        for metadata in documents:
            assert matches(one, metadata) == matches(other, metadata)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (None, And(())),
        (And(()), Or(())),
        (In("a", ("1",)), In("a", (1.0,))),
        (In("a", (1.0,)), In("a", (True,))),
        (In("a", ("b1",)), In("a", (True,))),
        (In("ab", ("c",)), In("a", ("bc",))),
        (In("a", ("b", "c")), In("a", ("bc",))),
        (Range("a", above=1.0), Range("a", least=1.0)),
        (Range("a", below=1.0), Range("a", most=1.0)),
        (Range("a", above=0.0), Range("a")),
        (And((In("a", ("b",)),)), Or((In("a", ("b",)),))),
        (Not(In("a", ("b",))), In("a", ("b",))),
    ],
    ids=str,
)
def test_filters_that_look_alike_are_told_apart(one: Filter | None, other: Filter) -> None:
    assert canonical_filter(one) != canonical_filter(other)


def test_both_zeros_and_both_kinds_of_number_are_one() -> None:
    assert canonical_filter(In("a", (0.0, 2))) == canonical_filter(In("a", (2.0, -0.0)))
    assert canonical_filter(Range("a", least=-0.0)) == canonical_filter(Range("a", least=0.0))


def _shuffled(where: Filter, rng: random.Random) -> Filter:
    match where:
        case In(field, values):
            return In(field, _repeated(values, rng))
        case And(conditions) | Or(conditions):
            parts = tuple(_shuffled(part, rng) for part in conditions)
            return type(where)(_repeated(parts, rng))
        case Not(condition):
            return Not(_shuffled(condition, rng))
        case _:
            return where


def _repeated(parts: tuple[object, ...], rng: random.Random) -> tuple[object, ...]:
    more = [*parts, *rng.choices(parts, k=2)] if parts else []
    rng.shuffle(more)
    return tuple(more)
