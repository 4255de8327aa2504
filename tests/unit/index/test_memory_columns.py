"""Filters over columns, also after documents were dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sidecar.index.filters import And, In, Not, Or, Range, matches
from sidecar.index.memory_columns import Columns

if TYPE_CHECKING:
    from sidecar.index.filters import Filter
    from sidecar.index.types import Scalar

FIELDS = st.sampled_from("abc")
NUMBERS = st.sampled_from([0.0, -0.0, 1.0, 0.1, 1e300, -5e-324])
SCALARS = NUMBERS | st.sampled_from(["", "1", "x", "y"]) | st.booleans()
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


@given(data=st.data(), where=FILTERS)
def test_select_what_matches_while_documents_come_and_go(
    data: st.DataObject, where: Filter
) -> None:
    columns = Columns()
    there: list[dict[str, Scalar]] = []
    for _ in range(3):
        for metadata in data.draw(st.lists(st.dictionaries(FIELDS, SCALARS), max_size=6)):
            columns.add(metadata)
            there.append(metadata)
        kept = data.draw(st.lists(st.booleans(), min_size=len(there), max_size=len(there)))
        columns = columns.keep(np.array(kept, np.bool_))
        there = [metadata for metadata, stays in zip(there, kept, strict=True) if stays]
        assert columns.select(where).tolist() == [matches(where, one) for one in there]
