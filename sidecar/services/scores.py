"""Scores of rerankers by way of the cache: each pair of a query and a passage on its own."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from sidecar.cache.codec import Codec, Value
from sidecar.cache.items import Policy, Product, Want
from sidecar.models.types import VersionChangedError
from sidecar.services.vectors import KeySpaces

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from sidecar.access.quotas import Meter, Quotas
    from sidecar.cache.accounts import Accounts
    from sidecar.cache.codec import Entry
    from sidecar.cache.generations import NamespaceState
    from sidecar.cache.items import Answer
    from sidecar.cache.read_through import ReadThrough
    from sidecar.config import CacheSettings
    from sidecar.models.types import Pair, Reranker, RerankerInfo
    from sidecar.services.requests import CacheChoices

KIND = "rerank"
_SCORE = struct.Struct("<f")


class _RerankerLoader:
    """One version of a reranker as what the cache computes its misses with."""

    def __init__(self, reranker: Reranker, version: str, meter: Meter) -> None:
        self._reranker = reranker
        self._version = version
        self._meter = meter

    def submit(self, sources: Sequence[Pair]) -> list[asyncio.Future[float]]:
        if self._reranker.info.version != self._version:
            raise VersionChangedError(
                f"the reranker is no longer in version {self._version}: retry"
            )
        self._meter.admit(len(sources))
        works = self._reranker.submit(sources)
        self._meter.watch(works)
        return works

    def product(self, result: float) -> Product:
        payload = _SCORE.pack(result)
        return Product(Value(payload, Codec.BYTES, len(payload), 0, truncated=False))


class Scores:
    """Fetches the scores of pairs, from cache where possible."""

    def __init__(
        self, cache: ReadThrough, accounts: Accounts, quotas: Quotas, settings: CacheSettings
    ) -> None:
        self._cache = cache
        self._accounts = accounts
        self._quotas = quotas
        self._ttl = settings.rerank_ttl
        self._spaces = KeySpaces(KIND, settings)

    async def fetch(
        self,
        state: NamespaceState,
        reranker: Reranker,
        info: RerankerInfo,
        pairs: Sequence[Pair],
        choices: CacheChoices,
    ) -> list[Answer | Exception]:
        """The entry of each pair's score, in order, or its error."""
        space = self._spaces.of(state.name, info.name, info.version)
        epoch = state.epoch_of(KIND, info.name, info.version)
        tags = sorted(choices.tags)
        ttl = self._ttl if choices.ttl is None else choices.ttl
        wants = [
            Want(space.key(epoch, query.encode(), passage.encode(), *tags), b"", pair, ttl)
            for pair in pairs
            for query, passage in (pair,)
        ]
        policy = Policy(choices.mode, choices.tags, self._accounts.of(KIND, state.name, info.name))
        loader = _RerankerLoader(reranker, info.version, self._quotas.meter(state.name))
        return await self._cache.fetch(state, wants, policy, loader)


def score(entry: Entry) -> float:
    """The score in an entry."""
    number: float = _SCORE.unpack(entry.value.payload)[0]
    return number
