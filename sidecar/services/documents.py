"""SearchService.Upsert and Delete: documents into the index, and word of it to every sidecar."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from embercache.v1 import search_pb2

from sidecar.cache.change_log import MAX_CHANGE_BYTES
from sidecar.cache.codec import decode_vector
from sidecar.cache.items import Answer, CacheMode, Tier
from sidecar.cache.keys import digest
from sidecar.index.filters import canonical_scalar
from sidecar.index.types import Chunk, Document, Revision
from sidecar.models.types import ModelError, VersionChangedError
from sidecar.services.changes import (
    Change,
    collection_tag,
    document_digest,
    model_digest,
    pack_changes,
)
from sidecar.services.errors import CallError, as_call_error, invalid
from sidecar.services.requests import (
    MAX_ID_BYTES,
    MAX_TAGS,
    CacheChoices,
    decode,
    document_id,
    tag_digests,
)
from sidecar.services.search_request import read_metadata

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sidecar.cache.generations import Generations
    from sidecar.index.types import Collection, Index
    from sidecar.models.types import Embedder, ModelInfo
    from sidecar.services.embed_request import Item, RequestReader
    from sidecar.services.search_request import SearchReader
    from sidecar.services.vectors import Vectors

_CACHED = CacheChoices(CacheMode.DEFAULT, None, ())
_ONLY_IF_CACHED = CacheChoices(CacheMode.ONLY_IF_CACHED, None, ())
_Upserted = search_pb2.Upserted


@dataclass(slots=True)
class _Draft:
    """A document on its way into the index; its chunks have no vectors at first."""

    document: Document
    items: list[Item]
    outcome: search_pb2.Upserted
    answers: Sequence[Answer | Exception] = ()

    def with_vectors(self) -> Document:
        """The document with the vectors of its chunks. Raises the error of one that has none."""
        chunks = []
        for chunk, answer in zip(self.document.chunks, self.answers, strict=True):
            if isinstance(answer, Exception):
                raise answer
            value = answer.entry.value
            vector = decode_vector(value.payload, value.codec)
            if not vector.any():
                raise ModelError("the model gave a vector of zeros, which cannot be searched for")
            chunks.append(replace(chunk, vector=vector))
        return replace(self.document, chunks=tuple(chunks))


class DocumentService:
    """Answers Upsert and Delete of search.proto: bytes in, bytes out.

    Raises what `sidecar.services.errors.as_call_error` turns into a status.
    """

    def __init__(
        self,
        *,
        requests: RequestReader,
        reader: SearchReader,
        index: Index,
        vectors: Vectors,
        generations: Generations,
        max_documents: int,
    ) -> None:
        self._requests = requests
        self._reader = reader
        self._index = index
        self._vectors = vectors
        self._generations = generations
        self._max_documents = max_documents

    async def upsert(self, raw: bytes) -> bytes:
        """Upsert."""
        self._requests.check_size(raw)
        request = decode(search_pb2.UpsertRequest, raw)
        self._check_count(len(request.documents))
        if len({document.id for document in request.documents}) < len(request.documents):
            raise invalid("two documents of the call have the same id: send the one that is right")
        embedder = self._requests.model(request.model)
        info = embedder.info
        collection = self._reader.collection(info, request.namespace, request.collection)
        response = search_pb2.UpsertResponse(model=info.name, model_version=info.version)
        drafts = []
        for message in request.documents:
            outcome = response.documents.add()
            try:
                drafts.append(self._draft(message, info, outcome))
            except CallError as error:
                _set_error(outcome, error)
        await self._store(collection, embedder, info, drafts)
        return response.SerializeToString()

    async def delete(self, raw: bytes) -> bytes:
        """Delete."""
        self._requests.check_size(raw)
        request = decode(search_pb2.DeleteRequest, raw)
        self._check_count(len(request.ids))
        ids = [document_id(name) for name in request.ids]
        info = self._requests.model(request.model).info
        collection = self._reader.collection(info, request.namespace, request.collection)
        found = await self._index.delete(collection, ids)
        model = model_digest(info.name, info.version)
        # Those that are gone already too: the call may be a repetition of one that was cut short.
        changes = [Change(model, document_digest(name), {}, ()) for name in ids]
        await announce(self._generations, collection, changes)
        return search_pb2.DeleteResponse(found=found).SerializeToString()

    def _check_count(self, count: int) -> None:
        if not 1 <= count <= self._max_documents:
            raise invalid(
                f"the call names {count} documents: 1 to {self._max_documents} are allowed"
                " (server.max_batch_items)"
            )

    def _draft(
        self, message: search_pb2.Document, info: ModelInfo, outcome: search_pb2.Upserted
    ) -> _Draft:
        name = document_id(message.id)
        chunks = [(chunk.chunk_id, chunk.content) for chunk in message.chunks]
        if not chunks or len({chunk for chunk, _ in chunks}) < len(chunks):
            raise invalid("a document needs at least one chunk, each with another chunk_id")
        if any(len(chunk.encode()) > MAX_ID_BYTES for chunk, _ in chunks):
            raise invalid(f"a chunk_id has at most {MAX_ID_BYTES} bytes")
        metadata = read_metadata(message.metadata)
        tag_digests(message.tags, MAX_TAGS)
        tags = tuple(dict.fromkeys(message.tags))
        prompt = info.prompts.get("document", "")
        items = [self._requests.text(text, prompt, "document") for _, text in chunks]
        # What was embedded too, which other settings make another text of.
        sources = [str(item.source).encode() for item in items]
        content = digest(*(part.encode() for chunk in chunks for part in chunk), *sources)
        fields = [(key.encode(), canonical_scalar(metadata[key])) for key in sorted(metadata)]
        whole = digest(
            content,
            str(len(fields)).encode(),
            *(part for field in fields for part in field),
            *(tag.encode() for tag in tags),
        )
        document = Document(
            id=name,
            chunks=tuple(Chunk(chunk, text, None) for chunk, text in chunks),
            metadata=metadata,
            tags=tags,
            revision=Revision(content, whole),
        )
        return _Draft(document, items, outcome)

    async def _store(
        self, collection: Collection, embedder: Embedder, info: ModelInfo, drafts: list[_Draft]
    ) -> None:
        """Stores what is new of the documents, and fills in their outcomes."""
        stored = await self._index.revisions(collection, [draft.document.id for draft in drafts])
        embed, relabel = [], []
        for draft, revision in zip(drafts, stored, strict=True):
            wanted = draft.document.revision
            if revision is None or revision.content != wanted.content:
                created = revision is None
                draft.outcome.change = (
                    _Upserted.CHANGE_CREATED if created else _Upserted.CHANGE_UPDATED
                )
                embed.append(draft)
            elif revision.whole != wanted.whole:
                draft.outcome.change = _Upserted.CHANGE_UPDATED
                relabel.append(draft)
            else:
                draft.outcome.change = _Upserted.CHANGE_UNCHANGED
        await self._embed(collection, embedder, info, embed, _CACHED)
        await self._embed(collection, embedder, info, relabel, _ONLY_IF_CACHED)
        ready = [(draft, document) for draft in embed if (document := _finished(draft))]
        try:
            if ready:
                await self._index.upsert(collection, [document for _, document in ready])
            await self._relabel(collection, embedder, info, relabel)
        finally:
            # Whatever was stored of it, others must know.
            await announce(self._generations, collection, self._changes(info, drafts))

    async def _relabel(
        self, collection: Collection, embedder: Embedder, info: ModelInfo, drafts: list[_Draft]
    ) -> None:
        """Stores documents whose content is there, but for one that went meanwhile."""
        if not drafts:
            return
        try:
            await self._index.upsert(collection, [draft.document for draft in drafts])
        except KeyError:
            await self._embed(collection, embedder, info, drafts, _CACHED)
            ready = [document for draft in drafts if (document := _finished(draft))]
            await self._index.upsert(collection, ready)

    async def _embed(
        self,
        collection: Collection,
        embedder: Embedder,
        info: ModelInfo,
        drafts: list[_Draft],
        choices: CacheChoices,
    ) -> None:
        """Fetches the vectors of all chunks of all documents together."""
        items = [item for draft in drafts for item in draft.items]
        if not items:
            return
        state = await self._generations.state(collection.namespace)
        answers = await self._vectors.fetch(state, embedder, info, items, choices)
        for answer in answers:
            if isinstance(answer, VersionChangedError):
                # The collection is of the old version: nothing of this call belongs there.
                raise answer
        start = 0
        for draft in drafts:
            end = start + len(draft.items)
            draft.answers = answers[start:end]
            start = end

    def _changes(self, info: ModelInfo, drafts: Iterable[_Draft]) -> list[Change] | None:
        """What was changed; None if that cannot be said for want of vectors."""
        model = model_digest(info.name, info.version)
        changes = []
        for draft in drafts:
            outcome, document = draft.outcome, draft.document
            if outcome.HasField("error") or outcome.change == _Upserted.CHANGE_UNCHANGED:
                continue
            if any(isinstance(answer, Exception) for answer in draft.answers):
                return None
            vectors = tuple(
                chunk.vector for chunk in draft.with_vectors().chunks if chunk.vector is not None
            )
            changes.append(Change(model, document_digest(document.id), document.metadata, vectors))
        return changes


async def announce(
    generations: Generations, collection: Collection, changes: list[Change] | None
) -> None:
    """Invalidates what changes of documents can touch: if they are too many or None, the whole
    collection.

    Raises `InvalidationNotSharedError`.
    """
    tag = collection_tag(collection.name)
    if changes == []:
        state = await generations.state(collection.namespace)
        if tag in state.unshared:
            # The call is a repetition of one whose word did not get out.
            await generations.announce(collection.namespace, tag, b"")
        return
    data = b""
    if changes is not None and sum(_size(change) for change in changes) <= MAX_CHANGE_BYTES:
        data = pack_changes(changes)
    await generations.announce(collection.namespace, tag, data)


def _size(change: Change) -> int:
    """About the bytes of a change, to spare packing what is too large."""
    vectors = sum(len(vector) + 4 for vector in change.vectors)
    return 24 + vectors + len(json.dumps(dict(change.metadata)))


def _finished(draft: _Draft) -> Document | None:
    """The document with its vectors, None if one could not be had; fills in the outcome."""
    try:
        document = draft.with_vectors()
    except Exception as error:
        draft.outcome.ClearField("change")
        _set_error(draft.outcome, as_call_error(error))
        return None
    tiers = [answer.tier for answer in draft.answers if isinstance(answer, Answer)]
    draft.outcome.computed = sum(tier in (Tier.COMPUTED, Tier.COALESCED) for tier in tiers)
    draft.outcome.cached = len(tiers) - draft.outcome.computed
    return document


def _set_error(outcome: search_pb2.Upserted, error: CallError) -> None:
    outcome.error.code, outcome.error.message = error.number, error.message
