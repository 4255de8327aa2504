"""Filters of searches: read, and put to every kind of index. All agree on what passes.

The input is a message Filter, raw; and what Hypothesis makes of the same bytes.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from embercache.v1 import search_pb2
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.index.filters import canonical_filter, cost, matches
from sidecar.index.memory_columns import Columns
from sidecar.index.pgvector_filters import condition
from sidecar.index.redis_filters import expressions
from sidecar.services.errors import CallError
from sidecar.services.search_request import read_filter

if TYPE_CHECKING:
    from collections.abc import Iterator

ALLOWED = (CallError, DecodeError)
DOCUMENTS = (
    {},
    {"language": "de", "year": 1999.0, "new": True},
    {"language": "", "year": -0.0, "new": False},
    {"language": 1.0, "year": "1999"},
)

_KEYS = st.sampled_from(["language", "year", "new", "_", "", "a" * 65, "\N{SNOWMAN}"])
_VALUES = st.one_of(
    st.builds(search_pb2.MetadataValue, text=st.sampled_from(["de", "", "x" * 5000, "1999"])),
    st.builds(search_pb2.MetadataValue, number=st.floats()),
    st.builds(search_pb2.MetadataValue, flag=st.booleans()),
    st.builds(search_pb2.MetadataValue),
)
_BOUNDS = st.none() | st.floats()
_EQUAL = st.builds(
    lambda key, value: search_pb2.Filter(equal=search_pb2.Filter.Equal(key=key, value=value)),
    _KEYS,
    _VALUES,
)
_IN = st.builds(
    lambda key, values: search_pb2.Filter(**{"in": search_pb2.Filter.In(key=key, values=values)}),
    _KEYS,
    st.lists(_VALUES, max_size=5),
)
_RANGE = st.builds(
    lambda key, gt, gte, lt, lte: search_pb2.Filter(
        range=search_pb2.Filter.Range(key=key, gt=gt, gte=gte, lt=lt, lte=lte)
    ),
    _KEYS,
    *[_BOUNDS] * 4,
)


def _joined(filters: st.SearchStrategy[search_pb2.Filter]) -> st.SearchStrategy[search_pb2.Filter]:
    few = st.lists(filters, max_size=4)
    return st.one_of(
        few.map(lambda parts: search_pb2.Filter(**{"and": search_pb2.Filter.And(filters=parts)})),
        few.map(lambda parts: search_pb2.Filter(**{"or": search_pb2.Filter.Or(filters=parts)})),
        filters.map(lambda part: search_pb2.Filter(**{"not": part})),
    )


_COLUMNS = Columns()
for _document in DOCUMENTS:
    _COLUMNS.add(_document)


def seeds() -> Iterator[bytes]:
    text = search_pb2.MetadataValue(text="de")
    equal = search_pb2.Filter(equal=search_pb2.Filter.Equal(key="language", value=text))
    number = search_pb2.MetadataValue(number=1999)
    among = search_pb2.Filter(**{"in": search_pb2.Filter.In(key="year", values=[number, text])})
    between = search_pb2.Filter(range=search_pb2.Filter.Range(key="year", gt=1998, lte=2000))
    both = search_pb2.Filter.And(filters=[equal, between])
    one = search_pb2.Filter.Or(filters=[among, search_pb2.Filter(**{"and": both})])
    for each in (equal, among, between, search_pb2.Filter(**{"or": one})):
        yield search_pb2.Filter(**{"not": each}).SerializeToString()


def check(message: search_pb2.Filter) -> None:
    where = read_filter(message)
    again = search_pb2.Filter.FromString(message.SerializeToString())
    assert canonical_filter(read_filter(again)) == canonical_filter(where)
    assert cost(where) >= 1
    expected = [matches(where, document) for document in DOCUMENTS]
    assert _COLUMNS.select(where).tolist() == expected
    condition(where)
    if any(expected):
        assert expressions(where)


@settings(database=None)
@given(st.recursive(st.one_of(_EQUAL, _IN, _RANGE), _joined, max_leaves=12))
def structured(message: search_pb2.Filter) -> None:
    with contextlib.suppress(CallError):
        check(message)


def run(data: bytes) -> None:
    structured.hypothesis.fuzz_one_input(data)
    check(search_pb2.Filter.FromString(data))
