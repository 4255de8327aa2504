"""What every index does: give filters one meaning."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from embercache.v1 import search_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.index.filters import And, In, Not, Or, Range, matches
from sidecar.services.search_request import read_filter

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.index.filters import Filter
    from sidecar.index.types import Collection, Document, Index, Scalar

    MakeDocument = Callable[..., Document]
    NewCollection = Callable[..., Collection]

ALL = 1000
QUERY = np.array([1, 0, 0, 0], np.float32)

SHELF: dict[str, dict[str, Scalar]] = {
    "english": {"lang": "en", "year": 1999.0, "draft": False},
    "german": {"lang": "de", "year": 2005.0, "draft": True},
    "text year": {"lang": "de", "year": "1999"},
    "flags": {"lang": True, "year": True},
    "numbers": {"lang": 1.0, "year": 0.0, "draft": 0.0},
    "negative": {"year": -3.5},
    "bare": {},
}

MEANINGS = [
    (In("lang", ("en",)), {"english"}),
    (In("lang", ("de", "fr")), {"german", "text year"}),
    (In("lang", ("EN",)), set()),
    (In("lang", ("e",)), set()),
    (In("lang", ()), set()),
    (In("none", ("en",)), set()),
    (In("year", (1999.0,)), {"english"}),
    (In("year", (1999,)), {"english"}),
    (In("year", ("1999",)), {"text year"}),
    (In("year", (1999.0, "1999", 7.0)), {"english", "text year"}),
    (In("year", (-0.0,)), {"numbers"}),
    (In("lang", (True,)), {"flags"}),
    (In("lang", (1.0,)), {"numbers"}),
    (In("lang", ("true",)), set()),
    (In("draft", (False,)), {"english"}),
    (In("draft", (0.0,)), {"numbers"}),
    (In("draft", (True, False)), {"english", "german"}),
    (Range("year"), {"english", "german", "numbers", "negative"}),
    (Range("year", above=1999.0), {"german"}),
    (Range("year", least=1999.0), {"english", "german"}),
    (Range("year", below=1999.0), {"numbers", "negative"}),
    (Range("year", most=1999.0), {"english", "numbers", "negative"}),
    (Range("year", above=-3.5, below=2005.0), {"english", "numbers"}),
    (Range("year", least=-3.5, most=2005.0), {"english", "german", "numbers", "negative"}),
    (Range("year", above=0.0, least=2000.0, below=2006.0, most=2005.0), {"german"}),
    (Range("year", least=2006.0, most=2000.0), set()),
    (Range("lang", least=0.0), {"numbers"}),
    (Range("none", least=0.0), set()),
    (Not(In("lang", ("en",))), set(SHELF) - {"english"}),
    (Not(Range("year", least=0.0)), {"text year", "flags", "negative", "bare"}),
    (Not(Not(In("lang", ("en",)))), {"english"}),
    (Not(In("lang", ())), set(SHELF)),
    (And(()), set(SHELF)),
    (Or(()), set()),
    (Not(And(())), set()),
    (Not(Or(())), set(SHELF)),
    (And((In("lang", ("de",)), Range("year", least=2000.0))), {"german"}),
    (And((In("lang", ("de",)), Not(Range("year", least=2000.0)))), {"text year"}),
    (Or((In("lang", ("en",)), In("draft", (True,)))), {"english", "german"}),
    (
        Or((And((In("lang", ("de",)), In("draft", (True,)))), And((Range("year", below=0.0),)))),
        {"german", "negative"},
    ),
    (
        And((Or((In("lang", ("en",)), In("lang", ("de",)))), Not(In("draft", (True,))))),
        {"english", "text year"},
    ),
]


async def test_a_filter_lets_through_what_it_describes_and_nothing_else(
    index: Index, new_collection: NewCollection, document: MakeDocument
) -> None:
    collection = new_collection()
    await index.upsert(
        collection,
        [document(name, [1, i, 0, 0], metadata=SHELF[name]) for i, name in enumerate(SHELF)],
    )
    found = [
        (where, {hit.document for hit in await index.search(collection, QUERY, ALL, where)})
        for where, _ in MEANINGS
    ]
    assert found == MEANINGS


@pytest.mark.parametrize("bound", ["gt", "gte", "lt", "lte"])
@pytest.mark.parametrize("value", [math.inf, -math.inf])
async def test_an_infinite_bound_lets_every_number_through_or_none(
    index: Index, new_collection: NewCollection, document: MakeDocument, bound: str, value: float
) -> None:
    collection = new_collection()
    await index.upsert(
        collection,
        [document(name, [1, i, 0, 0], metadata=SHELF[name]) for i, name in enumerate(SHELF)],
    )
    lets_through = (value > 0) == (bound in ("lt", "lte"))
    another = {"lt": 1999.0} if bound in ("gt", "gte") else {"gt": -3.5}
    of_another = (
        {"numbers", "negative"} if bound in ("gt", "gte") else {"english", "german", "numbers"}
    )
    for bounds, wanted in (
        ({bound: value}, {"english", "german", "numbers", "negative"}),
        ({bound: value} | another, of_another),
    ):
        where = read_filter(search_pb2.Filter(range={"key": "year", **bounds}))
        passing = wanted if lets_through else set()
        for condition, names in ((where, passing), (Not(where), set(SHELF) - passing)):
            hits = await index.search(collection, QUERY, ALL, condition)
            assert {hit.document for hit in hits} == names


async def test_a_filter_applies_to_every_chunk_of_a_document(
    index: Index, new_collection: NewCollection, document: MakeDocument
) -> None:
    collection = new_collection()
    await index.upsert(
        collection,
        [
            document("in", [1, 0, 0, 0], [0, 1, 0, 0], metadata={"a": "x"}),
            document("out", [1, 0, 0, 0], [0, 1, 0, 0], metadata={"a": "y"}),
        ],
    )
    hits = await index.search(collection, QUERY, ALL, In("a", ("x",)))
    assert [(hit.document, hit.chunk) for hit in hits] == [("in", "c0"), ("in", "c1")]


async def test_a_filter_of_many_parts_and_values_is_no_problem(
    index: Index, new_collection: NewCollection, document: MakeDocument
) -> None:
    collection = new_collection()
    await index.upsert(
        collection,
        [document(f"d{i}", [1, i, 0, 0], metadata={"n": i, "s": f"v{i}"}) for i in range(200)],
    )
    where: Filter = In("s", tuple(f"v{i}" for i in range(0, 1000, 2)))
    for i in range(0, 40, 4):
        where = Not(And((Not(where), Not(In("n", (i, i + 1))))))
    hits = await index.search(collection, QUERY, ALL, where)
    assert {hit.document for hit in hits} == {
        f"d{i}" for i in range(200) if i % 2 == 0 or (i < 40 and i % 4 == 1)
    }


FIELDS = st.sampled_from(["a", "b", "_c9"])
NUMBERS = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.1, 1e300, -1e-300, 2.0**53]) | st.floats(
    allow_nan=False, allow_infinity=False
)
STRINGS = st.sampled_from(["", "1", "0.1", "true", "a", "A", "ä", 'x"y', "x'y", "x\\y"]) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5
)
SCALARS = NUMBERS | STRINGS | st.booleans()
BOUNDS = st.none() | NUMBERS
FILTERS = st.recursive(
    st.builds(In, FIELDS, st.lists(SCALARS, max_size=4).map(tuple))
    | st.builds(Range, FIELDS, BOUNDS, BOUNDS, BOUNDS, BOUNDS),
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(And, st.lists(inner, max_size=3).map(tuple))
        | st.builds(Or, st.lists(inner, max_size=3).map(tuple))
    ),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    shelf=st.lists(st.dictionaries(FIELDS, SCALARS), min_size=1, max_size=15),
    data=st.data(),
)
async def test_any_filter_means_for_any_metadata_what_matches_says(
    index: Index,
    new_collection: NewCollection,
    document: MakeDocument,
    shelf: list[dict[str, Scalar]],
    data: st.DataObject,
) -> None:
    collection = new_collection()
    documents = [
        document(f"d{i}", [1, i, 0, 0], metadata=metadata) for i, metadata in enumerate(shelf)
    ]
    await index.upsert(collection, documents)
    filters = data.draw(st.lists(FILTERS, min_size=5, max_size=10))
    for where in filters:
        hits = await index.search(collection, QUERY, ALL, where)
        assert {hit.document for hit in hits} == {
            one.id for one in documents if matches(where, one.metadata)
        }
