"""SearchService.Upsert and Delete: documents into the index, and word of it to every sidecar."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from embercache.v1 import search_pb2

from sidecar.cache.codec import decode_vector
from sidecar.cache.items import Answer, CacheMode, Tier
from sidecar.cache.keys import digest
from sidecar.index.filters import canonical_scalar
from sidecar.index.types import Chunk, Document, Revision
from sidecar.models.types import ModelError, VersionChangedError
from sidecar.services.errors import CallError, as_call_error, invalid
from sidecar.services.requests import (
    MAX_ID_BYTES,
    MAX_TAGS,
    CacheChoices,
    check_tags,
    decode,
    document_id,
)
from sidecar.services.search_request import read_metadata

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.access.quotas import Quotas
    from sidecar.cache.generations import Generations
    from sidecar.index.types import Collection, Index
    from sidecar.models.types import Embedder, ModelInfo
    from sidecar.services.document_writes import DocumentWriter
    from sidecar.services.embed_request import Item, RequestReader
    from sidecar.services.search_request import SearchReader
    from sidecar.services.vectors import Vectors

_CACHED = CacheChoices(CacheMode.DEFAULT, None, ())
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
        quotas: Quotas,
        writer: DocumentWriter,
        max_items: int,
    ) -> None:
        self._requests = requests
        self._reader = reader
        self._index = index
        self._vectors = vectors
        self._generations = generations
        self._quotas = quotas
        self._writer = writer
        self._max_items = max_items

    async def upsert(self, raw: bytes) -> bytes:
        """Upsert."""
        self._requests.check_size(raw)
        request = decode(search_pb2.UpsertRequest, raw)
        self._check_count(len(request.documents))
        chunks = sum(len(document.chunks) for document in request.documents)
        if chunks > self._max_items:
            raise invalid(
                f"the documents of the call have {chunks} chunks: {self._max_items} are allowed"
                " (server.max_batch_items); send fewer documents in a call"
            )
        if len({document.id for document in request.documents}) < len(request.documents):
            raise invalid("two documents of the call have the same id: send the one that is right")
        self._quotas.charge(self._requests.namespace(request.namespace), len(request.documents))
        try:
            response = await self._upsert(request)
        except VersionChangedError:
            # The encoders moved to another version: its collection is another one.
            response = await self._upsert(request)
        return response.SerializeToString()

    async def delete(self, raw: bytes) -> bytes:
        """Delete."""
        self._requests.check_size(raw)
        request = decode(search_pb2.DeleteRequest, raw)
        self._check_count(len(request.ids))
        ids = [document_id(name) for name in request.ids]
        info = self._requests.model(request.model).info
        collection = self._reader.collection(info, request.namespace, request.collection)
        self._quotas.charge(collection.namespace, len(ids))
        found = await self._writer.delete(collection, ids)
        return search_pb2.DeleteResponse(found=found).SerializeToString()

    def _check_count(self, count: int) -> None:
        if not 1 <= count <= self._max_items:
            raise invalid(
                f"the call names {count} documents: 1 to {self._max_items} are allowed"
                " (server.max_batch_items)"
            )

    async def _upsert(self, request: search_pb2.UpsertRequest) -> search_pb2.UpsertResponse:
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
        return response

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
        check_tags(message.tags, MAX_TAGS)
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
        embed, relabel, there = [], [], []
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
                there.append(draft.document.id)
        await self._embed(collection, embedder, info, embed)
        new = _finished(embed)
        try:
            await self._writer.upsert(
                collection, [*new, *(draft.document for draft in relabel)], repeated=there
            )
        except KeyError:
            # One of those whose content was there went meanwhile.
            await self._embed(collection, embedder, info, relabel)
            await self._writer.upsert(collection, [*new, *_finished(relabel)], repeated=there)

    async def _embed(
        self,
        collection: Collection,
        embedder: Embedder,
        info: ModelInfo,
        drafts: list[_Draft],
    ) -> None:
        """Fetches the vectors of all chunks of all documents together."""
        items = [item for draft in drafts for item in draft.items]
        if not items:
            return
        state = await self._generations.state(collection.namespace)
        answers = await self._vectors.fetch(state, embedder, info, items, _CACHED)
        for answer in answers:
            if isinstance(answer, VersionChangedError):
                # The collection is of the old version: nothing of this call belongs there.
                raise answer
        start = 0
        for draft in drafts:
            end = start + len(draft.items)
            draft.answers = answers[start:end]
            start = end


def _finished(drafts: Sequence[_Draft]) -> list[Document]:
    """The documents with their vectors; fills in the outcomes, of those too that have none."""
    documents = []
    for draft in drafts:
        try:
            documents.append(draft.with_vectors())
        except Exception as error:
            draft.outcome.ClearField("change")
            _set_error(draft.outcome, as_call_error(error))
            continue
        tiers = [answer.tier for answer in draft.answers if isinstance(answer, Answer)]
        draft.outcome.computed = sum(tier in (Tier.COMPUTED, Tier.COALESCED) for tier in tiers)
        draft.outcome.cached = len(tiers) - draft.outcome.computed
    return documents


def _set_error(outcome: search_pb2.Upserted, error: CallError) -> None:
    outcome.error.code, outcome.error.message = error.number, error.message
