"""RedisVL: a vectorizer with its EmbeddingsCache, which is a hash in Redis for each text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redisvl.extensions.cache.embeddings import EmbeddingsCache
from redisvl.utils.vectorize import CustomVectorizer

from bench.peers.encoder import Encoder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PACKAGE = "redisvl"


class Opened:
    """Keys are of text and model name; the name is ours, as its own vectorizers have one."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        encoder = self._encoder = Encoder(settings["pack"])
        cache = EmbeddingsCache(name="embedcache", redis_url=settings["redis"])
        self._vectorizer = CustomVectorizer(
            embed=lambda text: encoder([text])[0], embed_many=encoder, cache=cache
        )
        self._vectorizer.model = settings["model"]

    def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """The vectors."""
        if len(texts) == 1:
            return [self._vectorizer.embed(texts[0])]
        return self._vectorizer.embed_many(list(texts))

    def computed(self) -> int:
        """Texts that the encoder has computed."""
        return self._encoder.computed
