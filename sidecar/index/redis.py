"""The index that all sidecars on one Redis share: vector sets, which Redis has from version 8 on.

Redis works on one command at a time, and the cache may use the same Redis. So no command here keeps
it for long: its threads search, vectors are added one by one (about 1 ms each), and a document is
replaced by the change of one field (see `sidecar.index.redis_layout`).
"""

from __future__ import annotations

import re
import secrets
import time
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import ResponseError

from sidecar.cache.redis_memory import memory_info
from sidecar.index.redis_commands import READ_SECONDS, WRITE_SECONDS, RedisCommands, script
from sidecar.index.redis_layout import (
    Layout,
    collection_digest,
    decode_collection,
    decode_document,
    decode_header,
    encode_collection,
    lost,
)
from sidecar.index.redis_scripts import IDENTIFY, READ, READ_AFTER, STATE
from sidecar.index.redis_search import RedisSearch
from sidecar.index.redis_writes import RedisWriter
from sidecar.index.types import IndexSetupError, IndexUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sidecar.index.filters import Filter
    from sidecar.index.types import Collection, Document, Hit, Revision, Vector

_NO_VECTOR_SETS = (
    "this Redis cannot hold the index, which needs vector sets with attributes: use Redis 8.2 or"
    " later, or set the URL of the index to another place"
)
# Documents that Redis reads as a whole.
_READ_TOGETHER = 64
# The answer is long, and nothing but a warning comes of it.
_LOOK_FOR_EVICTION_SECONDS = 60.0
# In Redis' words, a command or an option of a command.
_UNKNOWN = re.compile("unknown|syntax", re.IGNORECASE)

_log = structlog.get_logger()


