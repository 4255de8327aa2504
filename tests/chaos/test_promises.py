"""From when on an old answer is wrong, and which lists of documents are right."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.chaos.parts import REDIS, link
from tests.chaos.promises import CONNECTED, STALENESS, Asked, Change, Documents, Found, Promises
from tests.chaos.timeline import Circumstances, Disturbance, Timeline
from tests.chaos.truth import Truth

A, B = "sidecar-a", "sidecar-b"
TAG = ("tag", "red")
NOTHING = ("namespace",)


def asked(sidecar: str, start: float, *, starts: int = 1, seconds: float = 0.01) -> Asked:
    return Asked(sidecar, starts, start, start + seconds)


def disturbed(*disturbances: tuple[str, str, float, float]) -> Promises:
    """Promises where parts were disturbed from one moment to another."""
    timeline = Timeline(0)
    for part, kind, start, end in disturbances:
        timeline.disturbances.append(Disturbance(part, kind, "", start, end))
    return Promises(Circumstances(timeline))


# An invalidation at A at 100; an entry of the moment 99 is asked for.
@pytest.mark.parametrize(
    ("disturbances", "reader", "allowed_until"),
    [
        pytest.param([], asked(A, 0), 100.01, id="the sidecar that was told obeys at once"),
        pytest.param([], asked(A, 0, starts=2), 101.01, id="not if it was started again"),
        pytest.param([], asked(B, 0), 100.01 + CONNECTED, id="connected"),
        pytest.param(
            [(link(B, REDIS), "cut", 90, 300)], asked(B, 0), 100.01 + STALENESS, id="cut off"
        ),
        pytest.param(
            [(REDIS, "freeze", 99, 300)], asked(B, 0), 100.01 + STALENESS, id="Redis frozen"
        ),
        pytest.param(
            [(B, "freeze", 101, 108)], asked(B, 0), 100.01 + CONNECTED + 7 + 1, id="frozen itself"
        ),
        pytest.param(
            [(link(A, REDIS), "cut", 90, 300)],
            asked(B, 0),
            100.01 + CONNECTED,
            id="another one cut off",
        ),
    ],
)
def test_an_entry_with_tags_may_be_served_until(
    disturbances: list[tuple[str, str, float, float]], reader: Asked, allowed_until: float
) -> None:
    promises = disturbed(*disturbances)
    promises.invalidated(TAG, asked(A, 100))
    for start, is_stale in ((allowed_until - 0.02, False), (allowed_until + 0.02, True)):
        call = asked(reader.sidecar, start, starts=reader.starts)
        found = promises.stale([TAG], call, age=call.end - 99, has_tags=True)
        assert bool(found) == is_stale


def test_an_entry_made_after_the_invalidation_is_right_at_any_time() -> None:
    promises = disturbed()
    promises.invalidated(TAG, asked(A, 100))
    call = asked(B, 150)
    assert promises.stale([TAG], call, age=call.end - 100.05, has_tags=True) == ""


def test_what_has_other_tags_is_not_concerned() -> None:
    promises = disturbed()
    promises.invalidated(TAG, asked(A, 100))
    assert promises.stale([("tag", "blue")], asked(B, 150), age=100, has_tags=True) == ""


def test_without_tags_there_is_no_bound_while_cut_off_but_one_afterwards() -> None:
    promises = disturbed((link(B, REDIS), "cut", 90, 120))
    promises.invalidated(NOTHING, asked(A, 100))
    during, soon, later = (asked(B, moment) for moment in (115, 121, 150))
    for call, is_stale in ((during, False), (soon, False), (later, True)):
        found = promises.stale([NOTHING], call, age=call.end - 99, has_tags=False)
        assert bool(found) == is_stale


# --- Documents ---------------------------------------------------------------------------------

VECTORS = {
    "query": (1.0, 0.0),
    "near": (1.0, 0.1),
    "middling": (1.0, 1.0),
    "far": (0.0, 1.0),
}


@pytest.fixture
def documents() -> Documents:
    """``x`` was "far", then "near" from 100 on; ``y`` is "middling". All in English, told to A."""
    vectors = {text: np.array(vector, np.float32) for text, vector in VECTORS.items()}
    documents = Documents(disturbed(), Truth(vectors, {}))
    documents.history["x"] = [
        Change(1, "far", "en", 10, asked(A, 10)),
        Change(2, "near", "en", 100, asked(A, 100)),
    ]
    documents.history["y"] = [Change(1, "middling", "en", 10, asked(A, 10))]
    return documents


def found(documents: Documents, name: str, version: int, content: str) -> Found:
    return Found(name, version, content, "en", documents.truth.cosine("query", content))


def test_the_list_of_the_documents_as_they_are_is_right(documents: Documents) -> None:
    right = [found(documents, "x", 2, "near"), found(documents, "y", 1, "middling")]
    assert documents.wrong("query", "en", 5, right, asked(B, 150)) == ""
    assert documents.wrong("query", "en", 1, right[:1], asked(B, 150)) == ""


def test_a_list_from_before_a_change_is_right_until_the_bound(documents: Documents) -> None:
    old = [found(documents, "y", 1, "middling"), found(documents, "x", 1, "far")]
    assert documents.wrong("query", "en", 5, old, asked(B, 100.5)) == ""
    assert "too long ago" in documents.wrong("query", "en", 5, old, asked(B, 150))
    assert "too long ago" in documents.wrong("query", "en", 5, old, asked(A, 100.5))


def test_a_document_that_belongs_into_the_list_must_be_in_it(documents: Documents) -> None:
    lacking = [found(documents, "y", 1, "middling")]
    for top_k in (5, 1):
        assert "missing" in documents.wrong("query", "en", top_k, lacking, asked(B, 150))
    # Nor is it wrong to lack what may not have been there.
    assert documents.wrong("query", "en", 1, lacking, asked(B, 100.5)) == ""


def test_a_deleted_document_must_not_be_in_the_list(documents: Documents) -> None:
    documents.history["y"].append(Change(2, None, "", 120, asked(B, 120)))
    right = [found(documents, "x", 2, "near")]
    assert documents.wrong("query", "en", 5, right, asked(A, 150)) == ""
    wrong = [*right, found(documents, "y", 1, "middling")]
    assert "too long ago" in documents.wrong("query", "en", 5, wrong, asked(A, 150))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"score": 0.9}, "score"),
        ({"content": "middling"}, "never such a version"),
        ({"version": 7}, "never such a version"),
        ({"lang": "de"}, "never such a version"),
    ],
)
def test_a_result_must_be_what_was_stored(
    documents: Documents, fields: dict[str, Any], reason: str
) -> None:
    wrong = [replace(found(documents, "x", 2, "near"), **fields)]
    assert reason in documents.wrong("query", "en", 1, wrong, asked(B, 150))


def test_a_result_must_pass_the_filter_and_come_once_and_in_order(documents: Documents) -> None:
    x, y = found(documents, "x", 2, "near"), found(documents, "y", 1, "middling")
    assert "filter" in documents.wrong("query", "de", 5, [x, y], asked(B, 150))
    assert "order" in documents.wrong("query", "en", 5, [y, x], asked(B, 150))
    assert "twice" in documents.wrong("query", "en", 5, [x, x], asked(B, 150))
    assert "too many" in documents.wrong("query", "en", 1, [x, y], asked(B, 150))


def test_after_a_change_that_failed_both_versions_are_right(documents: Documents) -> None:
    documents.history["y"].append(Change(2, "far", "en", 120, None, failed_at=121))
    x = found(documents, "x", 2, "near")
    for version, content in ((1, "middling"), (2, "far")):
        either = [x, found(documents, "y", version, content)]
        assert documents.wrong("query", "en", 5, either, asked(B, 500)) == ""
