"""Stores and removes documents in Redis, each at once or not at all.

The chunks of a new version are added beside those of the old one, under names that nobody else
has, and belong to nobody until one script makes them the document. Those that do not get there, and
those that were the document before, are garbage: whoever writes next removes it.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sidecar.index.redis_commands import READ_SECONDS, WRITE_SECONDS, script
from sidecar.index.redis_layout import (
    Header,
    decode_document,
    decode_header,
    encode_attributes,
    float32_bytes,
)
from sidecar.index.redis_scripts import ANNOUNCE, CLAIM_GARBAGE, COMMIT, DELETE, READ
from sidecar.index.types import IndexUnavailableError
from sidecar.index.vectors import unit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sidecar.index.redis_commands import Command, RedisCommands
    from sidecar.index.redis_layout import Keys
    from sidecar.index.types import Document, Vector

# How long the chunks of a document may take.
_ADD_SECONDS = 600
_CHUNKS_TOGETHER = 32
# Redis is kept for about 0.2 ms by each.
_GARBAGE_TOGETHER = 16

# Links of a chunk, and how much of the graph is looked at for them. Half of the usual 200 finds the
# same ten best and keeps Redis half as long.
_LINKS = 16
_EFFORT = 100


_CHANGED = b"changed"
_MOST_TRIES = 20


@dataclass(frozen=True, slots=True)
class _Write:
    """A version of a document, with vectors; ``expected`` is the content to be there before."""

    document: Document
    header: Header
    expected: str

    @property
    def elements(self) -> Iterator[_Element]:
        for name, chunk in zip(self.header.elements, self.document.chunks, strict=True):
            if chunk.vector is None:
                raise ValueError("some chunks of a document have vectors and others have none")
            yield _Element(name, encode_attributes(self.document, chunk), chunk.vector)


@dataclass(frozen=True, slots=True)
class _Element:
    name: str
    attributes: bytes
    vector: Vector


class RedisWriter:
    """Changes what is in one collection."""

    def __init__(self, commands: RedisCommands, keys: Keys) -> None:
        self._commands = commands
        self._keys = keys

    async def upsert(self, documents: Sequence[Document]) -> None:
        """As `Index.upsert`."""
        for group in _groups(documents):
            writes = [await self._prepare(document) for document in group]
            await self._add([element for write in writes for element in write.elements])
            for write, outcome in zip(writes, await self._commit(writes), strict=True):
                if outcome == b"gone":
                    raise KeyError(write.document.id)
                if outcome == b"late":
                    raise IndexUnavailableError(
                        "the index lost what it was given, or took too long to store it; try again"
                    )
        await self._remove_garbage()

    async def delete(self, ids: Sequence[str]) -> list[bool]:
        """As `Index.delete`."""
        found = await self._change([(DELETE, one) for one in ids])
        await self._remove_garbage()
        return [bool(there) for there in found]

    async def _prepare(self, document: Document) -> _Write:
        expected = ""
        if document.chunks[0].vector is None:
            expected = document.revision.content.hex()
            document = await self._with_vectors(document)
        header = Header(secrets.token_hex(8), len(document.chunks), document.revision)
        return _Write(document, header, expected)

    async def _with_vectors(self, document: Document) -> Document:
        read = script(READ, self._keys, document.id)
        found = await self._commands.one(read, READ_SECONDS)
        old = decode_document(found[0]) if found else None
        if old is None or old.revision.content != document.revision.content:
            raise KeyError(document.id)
        pairs = zip(document.chunks, old.chunks, strict=True)
        return replace(
            document, chunks=tuple(replace(new, vector=old.vector) for new, old in pairs)
        )

    async def _add(self, elements: Sequence[_Element]) -> None:
        for start in range(0, len(elements), _CHUNKS_TOGETHER):
            together = elements[start : start + _CHUNKS_TOGETHER]
            names = [element.name for element in together]
            raw = [part for one in together for part in (one.name, float32_bytes(one.vector))]
            await self._commands.many(
                [
                    script(ANNOUNCE, self._keys, _ADD_SECONDS, *names),
                    ("HSET", self._keys.raw, *raw),
                ],
                WRITE_SECONDS,
            )
            # One by one, as this takes long and Redis would do them all before it turned to others.
            # Not with CAS, which would have a thread do most of it: a Redis that reads such a
            # command from its append-only file at start crashes (8.2.3).
            for element in together:
                vector = float32_bytes(unit(element.vector))
                add: Command = (
                    *("VADD", self._keys.vectors, "FP32", vector, element.name, "NOQUANT"),
                    *("EF", _EFFORT, "SETATTR", element.attributes, "M", _LINKS),
                )
                await self._commands.one(add, WRITE_SECONDS)

    async def _commit(self, writes: Sequence[_Write]) -> list[Any]:
        return await self._change(
            [(COMMIT, one.document.id, one.header.encode(), one.expected) for one in writes]
        )

    async def _change(self, scripts: Sequence[tuple[str, ...]]) -> list[Any]:
        """The outcomes of scripts, each with the id of its document and more arguments.

        As last argument each is given the write that its document is of, and is repeated if there
        is another one by then.
        """
        outcomes: list[Any] = [_CHANGED] * len(scripts)
        for _ in range(_MOST_TRIES):
            places = [place for place, outcome in enumerate(outcomes) if outcome == _CHANGED]
            if not places:
                return outcomes
            ids = [scripts[place][1] for place in places]
            headers = await self._commands.one(("HMGET", self._keys.documents, *ids), READ_SECONDS)
            changes = [
                script(text, self._keys, *arguments, decode_header(header).write if header else "")
                for (text, *arguments), header in zip(
                    (scripts[place] for place in places), headers, strict=True
                )
            ]
            done = await self._commands.many(changes, WRITE_SECONDS)
            for place, outcome in zip(places, done, strict=True):
                outcomes[place] = outcome
        raise IndexUnavailableError("others change the same documents all the time; try again")

    async def _remove_garbage(self) -> None:
        """Removes what is due. What fails is left for the next."""
        claim = script(CLAIM_GARBAGE, self._keys, _GARBAGE_TOGETHER)
        with suppress(IndexUnavailableError):
            while names := await self._commands.one(claim, WRITE_SECONDS):
                await self._commands.many(
                    [
                        *(("VREM", self._keys.vectors, name) for name in names),
                        ("HDEL", self._keys.raw, *names),
                        ("ZREM", self._keys.garbage, *names),
                    ],
                    WRITE_SECONDS,
                )


def _groups(documents: Sequence[Document]) -> Iterator[list[Document]]:
    """Documents that are stored together: as many as have their chunks sent at once, or one."""
    group: list[Document] = []
    chunks = 0
    for document in documents:
        if group and chunks + len(document.chunks) > _CHUNKS_TOGETHER:
            yield group
            group, chunks = [], 0
        group.append(document)
        chunks += len(document.chunks)
    if group:
        yield group