class RedisIndex:
    """An `Index` shared by all sidecars on the same Redis.

    Searches are approximate without a filter, and in collections of more than 10,000 chunks also
    with a filter that many of them pass; else exact.

    Args:
        url: as for `sidecar.cache.redis_connect.connect`.
        prefix: the first part of every key. Who has another one sees other documents.
        password_file: holds the password, if the URL does not.

    Raises `RedisUrlError` and `OSError` as `connect` does.
    """

    def __init__(self, url: str, prefix: str, password_file: Path | None = None) -> None:
        self._commands = RedisCommands(url, password_file, when_down=self._doubt)
        self._layout = Layout(prefix)
        self._identity = ""
        self._is_unfit = False
        self._is_evicting = False
        self._look_for_eviction_at = 0.0
        # Whether it is still this one: a Redis that was away may have lost its data.
        self._sure = False
        self._connected = False

    @property
    def identity(self) -> str:
        """As `Index.identity`: of the data that were there when Redis was last asked.

        Raises `IndexUnavailableError` if that never was, `IndexSetupError` if it cannot be.
        """
        if not self._identity:
            if self._is_unfit:
                raise IndexSetupError(_NO_VECTOR_SETS)
            raise IndexUnavailableError("the index (Redis) has not been reached yet; try again")
        return self._identity

    async def start(self) -> None:
        """As `Index.start`. If it raises, it can be called again."""
        if not self._connected:
            self._connected = True
            await self._commands.link.start()
        await self._identify()
        if time.monotonic() >= self._look_for_eviction_at:
            await self._look_for_eviction()
            self._look_for_eviction_at = time.monotonic() + _LOOK_FOR_EVICTION_SECONDS

    async def close(self) -> None:
        """Closes the connections."""
        await self._commands.link.close()

    async def revisions(self, collection: Collection, ids: Sequence[str]) -> list[Revision | None]:
        """As `Index.revisions`."""
        await self._make_sure()
        if not ids:
            return []
        keys = self._layout.keys(collection)
        commands = [script(STATE, keys), ("HMGET", keys.documents, *ids)]
        (_, _, damaged), headers = await self._commands.many(commands, READ_SECONDS)
        if damaged:
            # So that all are stored again, whatever is left of them.
            return [None] * len(ids)
        return [header and decode_header(header).revision for header in headers]

    async def upsert(self, collection: Collection, documents: Sequence[Document]) -> None:
        """As `Index.upsert`; each is stored or not, whatever becomes of the others."""
        if not documents:
            return
        # Asked each time, because then the data can be lost without a connection being lost.
        await self._identify()
        entry = (collection_digest(collection), encode_collection(collection))
        await self._commands.one(("HSET", self._layout.collections, *entry), WRITE_SECONDS)
        await RedisWriter(self._commands, self._layout.keys(collection)).upsert(documents)

    async def delete(self, collection: Collection, ids: Sequence[str]) -> list[bool]:
        """As `Index.delete`; each is removed or not, whatever becomes of the others."""
        await self._make_sure()
        return await RedisWriter(self._commands, self._layout.keys(collection)).delete(ids)

    async def search(
        self, collection: Collection, vector: Vector, count: int, where: Filter | None
    ) -> list[Hit]:
        """As `Index.search`."""
        await self._make_sure()
        keys = self._layout.keys(collection)
        return await RedisSearch(self._commands, keys, vector, count, where).run()

    async def collections(self) -> list[Collection]:
        """As `Index.collections`."""
        await self._make_sure()
        known = await self._commands.one(("HVALS", self._layout.collections), READ_SECONDS)
        found = [decode_collection(text) for text in known]
        states = await self._commands.many(
            [script(STATE, self._layout.keys(one)) for one in found], READ_SECONDS
        )
        return [one for one, (_, stored, _) in zip(found, states, strict=True) if stored]

    async def count(self, collection: Collection) -> int:
        """As `Index.count`."""
        await self._make_sure()
        length = ("HLEN", self._layout.keys(collection).documents)
        count: int = await self._commands.one(length, READ_SECONDS)
        return count

    async def documents(self, collection: Collection, after: str, count: int) -> list[Document]:
        """As `Index.documents`."""
        await self._make_sure()
        keys = self._layout.keys(collection)
        commands = [script(STATE, keys), script(READ_AFTER, keys, after, count)]
        (_, _, damaged), found = await self._commands.many(commands, READ_SECONDS)
        if damaged:
            raise lost()
        return [decode_document(stored) for stored in found]

    async def fetch(self, collection: Collection, ids: Sequence[str]) -> list[Document | None]:
        """As `Index.fetch`."""
        await self._make_sure()
        stored_ones = {}
        for start in range(0, len(ids), _READ_TOGETHER):
            some = ids[start : start + _READ_TOGETHER]
            read = script(READ, self._layout.keys(collection), *some)
            found = await self._commands.one(read, READ_SECONDS)
            for stored in found:
                document = decode_document(stored)
                stored_ones[document.id] = document
        return [stored_ones.get(one) for one in ids]

    def _doubt(self) -> None:
        self._sure = False

    async def _make_sure(self) -> None:
        if not self._sure:
            await self._identify()

    async def _identify(self) -> None:
        """Sees what Redis this is. Raises `IndexSetupError` if it cannot hold an index."""
        if self._identity:
            there = await self._commands.one(("GET", self._layout.identity), WRITE_SECONDS)
            if there == self._identity.encode():
                self._sure = True
                return
        keys = (self._layout.identity, self._layout.trial)
        identify = ("EVAL", IDENTIFY, len(keys), *keys, secrets.token_hex(16))
        try:
            identity = await self._commands.one(identify, WRITE_SECONDS)
        except IndexUnavailableError as error:
            refusal = error.__cause__ and error.__cause__.__cause__
            if isinstance(refusal, ResponseError) and _UNKNOWN.search(str(refusal)):
                self._is_unfit = True
                raise IndexSetupError(_NO_VECTOR_SETS) from None
            raise
        self._is_unfit = False
        self._identity = identity.decode()
        self._sure = True

    async def _look_for_eviction(self) -> None:
        """Warns of a Redis that makes room by removing what is needed."""
        try:
            nodes = await self._commands.run(memory_info, READ_SECONDS)
        except IndexUnavailableError:
            # The user of the index may be forbidden to ask.
            return
        policies = {node["maxmemory_policy"] for node in nodes if node["maxmemory"]}
        evicting = sorted(policy for policy in policies if policy.startswith("allkeys-"))
        if evicting and not self._is_evicting:
            _log.warning(
                "Redis will lose documents of the index when its memory is full",
                maxmemory_policy=", ".join(evicting),
                remedy="set maxmemory-policy to noeviction or volatile-lru, or index.url to"
                " another Redis",
            )
        self._is_evicting = bool(evicting)
