"""Vectors by way of the cache: what Embed answers with, and what Search needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.cache.codec import Codec, Value, encode_vector
from sidecar.cache.items import Policy, Product, Want
from sidecar.cache.keys import KeySpace
from sidecar.models.types import VersionChangedError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from sidecar.access.quotas import Meter, Quotas
    from sidecar.cache.accounts import Account, Accounts
    from sidecar.cache.generations import NamespaceState
    from sidecar.cache.items import Answer
    from sidecar.cache.read_through import ReadThrough
    from sidecar.config import CacheSettings
    from sidecar.models.types import Embedded, Embedder, ModelInfo, ModelInput
    from sidecar.services.embed_request import Item
    from sidecar.services.requests import CacheChoices

KIND = "embed"
_MAX_KEY_SPACES = 10_000


class KeySpaces:
    """The key spaces of one kind of entries, those of all namespaces and versions in use."""

    def __init__(self, kind: str, settings: CacheSettings) -> None:
        self._kind = kind
        self._prefix = settings.prefix
        self._salt = settings.salt.get_secret_value().encode()
        self._spaces: dict[tuple[str, str, str], KeySpace] = {}

    def of(self, namespace: str, model: str, version: str) -> KeySpace:
        """The key space of a namespace and a version of a model."""
        name = (namespace, model, version)
        space = self._spaces.get(name)
        if space is None:
            if len(self._spaces) >= _MAX_KEY_SPACES:
                self._spaces.clear()
            space = self._spaces[name] = KeySpace(
                prefix=self._prefix,
                kind=self._kind,
                namespace=namespace,
                model=model,
                version=version,
                salt=self._salt,
            )
        return space


class _ModelLoader:
    """One version of a model as what the cache computes its misses with."""

    def __init__(self, embedder: Embedder, version: str, codec: Codec, meter: Meter) -> None:
        self._embedder = embedder
        self._version = version
        self._codec = codec
        self._meter = meter

    def submit(self, sources: Sequence[ModelInput]) -> list[asyncio.Future[Embedded]]:
        # The encoders may have moved on while the tiers were asked: the keys are of this version.
        if self._embedder.info.version != self._version:
            raise VersionChangedError(f"the model is no longer in version {self._version}: retry")
        self._meter.admit(len(sources))
        works = self._embedder.submit(sources)
        self._meter.watch(works)
        return works

    def product(self, result: Embedded) -> Product:
        payload = encode_vector(result.vector, self._codec)
        return Product(
            Value(payload, self._codec, len(result.vector), result.tokens, result.truncated)
        )


class Vectors:
    """Fetches the vectors of inputs, from cache where possible."""

    def __init__(
        self, cache: ReadThrough, accounts: Accounts, quotas: Quotas, settings: CacheSettings
    ) -> None:
        self._cache = cache
        self._accounts = accounts
        self._quotas = quotas
        self._settings = settings
        self._codec = Codec[settings.codec.upper()]
        self._codec_name = self._codec.name.encode()
        self._spaces = KeySpaces(KIND, settings)

    def account(self, namespace: str, model: str) -> Account:
        """The account of vectors of a model in a namespace."""
        return self._accounts.of(KIND, namespace, model)

    def keys(
        self, state: NamespaceState, info: ModelInfo, items: Sequence[Item], tags: Sequence[bytes]
    ) -> list[bytes]:
        """The keys of items' entries. Calls that give other tags have entries of their own."""
        space = self._spaces.of(state.name, info.name, info.version)
        epoch = state.epoch_of(KIND, info.name, info.version)
        tags = sorted(tags)
        return [space.key(epoch, self._codec_name, *item.key_parts, *tags) for item in items]

    async def fetch(
        self,
        state: NamespaceState,
        embedder: Embedder,
        info: ModelInfo,
        items: Sequence[Item],
        choices: CacheChoices,
    ) -> list[Answer | Exception]:
        """The entry of each item, in order, or its error.

        `VersionChangedError` where the model is no longer as ``info`` says, `QuotaExceededError`
        where it was to be computed and too many of the namespace's are under way.
        """
        wants = [
            Want(key, item.content, item.source, self._ttl(choices, item))
            for key, item in zip(self.keys(state, info, items, choices.tags), items, strict=True)
        ]
        policy = Policy(choices.mode, choices.tags, self.account(state.name, info.name))
        meter = self._quotas.meter(state.name)
        loader = _ModelLoader(embedder, info.version, self._codec, meter)
        return await self._cache.fetch(state, wants, policy, loader)

    def _ttl(self, choices: CacheChoices, item: Item) -> float | None:
        if choices.ttl is not None:
            return choices.ttl
        return self._settings.document_ttl if item.is_document else self._settings.query_ttl
