"""What is an event, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cache.events import Event, MalformedEventError, parse_event

UPDATED = {b"type": b"updated", b"id": b"42"}


def test_what_is_left_out_is_the_default() -> None:
    assert parse_event(UPDATED) == Event("updated", "default", "default", ("42",), ())
    assert parse_event({b"type": b"created"}) == Event("created", "default", "default", (), ())
    empty = dict.fromkeys((b"namespace", b"collection", b"id", b"tag"), b"")
    assert parse_event(empty | UPDATED) == parse_event(UPDATED)


def test_everything_that_is_said_is_in_the_event() -> None:
    fields = {
        b"type": b"deleted",
        b"namespace": b"shop",
        b"collection": b"articles",
        b"id": "a\nb\N{SNOWMAN}".encode(),
        b"tag": b"red\nblue\nred\n",
        b"unheard of": b"ignored",
    }
    expected = Event("deleted", "shop", "articles", ("a\nb\N{SNOWMAN}",), ("red", "blue"))
    assert parse_event(fields) == expected


def test_tags_alone_are_enough() -> None:
    assert parse_event({b"type": b"updated", b"tag": b"red"}).tags == ("red",)


BAD = {
    "nothing": {},
    "no type": {b"id": b"secret"},
    "unknown type": {b"type": b"secret", b"id": b"secret"},
    "updated without a document": {b"type": b"updated"},
    "deleted without a document": {b"type": b"deleted", b"tag": b"\n"},
    "bad namespace": UPDATED | {b"namespace": b"secret/"},
    "long collection": UPDATED | {b"collection": b"secret" * 11},
    "long id": UPDATED | {b"id": b"secret" * 171},
    "long tag": UPDATED | {b"tag": b"secret" * 43},
    "too many tags": UPDATED | {b"tag": b"\n".join(b"secret%d" % n for n in range(1001))},
    "no text": UPDATED | {b"tag": b"secret\xff"},
}


@pytest.mark.parametrize("fields", BAD.values(), ids=BAD.keys())
def test_what_is_wrong_is_told_without_the_content(fields: dict[bytes, bytes]) -> None:
    with pytest.raises(MalformedEventError) as error:
        parse_event(fields)
    assert str(error.value)
    assert "secret" not in str(error.value)


NAMES = st.sampled_from([b"type", b"namespace", b"collection", b"id", b"tag", b"other"])


@given(st.dictionaries(NAMES, st.one_of(st.binary(), st.sampled_from([b"updated", b"created"]))))
def test_anything_is_an_event_or_malformed(fields: dict[bytes, bytes]) -> None:
    try:
        event = parse_event(fields)
    except MalformedEventError:
        return
    assert event.type in {"created", "updated"}
