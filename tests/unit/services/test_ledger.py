"""What documents were when they were last the same in two places."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.services.ledger import Ledger, revision_fingerprint

names = st.text(max_size=3)
revisions = st.none() | st.integers(1, 2**64 - 1)
entries = st.lists(st.tuples(names, revisions), max_size=40)


@given(st.lists(entries, max_size=4), st.lists(names, max_size=10))
def test_finds_the_last_revision_of_each_document(
    rounds: list[list[tuple[str, int | None]]], asked: list[str]
) -> None:
    ledger, truth = Ledger(), {}
    for added in rounds:
        for name, revision in added:
            ledger.add(name, revision)
            truth[name] = revision
        ledger.close()
    everything = [*truth, *asked]
    assert ledger.find(everything) == [truth.get(name) for name in everything]
    assert len(ledger) == sum(revision is not None for revision in truth.values())


def test_what_is_added_is_not_found_before_the_ledger_is_closed() -> None:
    ledger = Ledger()
    ledger.add("a", 1)
    ledger.close()
    ledger.add("a", 2)
    assert ledger.find(["a"]) == [1]


@given(st.binary(max_size=20))
def test_a_fingerprint_stands_for_something(whole: bytes) -> None:
    assert 0 < revision_fingerprint(whole) < 2**64
