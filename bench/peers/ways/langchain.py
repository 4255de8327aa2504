"""LangChain: CacheBackedEmbeddings over a RedisStore, with the namespace that its page advises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_community.storage import RedisStore
from langchain_core.embeddings import Embeddings

from bench.peers.encoder import Encoder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PACKAGE = "langchain-classic"


class _Embeddings(Embeddings):
    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._encoder(texts)

    def embed_query(self, text: str) -> list[float]:
        return self._encoder([text])[0]


class Opened:
    """Keys are of namespace and text; queries are cached only because we ask for it."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._encoder = Encoder(settings["pack"])
        self._embeddings = CacheBackedEmbeddings.from_bytes_store(
            _Embeddings(self._encoder),
            RedisStore(redis_url=settings["redis"]),
            namespace=settings["model"],
            query_embedding_cache=True,
            key_encoder="sha256",
        )

    def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """The vectors."""
        if len(texts) == 1:
            return [self._embeddings.embed_query(texts[0])]
        return self._embeddings.embed_documents(list(texts))

    def computed(self) -> int:
        """Texts that the encoder has computed."""
        return self._encoder.computed
