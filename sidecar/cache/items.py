"""What the cache is asked and what it answers, and what it needs of tiers and models."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from sidecar.cache.codec import Entry, Value


class Tier(Enum):
    """What answered for an item."""

    HOT = "hot"
    DISK = "disk"
    WARM = "warm"
    COMPUTED = "computed"
    COALESCED = "coalesced"


class CacheMode(Enum):
    """How a call uses the cache: see ``CacheMode`` in common.proto."""

    DEFAULT = "default"
    REFRESH = "refresh"
    BYPASS = "bypass"
    NO_STORE = "no_store"
    ONLY_IF_CACHED = "only_if_cached"

    @property
    def reads(self) -> bool:
        """Whether what is stored may answer."""
        return self not in (CacheMode.REFRESH, CacheMode.BYPASS)

    @property
    def stores(self) -> bool:
        """Whether what is computed is stored."""
        return self in (CacheMode.DEFAULT, CacheMode.REFRESH)


class NotCachedError(Exception):
    """The item is not in any tier, and the call did not want it computed."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What a call asks of the cache. ``tags`` are digests."""

    mode: CacheMode
    tags: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Want:
    """One item that is asked for.

    ``content`` is the digest of what the key does not cover, else empty; ``source`` is what the
    model needs to compute it; ``ttl`` its lifetime in seconds if it is stored, None for ever.
    """

    key: bytes
    content: bytes
    source: Any
    ttl: float | None


@dataclass(frozen=True, slots=True)
class Answer:
    """An entry and what it came from."""

    entry: Entry
    tier: Tier


class Loader(Protocol):
    """Computes what no tier has."""

    def submit(self, sources: Sequence[Any], /) -> Sequence[asyncio.Future[Any]]:
        """Starts the computation of each source and returns at once.

        Cancelling a future tells that nobody wants it. Raises what every item shall fail with
        if none can be computed.
        """
        ...

    def value(self, result: Any, /) -> Value:
        """What to store of a future's result."""
        ...


class LowerTier(Protocol):
    """A tier below memory. It never fails: it counts an outage, and finds nothing."""

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The bytes under each key."""
        ...

    def put(self, key: bytes, value: bytes, expires_ms: int, *, replace: bool) -> None:
        """Queues a write; without ``replace`` an entry that is there stays."""
        ...

    def delete(self, keys: Sequence[bytes]) -> None:
        """Queues a removal."""
        ...
