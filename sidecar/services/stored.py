"""Whole responses in memory, under the bytes of the requests that they answer."""

from __future__ import annotations

import time
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol, cast

from sidecar.access.caller import scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from embercache_native import Answer

    from sidecar.access.quotas import Meter
    from sidecar.cache.accounts import Account
    from sidecar.cache.generations import NamespaceState
    from sidecar.cache.hot import HotTier
    from sidecar.services.wire import AgedBytes

NOTE_EVERY = 16
"""Of a popular request, one call in so many is noted, for all of them."""


class _HasInfo(Protocol):
    @property
    def info(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response of hot items, good while its namespace's stamp and its models are the same.

    ``meter`` is charged with ``items`` each time. ``tokens`` are those that the models would have
    read. ``popular`` says whether a repetition of the request counts as a popular query. Who keeps
    it gives `AgedBytes` as the ``response``.
    """

    state: NamespaceState
    model: _HasInfo
    info: Any
    response: AgedBytes | Answer
    items: int
    tokens: int
    account: Account
    meter: Meter
    popular: bool
    second_model: _HasInfo | None = None
    second_info: Any = None


class StoredResponses:
    """The stored responses of one method.

    ``note`` is told of what may become a popular request: its kind, namespace, bytes and how often
    it came. None if that is not tracked.
    """

    def __init__(
        self,
        method: str,
        hot: HotTier[Any],
        note: Callable[[str, str, bytes, int], None] | None,
    ) -> None:
        # Calls that were answered whole.
        self.hits = 0
        self.note = note or _ignore
        self._person = method.encode()
        self._hot = hot

    def get(self, raw: bytes) -> bytes | None:
        """The answer to a request of these very bytes, if it may be given again to this caller.

        Raises `QuotaExceededError`.
        """
        held = self._hot.get(
            blake2b(raw, digest_size=16, salt=scope(), person=self._person).digest()
        )
        if held is None:
            return None
        stored: StoredResponse = held.value
        if held.stamp != stored.state.stamp or stored.model.info is not stored.info:
            return None
        second = stored.second_model
        if second is not None and second.info is not stored.second_info:
            return None
        if stored.meter.items_per_second:
            stored.meter.take(stored.items)
        response = stored.response.at(time.time_ns() // 1_000_000)
        if response is None:
            return None
        self.hits += 1
        account = stored.account
        account.whole += stored.items
        account.tokens_saved += stored.tokens
        if stored.popular and not self.hits % NOTE_EVERY:
            self.note(account.kind, stored.state.name, raw, NOTE_EVERY)
        return response

    def keep(self, raw: bytes, stored: StoredResponse, *, ttl: float, stamp: int) -> None:
        """Keeps a response for ``ttl`` seconds, under the stamp from before it was looked up."""
        self._put(raw, stored, cast("AgedBytes", stored.response).size, ttl, stamp)

    def settle(self) -> None:
        """Counts what others than `get` gave since this was called last: nobody."""

    def _put(self, raw: bytes, stored: StoredResponse, size: int, ttl: float, stamp: int) -> bytes:
        key = blake2b(raw, digest_size=16, salt=scope(), person=self._person).digest()
        size += 100 * stored.items
        self._hot.put(key, stored, size, stored.account, ttl=ttl, stamp=stamp)
        return key


def _ignore(_kind: str, _namespace: str, _request: bytes, _weight: int) -> None:
    """What takes note of popular queries where they are not tracked."""
