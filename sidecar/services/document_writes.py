"""Changes of documents in the index, and word of them to every sidecar: never one alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from sidecar.cache.change_log import MAX_CHANGE_BYTES
from sidecar.cache.generations import InvalidationRefusedError
from sidecar.index.types import IndexFullError, IndexUnavailableError
from sidecar.services.changes import (
    Change,
    collection_tag,
    document_digest,
    model_digest,
    pack_changes,
)
from sidecar.services.doubts import Doubts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine, Iterable, Sequence

    from sidecar.cache.generations import Generations
    from sidecar.cache.keys import Digests
    from sidecar.index.types import Collection, Document, Index, Vector

T = TypeVar("T")

MAX_ANNOUNCEMENTS = 64
"""Of one call. Each takes Redis and the sidecar about 0.1 ms, and every list is held against it."""


class DocumentWriter:
    """Writes to the index, then announces what was changed, also where the index failed.

    Both are one task, which a caller that goes away does not end. Before it, all sidecars are told
    what to expect: so whoever repeats the call, with this sidecar or another, and finds the
    documents there already, sees whether they were announced. What remains: if the process dies
    between the two, or the index is late to do what it failed to confirm, and nobody repeats the
    call, lists may be stale until their lifetime, ``cache.search_ttl``, ends.
    """

    def __init__(self, index: Index, generations: Generations, digests: Digests) -> None:
        self._index = index
        self._digests = digests
        self._generations = generations
        self._running: set[asyncio.Task[Any]] = set()
        # Namespaces and collections whose index has failed to confirm a change.
        self._doubtful: Doubts[tuple[str, str]] = Doubts()

    async def upsert(
        self,
        collection: Collection,
        documents: Sequence[Document],
        most: int | None = MAX_ANNOUNCEMENTS,
        repeated: Sequence[str] = (),
    ) -> None:
        """As `Index.upsert`; with more than ``most`` announcements all lists become invalid.

        ``repeated`` are documents that were found stored just so: it is announced again what did
        not get out, or may have come later than its announcement. Also raises
        `InvalidationNotSharedError`: the documents may be stored then.
        """
        await self._to_the_end(self._upsert(collection, documents, most, repeated))

    async def delete(self, collection: Collection, ids: Sequence[str]) -> list[bool]:
        """As `Index.delete`. Also raises `InvalidationNotSharedError`: they are removed then."""
        model = model_digest(collection.model, collection.version)
        # Those that are gone already too: the call may be a repetition of one that was cut short.
        changes = [Change(model, document_digest(name), {}, ()) for name in ids]
        return await self._to_the_end(
            self._write(collection, self._index.delete(collection, ids), changes, MAX_ANNOUNCEMENTS)
        )

    async def close(self) -> None:
        """Waits for what callers went away from."""
        while self._running:
            await asyncio.wait(self._running)

    async def _to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            # Where the caller went away nobody else looks at it, which asyncio would complain of.
            task.exception()

    async def _upsert(
        self,
        collection: Collection,
        documents: Sequence[Document],
        most: int | None,
        repeated: Sequence[str],
    ) -> None:
        model = model_digest(collection.model, collection.version)
        vectors = await self._stored_vectors(
            collection, [document for document in documents if document.chunks[0].vector is None]
        )
        changes = [
            Change(
                model,
                document_digest(document.id),
                document.metadata,
                vectors.get(document.id) or _vectors(document),
            )
            for document in documents
        ]
        tag = collection_tag(self._digests, collection.name)
        unannounced = await self._generations.expected(
            collection.namespace, tag, [self._name(collection, one) for one in repeated]
        )
        if unannounced.changes:
            self._doubtful.add((collection.namespace, collection.name))
        if not documents:
            await self._announce(collection, [], most)
        else:
            names = [self._name(collection, document.id) for document in documents]
            expectation = await self._generations.expect(collection.namespace, tag, names)
            work = self._index.upsert(collection, documents)
            try:
                await self._write(collection, work, changes, most)
            except IndexFullError:
                # Nothing was changed, and what was to be told of before has been.
                await self._generations.settle(expectation)
                await self._generations.settle(unannounced)
                raise
            await self._generations.settle(expectation)
        await self._generations.settle(unannounced)

    def _name(self, collection: Collection, document: str) -> bytes:
        """What stands for a document of one model where changes are expected."""
        parts = (collection.model, collection.version, document)
        return self._digests.of(b"document", *(part.encode() for part in parts))

    async def _stored_vectors(
        self, collection: Collection, documents: Sequence[Document]
    ) -> dict[str, tuple[Vector, ...]]:
        """The vectors of documents that come without; raises `KeyError` as `Index.upsert` does."""
        if not documents:
            return {}
        stored = await self._index.fetch(collection, [document.id for document in documents])
        vectors = {}
        for document, there in zip(documents, stored, strict=True):
            if there is None or there.revision.content != document.revision.content:
                raise KeyError(document.id)
            vectors[document.id] = _vectors(there)
        return vectors

    async def _write(
        self,
        collection: Collection,
        work: Awaitable[T],
        changes: Sequence[Change],
        most: int | None,
    ) -> T:
        try:
            try:
                return await work
            except IndexFullError:
                # None of it was done.
                changes = []
                raise
            finally:
                # Some of it may be done.
                await self._announce(collection, changes, most)
        except IndexFullError:
            raise
        except (IndexUnavailableError, InvalidationRefusedError):
            # The rest may still come, or nobody was told of it, not even this sidecar.
            self._doubtful.add((collection.namespace, collection.name))
            raise

    async def _announce(
        self, collection: Collection, changes: Sequence[Change], most: int | None
    ) -> None:
        place = (collection.namespace, collection.name)
        tag = collection_tag(self._digests, collection.name)
        state = await self._generations.state(collection.namespace)
        if tag in state.unshared or place in self._doubtful:
            # What these changes are does not say what those were.
            await self._generations.announce(collection.namespace, tag, b"")
            self._doubtful.discard(place)
            return
        groups = split_changes(changes, most)
        if groups is None:
            await self._generations.announce(collection.namespace, tag, b"")
            return
        for group in groups:
            await self._generations.announce(collection.namespace, tag, pack_changes(group))


def split_changes(changes: Iterable[Change], most: int | None) -> list[list[Change]] | None:
    """Changes in groups of at most `MAX_CHANGE_BYTES`, as `pack_changes` packs them.

    The vectors of a document may be spread over several changes of it. None if there are more than
    ``most`` groups, or if a document's metadata and one vector are too large already.
    """
    groups: list[list[Change]] = []
    room = 0
    for change in changes:
        # Together, they take no more than they take alone.
        bare = len(pack_changes([replace(change, vectors=())]))
        least = len(pack_changes([replace(change, vectors=change.vectors[:1])]))
        start, end = 0, len(change.vectors)
        while True:
            if room < least:
                if least > MAX_CHANGE_BYTES or len(groups) == most:
                    return None
                groups.append([])
                room = MAX_CHANGE_BYTES
            count = min(end - start, (room - bare) // (least - bare)) if end else 0
            groups[-1].append(replace(change, vectors=change.vectors[start : start + count]))
            room -= bare + count * (least - bare)
            start += count
            if start == end:
                break
    return groups


def _vectors(document: Document) -> tuple[Vector, ...]:
    return tuple(chunk.vector for chunk in document.chunks if chunk.vector is not None)
