"""What documents were when they were last the same in two collections."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

import sidecar.services.ledger
from sidecar.index.memory import MemoryIndex
from sidecar.index.types import Revision
from sidecar.services.ledger import Ledger, pair, place, revision_fingerprint

PLACE = place("n", "c", pair(("a", "1"), ("b", "2")))

names = st.text(max_size=3)
revisions = st.none() | st.builds(Revision, st.just(b""), st.binary(max_size=2))
entries = st.dictionaries(names, revisions, max_size=40)


@settings(max_examples=50)
@given(st.lists(entries, max_size=4), st.lists(names, max_size=10), st.sampled_from([0, 4096]))
def test_finds_the_last_revision_of_each_document_also_after_a_restart(
    rounds: list[dict[str, Revision | None]], asked: list[str], few: int
) -> None:
    async def run() -> None:
        index = MemoryIndex()
        ledger, truth = Ledger(index, PLACE), {}
        for added in rounds:
            ledger.add(list(added), list(added.values()))
            truth |= added
            await ledger.save()
        restarted = Ledger(index, PLACE)
        await restarted.load()
        everything = [*truth, *asked]
        wanted = [truth.get(name) for name in everything]
        expected = [None if one is None else revision_fingerprint(one) for one in wanted]
        for one in (ledger, restarted):
            assert one.find(everything) == expected
            assert len(one) == sum(revision is not None for revision in truth.values())
        await index.close()

    before = sidecar.services.ledger._FEW
    sidecar.services.ledger._FEW = few
    try:
        asyncio.run(run())
    finally:
        sidecar.services.ledger._FEW = before


async def test_what_is_known_already_is_not_written_again() -> None:
    index = MemoryIndex()
    ledger = Ledger(index, PLACE)
    for _ in range(2):
        ledger.add(["a"], [Revision(b"", b"1")])
        await ledger.save()
    assert len(await index.documents(PLACE, "", 10)) == 1
    await index.close()


def test_the_ledger_of_two_models_is_the_same_in_both_directions() -> None:
    one, other = ("a", "1"), ("b", "2")
    assert pair(one, other) == pair(other, one) != pair(one, ("b", "3"))


@given(st.binary(max_size=20))
def test_a_fingerprint_stands_for_something(whole: bytes) -> None:
    assert 0 < revision_fingerprint(Revision(b"", whole)) < 2**64
