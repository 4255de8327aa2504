from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.services.result_list import (
    ResultList,
    first_results,
    pack_results,
    suffices,
    unpack_results,
)

LISTS = st.builds(
    ResultList,
    wanted=st.integers(0, 1000),
    exhausted=st.booleans(),
    truncated=st.booleans(),
    floor=st.floats(-2, 1, width=32),
    model=st.binary(min_size=8, max_size=8),
    vector=st.binary(max_size=20),
    documents=st.frozensets(st.binary(min_size=8, max_size=8), max_size=5),
    query=st.text(max_size=20),
    results=st.lists(st.binary(max_size=10), max_size=6),
)


@given(LISTS)
def test_a_list_comes_back_as_it_was(found: ResultList) -> None:
    assert unpack_results(pack_results(found)) == found


@given(LISTS, st.integers(1, 10))
def test_the_first_results_are_cut_out_as_they_are(found: ResultList, most: int) -> None:
    assert first_results(pack_results(found), most) == b"".join(found.results[:most])


@given(LISTS, st.integers(1, 1000))
def test_a_list_answers_for_all_shorter_ones_and_for_any_if_there_is_no_more(
    found: ResultList, wanted: int
) -> None:
    assert suffices(pack_results(found), wanted) == (found.exhausted or found.wanted >= wanted)
