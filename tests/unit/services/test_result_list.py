from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.services.result_list import (
    ListFacts,
    first_results,
    pack_list,
    read_facts,
    suffices,
)

FACTS = st.builds(
    ListFacts,
    wanted=st.integers(0, 1000),
    exhausted=st.booleans(),
    floor=st.floats(-2, 1, width=32),
    model=st.binary(min_size=8, max_size=8),
    vector=st.binary(max_size=20),
    documents=st.frozensets(st.binary(min_size=8, max_size=8), max_size=5),
    query=st.text(max_size=20),
)
RESULTS = st.lists(st.binary(max_size=10), max_size=6)


@given(FACTS, RESULTS)
def test_what_is_known_of_a_list_comes_back_as_it_was(
    facts: ListFacts, results: list[bytes]
) -> None:
    assert read_facts(pack_list(facts, results)) == facts


@given(FACTS, RESULTS, st.integers(1, 10))
def test_the_first_results_are_cut_out_as_they_are(
    facts: ListFacts, results: list[bytes], most: int
) -> None:
    assert first_results(pack_list(facts, results), most) == b"".join(results[:most])


@given(FACTS, RESULTS, st.integers(1, 1000))
def test_a_list_answers_for_all_shorter_ones_and_for_any_if_there_is_no_more(
    facts: ListFacts, results: list[bytes], wanted: int
) -> None:
    enough = facts.exhausted or facts.wanted >= wanted
    assert suffices(pack_list(facts, results), wanted) == enough
