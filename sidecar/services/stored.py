"""Whole responses in memory, under the bytes of the requests that they answer."""

from __future__ import annotations

import time
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol

from sidecar.access.caller import scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.access.quotas import Meter
    from sidecar.cache.accounts import Account
    from sidecar.cache.generations import NamespaceState
    from sidecar.cache.hot import HotTier
    from sidecar.services.wire import AgedBytes

_NOTE_EVERY = 16


class _HasInfo(Protocol):
    @property
    def info(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response of hot items, good while its namespace's stamp and its models are the same.

    ``meter`` is charged with ``items`` each time. ``tokens`` are those that the models would have
    read. ``popular`` says whether a repetition of the request counts as a popular query.
    """

    state: NamespaceState
    model: _HasInfo
    info: Any
    response: AgedBytes
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
    it came.
    """

    def __init__(
        self,
        method: str,
        hot: HotTier[Any],
        note: Callable[[str, str, bytes, int], None],
    ) -> None:
        # Calls that were answered whole.
        self.hits = 0
        self.note = note
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
        self.hits += 1
        account = stored.account
        account.whole += stored.items
        account.tokens_saved += stored.tokens
        if stored.popular and not self.hits % _NOTE_EVERY:
            self.note(account.kind, stored.state.name, raw, _NOTE_EVERY)
        return stored.response.at(time.time_ns() // 1_000_000)

    def keep(self, raw: bytes, stored: StoredResponse, *, ttl: float, stamp: int) -> None:
        """Keeps a response for ``ttl`` seconds, under the stamp from before it was looked up."""
        self._hot.put(
            blake2b(raw, digest_size=16, salt=scope(), person=self._person).digest(),
            stored,
            stored.response.size + 100 * stored.items,
            stored.account,
            ttl=ttl,
            stamp=stamp,
        )
