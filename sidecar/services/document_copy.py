"""Brings the documents of one model to another, and keeps them alike there until the name moves.

Documents change meanwhile, so the copy is made in passes: each looks at every document and does
what is to be done, until one finds nothing. What was alike is kept in a `Ledger`, as in a three-way
merge: so it can be told, also after a restart and on another sidecar, which side has changed a
document, and whether one that is on one side only was removed from the other or is new.

Two things it cannot tell, while the target already has writers of its own: that a document was
written anew there exactly as it was when it was last alike; and that one was removed there which
had not come there yet. Then the source counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import grpc
import numpy as np

from sidecar.index.types import Collection
from sidecar.services.errors import RETRYABLE, CallError, as_call_error
from sidecar.services.ledger import MODEL as LEDGER
from sidecar.services.ledger import Ledger, place, revision_fingerprint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from sidecar.cache.model_moves import ModelVersion
    from sidecar.index.types import Document, Index, Vector
    from sidecar.models.types import Embedder
    from sidecar.services.pace import Pace

_PAGE = 64
_FIRST_PAGE = 4
# Chunks of a page, about: with vectors and texts they come in one answer of the index.
_CHUNKS = 1024
_BATCH = 64


class DocumentStore(Protocol):
    """Documents by way of the cache, as Upsert and Delete of search.proto handle them."""

    async def embed_documents(
        self, namespace: str, model: Embedder, texts: Sequence[str]
    ) -> Sequence[Vector | Exception]:
        """The vector of each text as a document, or its error."""
        ...

    async def store(self, collection: Collection, documents: Sequence[Document]) -> None:
        """Puts documents, which have vectors, into the index; answers they touch become invalid."""
        ...

    async def remove(self, collection: Collection, ids: Sequence[str]) -> None:
        """Takes documents out of the index; answers that list them become invalid."""
        ...


@dataclass(slots=True)
class CopyProgress:
    """Documents of the present pass."""

    done: int = 0
    total: int = 0
    failed: int = 0


class DocumentCopy:
    """Copies documents from ``source`` to ``target``, in ``index``.

    ``ledgers`` are names of ledgers, the one to go by first; the others are told as well.
    Everything raises `CallError`, or what the index raises.
    """

    def __init__(
        self,
        index: Index,
        store: DocumentStore,
        source: ModelVersion,
        target: Embedder,
        pace: Pace,
        ledgers: Sequence[str],
    ) -> None:
        self.progress = CopyProgress()
        self._index = index
        self._store = store
        self._source = source
        self._target = target
        self._info = target.info
        self._pace = pace
        self._names = ledgers
        self._ledgers: dict[tuple[str, str], _Ledgers] = {}

    async def count(self) -> None:
        """Counts the documents that there are, for ``progress``."""
        for source in await self._collections():
            self.progress.total += await self._index.count(source)

    async def run(self, *, target_wins: bool) -> int:
        """Makes a pass; returns how many documents were changed.

        With ``target_wins`` a document that was changed in the target is left as it is; otherwise
        it becomes what it is in the source.
        """
        self.progress.done = self.progress.failed = 0
        changed = 0
        for source in await self._collections():
            ledgers = await self._open(source)
            copied, known = await self._copy(source, ledgers, target_wins)
            changed += copied
            if known < len(ledgers.base):
                changed += await self._remove(source, ledgers, target_wins)
        self.progress.total = self.progress.done
        return changed

    async def _open(self, source: Collection) -> _Ledgers:
        key = (source.namespace, source.name)
        if key not in self._ledgers:
            opened = [Ledger(self._index, place(*key, name)) for name in self._names]
            for ledger in opened:
                await ledger.load()
            self._ledgers[key] = _Ledgers(opened)
        return self._ledgers[key]

    async def _copy(
        self, source: Collection, ledgers: _Ledgers, target_wins: bool
    ) -> tuple[int, int]:
        """Returns how many documents were copied, and how many the ledger knows of the source's."""
        changed = known = 0
        target = self._twin(source)
        async for page in self._pages(source):
            there = await self._index.revisions(target, [document.id for document in page])
            alike: list[Document] = []
            wanted: list[Document] = []
            for document, revision in zip(page, there, strict=True):
                (alike if revision == document.revision else wanted).append(document)
            if target_wins:
                wanted = await self._untouched(target, wanted, ledgers.base)
            ready = await self._with_vectors(target, wanted)
            if target_wins:
                # Embedding takes its time.
                ready = await self._untouched(target, ready, ledgers.base)
                await self._put(target, ready)
                await ledgers.note([*alike, *ready])
            else:
                # First, so that nothing is there of which it is not known who has brought it.
                await ledgers.note([*alike, *ready])
                await self._put(target, ready)
            changed += len(ready)
            self.progress.done += len(page)
            entries = ledgers.base.find([document.id for document in page])
            known += sum(entry is not None for entry in entries)
        return changed, known

    async def _put(self, target: Collection, documents: Sequence[Document]) -> None:
        if documents:
            await self._store.store(target, documents)

    async def _remove(self, source: Collection, ledgers: _Ledgers, target_wins: bool) -> int:
        """Removes from the target what was alike and is gone from the source."""
        changed = 0
        target = self._twin(source)
        async for page in self._pages(target):
            here = await self._index.revisions(source, [document.id for document in page])
            gone = [document for document, it in zip(page, here, strict=True) if it is None]
            known = ledgers.base.find([document.id for document in gone])
            doomed = [
                document.id
                for document, before in zip(gone, known, strict=True)
                if before is not None
                and (not target_wins or before == revision_fingerprint(document.revision))
            ]
            if doomed:
                await self._store.remove(target, doomed)
                await ledgers.forget(doomed)
            changed += len(doomed)
        return changed

    async def _untouched(
        self, target: Collection, documents: Sequence[Document], ledger: Ledger
    ) -> list[Document]:
        """Those that were not changed in the target since they were alike."""
        names = [document.id for document in documents]
        if not names:
            return []
        there = await self._index.revisions(target, names)
        return [
            document
            for document, revision, before in zip(documents, there, ledger.find(names), strict=True)
            if before == (None if revision is None else revision_fingerprint(revision))
        ]

    async def _with_vectors(
        self, target: Collection, documents: Sequence[Document]
    ) -> list[Document]:
        """The documents with vectors of the target's model; without those that have none."""
        texts = [chunk.text for document in documents for chunk in document.chunks]
        vectors = iter(await self._embed(target.namespace, texts))
        ready = []
        for document in documents:
            chunks = [(chunk, next(vectors)) for chunk in document.chunks]
            if all(_is_usable(vector) for _, vector in chunks):
                new = tuple(
                    replace(chunk, vector=vector)
                    for chunk, vector in chunks
                    if not isinstance(vector, Exception)
                )
                ready.append(replace(document, chunks=new))
            else:
                self.progress.failed += 1
        return ready

    async def _embed(self, namespace: str, texts: Sequence[str]) -> list[Vector | Exception]:
        """The vector of each text or its error; what may succeed later is asked for again.

        Raises the error that remains of that.
        """
        results: dict[int, Vector | Exception] = {}
        waiting = list(range(len(texts)))
        failures = 0
        while waiting:
            again, reason = [], None
            for some in _batches(waiting, self._pace.batch(_BATCH)):
                await self._pace.take(len(some))
                answers = await self._ask(namespace, [texts[i] for i in some])
                for i, answer in zip(some, answers, strict=True):
                    failure = as_call_error(answer) if isinstance(answer, Exception) else None
                    if failure is not None and failure.code in RETRYABLE:
                        again.append(i)
                        reason = failure
                    results[i] = answer
            failures += 1
            if reason is not None and not await self._pace.back_off(failures):
                raise reason
            waiting = again
        if self._target.info.version != self._info.version:
            raise CallError(
                grpc.StatusCode.ABORTED,
                f"{self._info.name} has become another version meanwhile: ask again",
            )
        return [results[i] for i in range(len(texts))]

    async def _ask(self, namespace: str, texts: Sequence[str]) -> Sequence[Vector | Exception]:
        try:
            return await self._store.embed_documents(namespace, self._target, texts)
        except Exception as error:
            return [as_call_error(error)] * len(texts)

    async def _collections(self) -> list[Collection]:
        """Those of the source, and those that it had when something was copied from them."""
        model, version = self._source
        found = {}
        for one in await self._index.collections():
            if (one.model, one.version) == self._source:
                found[one.namespace, one.name] = one
            elif (one.model, one.version) == (LEDGER, self._names[0]):
                empty = replace(one, model=model, version=version)
                found.setdefault((one.namespace, one.name), empty)
        return list(found.values())

    def _twin(self, source: Collection) -> Collection:
        info = self._info
        return Collection(source.namespace, source.name, info.name, info.version, info.dimensions)

    async def _pages(self, collection: Collection) -> AsyncIterator[list[Document]]:
        after = ""
        # Small, if it takes long, so that progress is seen.
        most = self._pace.batch(_PAGE)
        count = min(most, _FIRST_PAGE)
        while page := await self._index.documents(collection, after, count):
            yield page
            after = page[-1].id
            # The next ones are about as large.
            chunks = sum(len(document.chunks) for document in page)
            count = max(1, min(most, _CHUNKS * len(page) // chunks))


class _Ledgers:
    """Ledgers that are told the same; ``base`` is the one to go by."""

    def __init__(self, ledgers: Sequence[Ledger]) -> None:
        self.base = ledgers[0]
        self._all = ledgers

    async def note(self, documents: Sequence[Document]) -> None:
        """These are alike."""
        for ledger in self._all:
            ledger.add([one.id for one in documents], [one.revision for one in documents])
            await ledger.save()

    async def forget(self, names: Sequence[str]) -> None:
        """These are gone."""
        for ledger in self._all:
            ledger.add(names, [None] * len(names))
            await ledger.save()


def _is_usable(vector: Vector | Exception) -> bool:
    # An index finds nothing by a vector without direction.
    return not isinstance(vector, Exception) and bool(np.any(vector))


def _batches(numbers: Sequence[int], most: int) -> Iterable[Sequence[int]]:
    return (numbers[start : start + most] for start in range(0, len(numbers), most))
