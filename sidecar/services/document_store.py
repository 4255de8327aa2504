"""Documents by way of the cache, for whoever moves them about inside the sidecar."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.cache.codec import decode_vector
from sidecar.cache.items import CacheMode
from sidecar.services.changes import Change, document_digest, model_digest
from sidecar.services.documents import announce
from sidecar.services.requests import CacheChoices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.cache.generations import Generations
    from sidecar.index.types import Collection, Document, Index, Vector
    from sidecar.models.types import Embedder
    from sidecar.services.embed_request import RequestReader
    from sidecar.services.vectors import Vectors

_CACHED = CacheChoices(CacheMode.DEFAULT, None, ())


class CachedDocuments:
    """A `DocumentStore`: see `sidecar.services.document_copy`."""

    def __init__(
        self, requests: RequestReader, index: Index, vectors: Vectors, generations: Generations
    ) -> None:
        self._requests = requests
        self._index = index
        self._vectors = vectors
        self._generations = generations

    async def embed_documents(
        self, namespace: str, model: Embedder, texts: Sequence[str]
    ) -> list[Vector | Exception]:
        """See `DocumentStore.embed_documents`."""
        info = model.info
        prompt = info.prompts.get("document", "")
        items = [self._requests.text(text, prompt, "document") for text in texts]
        state = await self._generations.state(namespace)
        answers = await self._vectors.fetch(state, model, info, items, _CACHED)
        return [
            answer
            if isinstance(answer, Exception)
            else decode_vector(answer.entry.value.payload, answer.entry.value.codec)
            for answer in answers
        ]

    async def store(self, collection: Collection, documents: Sequence[Document]) -> None:
        """See `DocumentStore.store`."""
        model = model_digest(collection.model, collection.version)
        try:
            await self._index.upsert(collection, documents)
        finally:
            # Whatever was stored of it, others must know.
            changes = [
                Change(model, document_digest(document.id), document.metadata, _vectors(document))
                for document in documents
            ]
            await announce(self._generations, collection, changes)

    async def remove(self, collection: Collection, ids: Sequence[str]) -> None:
        """See `DocumentStore.remove`."""
        model = model_digest(collection.model, collection.version)
        await self._index.delete(collection, ids)
        changes = [Change(model, document_digest(name), {}, ()) for name in ids]
        await announce(self._generations, collection, changes)


def _vectors(document: Document) -> tuple[Vector, ...]:
    return tuple(chunk.vector for chunk in document.chunks if chunk.vector is not None)
