"""What a change of documents does to a cached list, against a search made anew."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sidecar.cache.codec import Codec, decode_vector
from sidecar.index.filters import In, matches
from sidecar.services.changes import (
    ANY_MODEL,
    MARGIN,
    MAX_COST,
    Change,
    ListCheck,
    document_digest,
    half_unit,
    model_digest,
    pack_changes,
    touches,
    unpack_changes,
)
from sidecar.services.result_list import ANY_SCORE, ListFacts

MODEL = model_digest("m", "1")
RED = In("colour", ("red",))


def unit(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=24).astype(np.float32)
    return vector / np.linalg.norm(vector)


def found(*, floor: float, documents: list[str], query: np.ndarray) -> ListFacts:
    return ListFacts(
        wanted=len(documents),
        exhausted=floor == ANY_SCORE,
        floor=floor,
        model=MODEL,
        vector=half_unit(query),
        documents=frozenset(map(document_digest, documents)),
        query="",
    )


def change(name: str, *vectors: np.ndarray, model: bytes = MODEL, **metadata: str) -> bytes:
    return pack_changes([Change(model, document_digest(name), metadata, vectors)])


def test_changes_come_back_as_they_were() -> None:
    vector = unit(1)
    changes = [
        Change(MODEL, document_digest("a"), {"n": 1.5, "s": "x", "f": True}, (vector, vector)),
        Change(ANY_MODEL, document_digest("b"), {}, ()),
    ]
    back = unpack_changes(pack_changes(changes))
    assert [(c.model, c.document, c.metadata) for c in back] == [
        (c.model, c.document, c.metadata) for c in changes
    ]
    assert [len(c.vectors) for c in back] == [2, 0]
    np.testing.assert_allclose(back[0].vectors[0], vector, atol=0.001)


@given(
    hnp.arrays(np.float32, st.integers(2, 64), elements=st.floats(-1e6, 1e6, width=32)),
    st.integers(0, 10),
)
def test_the_margin_covers_what_the_short_form_of_vectors_is_off(
    vector: np.ndarray, seed: int
) -> None:
    other = np.random.default_rng(seed).normal(size=len(vector)).astype(np.float32)
    length = np.linalg.norm(vector.astype(np.float64))
    assume(length > 1e-6)
    exact = float(vector.astype(np.float64) @ other / length / np.linalg.norm(other))
    short = [decode_vector(half_unit(each), Codec.FLOAT16) for each in (vector, other)]
    assert abs(float(short[0] @ short[1]) - exact) < MARGIN / 2


def test_changes_in_a_layout_that_is_not_known_touch_every_list() -> None:
    listed = found(floor=0.9, documents=["a"], query=unit(1))
    assert touches([b"\x07 of a later version"], listed, None)
    assert touches([change("b")[:-3]], listed, None)


def test_more_changes_than_there_is_time_for_touch_every_list() -> None:
    listed = found(floor=0.9, documents=["a"], query=unit(1))
    assert not touches([change("b")] * 100, listed, None)
    assert touches([change("b")] * (MAX_COST + 1), listed, None)


def test_a_list_that_has_the_document_is_touched_whatever_became_of_it() -> None:
    listed = found(floor=0.9, documents=["a"], query=unit(1))
    assert touches([change("a")], listed, None)
    assert touches([change("a", -unit(1), colour="blue")], listed, RED)
    assert not touches([change("b")], listed, None)


def test_a_new_document_touches_a_list_that_it_is_near_enough_to_come_into() -> None:
    query = unit(1)
    listed = found(floor=0.5, documents=["a"], query=query)
    assert touches([change("new", query)], listed, None)
    assert not touches([change("new", -query)], listed, None)
    assert touches([change("new", -query, query)], listed, None), "one chunk is enough"


def test_a_list_with_room_is_touched_by_any_new_document() -> None:
    query = unit(1)
    assert touches([change("new", -query)], found(floor=ANY_SCORE, documents=[], query=query), None)


def test_a_new_document_that_the_filter_keeps_out_does_not_touch_the_list() -> None:
    query = unit(1)
    listed = found(floor=0.5, documents=["a"], query=query)
    assert not touches([change("new", query, colour="blue")], listed, RED)
    assert touches([change("new", query, colour="red")], listed, RED)


def test_changes_under_another_model_do_not_touch_the_list() -> None:
    query = unit(1)
    listed = found(floor=0.5, documents=["a"], query=query)
    assert not touches([change("a", query, model=model_digest("m", "2"))], listed, None)
    assert touches([change("a", query, model=ANY_MODEL)], listed, None)


@settings(max_examples=200)
@given(
    stored=st.dictionaries(st.integers(0, 9), st.integers(0, 50), min_size=1),
    changed=st.tuples(st.integers(0, 9), st.none() | st.integers(0, 50)),
    colours=st.lists(st.sampled_from(["red", "blue"]), min_size=10, max_size=10),
    new_colour=st.sampled_from(["red", "blue"]),
    count=st.integers(1, 5),
    filtered=st.booleans(),
)
def test_a_list_that_is_not_touched_is_what_a_new_search_finds(
    stored: dict[int, int],
    changed: tuple[int, int | None],
    colours: list[str],
    new_colour: str,
    count: int,
    filtered: bool,
) -> None:
    query, where = unit(999), RED if filtered else None
    documents = {name: (unit(seed), colours[name]) for name, seed in stored.items()}

    def search() -> list[tuple[float, int]]:
        hits = [
            (float(vector @ query), name)
            for name, (vector, colour) in documents.items()
            if where is None or matches(where, {"colour": colour})
        ]
        return sorted(hits, reverse=True)[:count]

    before = search()
    full = len(before) == count
    listed = found(
        floor=before[-1][0] if full else ANY_SCORE,
        documents=[str(name) for _, name in before],
        query=query,
    )
    name, seed = changed
    if seed is None:
        documents.pop(name, None)
        data = change(str(name))
    else:
        documents[name] = unit(seed), new_colour
        data = change(str(name), unit(seed), colour=new_colour)
    if not touches([data], listed, where):
        assert search() == before


def test_calls_that_allow_other_answers_do_not_share_a_computation() -> None:
    names = {
        ListCheck(wanted, None, semantic).name
        for wanted in (5, 10)
        for semantic in (None, 0.9, 0.95)
    }
    assert len(names) == 6
