"""Messages of outside producers on the stream of events: fields with a byte 255 after each part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.cache.events import MalformedEventError, parse_event

if TYPE_CHECKING:
    from collections.abc import Iterator

ALLOWED = (MalformedEventError,)
TOKENS = ("type", "created", "updated", "deleted", "namespace", "collection", "id", "tag", "\n")


def seeds() -> Iterator[bytes]:
    end = b"\xff"
    yield end.join([b"type", b"updated", b"collection", b"articles", b"id", b"42"])
    yield end.join([b"type", b"created", b"namespace", b"shop", b"tag", b"a\nb\na"])
    yield end.join([b"type", b"deleted", b"tag", b"\n".join(b"%d" % n for n in range(900))])


def run(data: bytes) -> None:
    parts = data.split(b"\xff")
    event = parse_event(dict(zip(parts[::2], parts[1::2], strict=False)))
    assert event.ids or event.tags or event.type == "created"
    assert len(event.tags) <= 1000
