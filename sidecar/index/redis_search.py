"""Searches a vector set, with filters, and sees every document whole."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from sidecar.index.filters import matches
from sidecar.index.redis_commands import READ_SECONDS, script
from sidecar.index.redis_filters import expressions
from sidecar.index.redis_layout import (
    Attributes,
    decode_attributes,
    decode_document,
    decode_header,
    float32_bytes,
    lost,
)
from sidecar.index.redis_scripts import READ, STATE
from sidecar.index.types import MAX_TIES, Hit
from sidecar.index.vectors import unit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sidecar.index.filters import Filter
    from sidecar.index.redis_commands import Command, RedisCommands
    from sidecar.index.redis_layout import Keys
    from sidecar.index.types import Document, Vector

# How many of the best the search keeps in sight: more finds more and takes longer.
_EFFORT = 200
_MAX_EFFORT = 1_000_000
# With a filter, all chunks of a collection up to this size are looked at.
_SCANNED = 10_000
# Of a larger one, links are followed from this share first, and all chunks are looked at only if
# the search then has fewer in sight than it could keep: the best may not be among them. Following
# the links of a chunk takes as long as looking at about 30 chunks in a row.
_SHARE = 64
_LEAST_FOLLOWED = 1000

_GROWTH = 8


class RedisSearch:
    """One search. `run` it once."""

    def __init__(
        self,
        commands: RedisCommands,
        keys: Keys,
        vector: Vector,
        count: int,
        where: Filter | None,
    ) -> None:
        self._commands = commands
        self._keys = keys
        self._vector = vector
        self._unit = float32_bytes(unit(vector))
        self._count = count
        self._where = where
        self._followed = _LEAST_FOLLOWED
        # None looks for all there is.
        self._expressions: Sequence[str | None] = (None,) if where is None else expressions(where)

    async def run(self) -> list[Hit]:
        """As `Index.search`."""
        if not self._expressions:
            return []
        # One more than wanted shows whether the last is one of several with the same score.
        asked = self._count + 1
        scan = False
        if self._where is not None:
            size = await self._commands.one(("VCARD", self._keys.vectors), READ_SECONDS)
            scan = size <= _SCANNED
            self._followed = max(size // _SHARE, _LEAST_FOLLOWED)
        while True:
            hits, unseen, short = await self._look(asked, scan=scan)
            if short and not scan:
                # Links may not lead everywhere, or not past all that the filter rejects.
                scan = True
            elif unseen is None or (len(hits) == self._count and hits[-1].score > unseen):
                return hits
            elif len(hits) == self._count:
                tied = await self._tied(hits[-1].score, scan=scan)
                if tied is None:
                    return hits
                asked = max(tied, asked) + 1
            else:
                asked *= _GROWTH
                scan = scan or self._where is not None

    async def _tied(self, score: float, *, scan: bool) -> int | None:
        """How many at most have this score or a higher one, for one expression; None if they are
        too many to be put in order.

        Many a collection has the same words again and again, so their texts are not read yet.
        """
        most = self._count + MAX_TIES
        effort = most if scan else min(2 * most, _MAX_EFFORT)
        replies = await self._commands.many(
            [
                self._command(one, most, effort, scan=scan, attributes=False)
                for one in self._expressions
            ],
            READ_SECONDS,
        )
        tied = max(sum(_cosine(other) >= score for other in reply[1::2]) for reply in replies)
        return tied if tied < most else None

    async def _look(self, asked: int, *, scan: bool) -> tuple[list[Hit], float | None, bool]:
        """The best hits; the highest score that others may have, None if there are no others; and
        whether fewer were found than asked for."""
        effort = asked if scan else min(max(_EFFORT, 2 * asked), _MAX_EFFORT)
        enough = asked if scan or self._where is None else effort
        commands = [self._command(one, enough, effort, scan=scan) for one in self._expressions]
        (clock, _, damaged), *replies = await self._commands.many(
            [script(STATE, self._keys), *commands], READ_SECONDS
        )
        if damaged:
            raise lost()
        # Several expressions may find the same element.
        rows: dict[bytes, _Row] = {}
        unseen: list[float] = []
        short = False
        for reply in replies:
            found = [
                _Row(_cosine(score), decode_attributes(text))
                for score, text in islice(zip(reply[1::3], reply[2::3], strict=True), asked)
            ]
            rows.update(zip(reply[::3], found, strict=False))
            short = short or len(reply) < 3 * enough
            if len(found) == asked:
                unseen.append(found[-1].score)
        hits = [hit for hit in await self._whole(rows, clock) if self._passes(hit)]
        hits.sort(key=lambda hit: (-hit.score, hit.document, hit.chunk))
        return hits[: self._count], max(unseen, default=None), short

    def _command(
        self,
        expression: str | None,
        asked: int,
        effort: int,
        *,
        scan: bool,
        attributes: bool = True,
    ) -> Command:
        command: Command = (
            *("VSIM", self._keys.vectors, "FP32", self._unit, "WITHSCORES"),
            *("COUNT", asked, "EF", effort),
        )
        if attributes:
            command += ("WITHATTRIBS",)
        if expression is not None:
            command += ("FILTER", expression, "FILTER-EF", self._followed)
        return (*command, "TRUTH") if scan else command

    async def _whole(self, rows: Mapping[bytes, _Row], clock: int) -> list[Hit]:
        """The rows that belong to their documents as they are. ``clock`` is older than the rows.

        A document that was changed since may be there in part. It is read as it is now.
        """
        ids = list({row.attributes.document for row in rows.values()})
        if not ids:
            return []
        texts = await self._commands.one(("HMGET", self._keys.documents, *ids), READ_SECONDS)
        pairs = zip(ids, texts, strict=True)
        headers = {name: decode_header(text) for name, text in pairs if text}
        changed = [name for name, header in headers.items() if header.clock > clock]
        valid = {
            name.encode()
            for header in headers.values()
            if header.clock <= clock
            for name in header.elements
        }
        return [
            *(row.hit() for name, row in rows.items() if name in valid),
            *(await self._read(changed)),
        ]

    async def _read(self, ids: Sequence[str]) -> list[Hit]:
        """All chunks of documents, as hits."""
        if not ids:
            return []
        found = await self._commands.one(script(READ, self._keys, *ids), READ_SECONDS)
        return [
            hit for document in map(decode_document, found) for hit in _hits(document, self._vector)
        ]

    def _passes(self, hit: Hit) -> bool:
        return self._where is None or matches(self._where, hit.metadata)


@dataclass(frozen=True, slots=True)
class _Row:
    score: float
    attributes: Attributes

    def hit(self) -> Hit:
        of = self.attributes
        return Hit(of.document, of.chunk, self.score, of.text, of.metadata, of.tags)


def _hits(document: Document, vector: Vector) -> Iterator[Hit]:
    query = unit(vector)
    for chunk in document.chunks:
        if chunk.vector is not None:
            score = float(query @ unit(chunk.vector))
            yield Hit(document.id, chunk.id, score, chunk.text, document.metadata, document.tags)


def _cosine(score: bytes) -> float:
    """From how Redis puts it: 0 for opposite vectors, 1 for equal ones."""
    return max(-1.0, min(1.0, 2 * float(score) - 1))
