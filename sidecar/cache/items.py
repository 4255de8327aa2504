"""What the cache is asked and what it answers, and what it needs of tiers and models."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Hashable, Sequence

    from sidecar.cache.accounts import Account
    from sidecar.cache.codec import Entry, Value
    from sidecar.cache.generations import NamespaceState


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
    """What a call asks of the cache, and whose account it is on. ``tags`` are digests.

    Without ``counts``, what was answered is not counted: it serves another item that is.
    """

    mode: CacheMode
    tags: tuple[bytes, ...]
    account: Account
    counts: bool = True


class Check(Protocol):
    """What a call asks of an entry beside its key: not every one under it may do."""

    @property
    def name(self) -> Hashable:
        """Calls whose checks have other names do not share a computation."""
        ...

    def suffices(self, entry: Entry) -> bool:
        """Whether the entry is enough for the call."""
        ...

    def renewed(self, state: NamespaceState, entry: Entry) -> Entry | None:
        """An entry some of whose tags have moved, under their present generations.

        None unless it is known that what moved them left it right.
        """
        ...


@dataclass(frozen=True, slots=True)
class Want:
    """One item that is asked for.

    ``content`` is the digest of what the key does not cover, else empty; ``source`` is what the
    model needs to compute it; ``ttl`` its lifetime in seconds if it is stored, None for ever.
    ``watch`` is given the future of the computation that will answer, if there is to be one, as
    soon as that has begun.
    """

    key: bytes
    content: bytes
    source: Any
    ttl: float | None
    check: Check | None = None
    watch: Callable[[asyncio.Future[Any]], None] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """An entry and what it came from."""

    entry: Entry
    tier: Tier


@dataclass(frozen=True, slots=True)
class Product:
    """What a loader has for an item, and how it is to be stored.

    ``tags`` are digests that come to those of the call; it is not stored unless their generations
    are known. ``most_ttl`` bounds the lifetime, in seconds. With a ``tier``, it was not computed
    but is what that tier had for another item: it is only answered.
    """

    value: Value
    tags: tuple[bytes, ...] = ()
    most_ttl: float | None = None
    tier: Tier | None = None


class Loader(Protocol):
    """Computes what no tier has."""

    def submit(self, sources: Sequence[Any], /) -> Sequence[asyncio.Future[Any]]:
        """Starts the computation of each source and returns at once.

        Cancelling a future tells that nobody wants it. Raises what every item shall fail with
        if none can be computed.
        """
        ...

    def product(self, result: Any, /) -> Product:
        """What a future's result is to the cache."""
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
