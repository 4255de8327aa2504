"""Stored responses that the front door gives on its own threads, without asking here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from embercache_native import Answer, Tally

from sidecar import cells
from sidecar.cache.popular import MAX_REQUEST_BYTES
from sidecar.services.stored import NOTE_EVERY, StoredResponses

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.cache.accounts import Account
    from sidecar.cache.hot import HotTier
    from sidecar.services.stored import StoredResponse
    from sidecar.services.wire import AgedBytes

# No name of a namespace holds it.
_BEHIND_NAMESPACE = b"\0"


class FrontAnswers(StoredResponses):
    """The stored responses of one method, which the front door knows, too.

    Those of namespaces whose calls are charged, and perhaps refused, it does not know. What it gave
    counts only when it is settled. ``hot`` is the native tier.
    """

    def __init__(
        self,
        method: str,
        hot: HotTier[Any],
        note: Callable[[str, str, bytes, int], None] | None,
    ) -> None:
        super().__init__(method, hot, note)
        self._native: Any = hot
        self._tracks_popular = note is not None
        self._tallies: dict[Account, Tally] = {}

    def keep(self, raw: bytes, stored: StoredResponse, *, ttl: float, stamp: int) -> None:
        """See `StoredResponses.keep`."""
        if stored.meter.items_per_second or not _has_its_models(stored):
            super().keep(raw, stored, ttl=ttl, stamp=stamp)
            return
        response = cast("AgedBytes", stored.response)
        request = self._request(raw, stored)
        tally = self._tallies.get(stored.account)
        if tally is None:
            tally = self._tallies[stored.account] = Tally()
        answer = Answer(
            response.data,
            response.ages,
            [(stored.state.cell, stamp), (cells.models, cells.models.value)],
            tally,
            stored.items,
            stored.tokens,
            request,
        )
        # In place of the response, whose bytes would else be there twice.
        stored = replace(stored, response=answer)
        key = self._put(raw, stored, response.size + len(request or b""), ttl, stamp)
        self._native.answer(key, answer)

    def settle(self) -> None:
        """See `StoredResponses.settle`."""
        for account, tally in self._tallies.items():
            calls, items, tokens, notes = tally.take()
            self.hits += calls
            account.whole += items
            account.tokens_saved += tokens
            for each in notes:
                namespace, _, raw = each.partition(_BEHIND_NAMESPACE)
                self.note(account.kind, namespace.decode(), raw, NOTE_EVERY)

    def _request(self, raw: bytes, stored: StoredResponse) -> bytes | None:
        """What the tally is to give back of a request that may be popular."""
        if not (stored.popular and self._tracks_popular) or len(raw) > MAX_REQUEST_BYTES:
            return None
        return stored.state.name.encode() + _BEHIND_NAMESPACE + raw


def _has_its_models(stored: StoredResponse) -> bool:
    """Whether the models still are what they were when it was made."""
    if stored.model.info is not stored.info:
        return False
    second = stored.second_model
    return second is None or second.info is stored.second_info
