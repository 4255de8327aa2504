"""Documents by way of the cache, for whoever moves them about inside the sidecar."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.cache.codec import decode_vector
from sidecar.cache.items import CacheMode
from sidecar.services.requests import CacheChoices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.cache.generations import Generations
    from sidecar.index.types import Collection, Document, Vector
    from sidecar.models.types import Embedder
    from sidecar.services.document_writes import DocumentWriter
    from sidecar.services.embed_request import RequestReader
    from sidecar.services.vectors import Vectors

_CACHED = CacheChoices(CacheMode.DEFAULT, None, ())


class CachedDocuments:
    """A `DocumentStore`: see `sidecar.services.document_copy`."""

    def __init__(
        self,
        requests: RequestReader,
        vectors: Vectors,
        generations: Generations,
        writer: DocumentWriter,
    ) -> None:
        self._requests = requests
        self._vectors = vectors
        self._generations = generations
        self._writer = writer

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
        # However many announcements: the lists of the model in use are to live on.
        await self._writer.upsert(collection, documents, most=None)

    async def remove(self, collection: Collection, ids: Sequence[str]) -> None:
        """See `DocumentStore.remove`."""
        await self._writer.delete(collection, ids)
