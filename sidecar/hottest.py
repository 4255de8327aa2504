"""The queries asked most, named by digests: what they ask is never told."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING, Any

from sidecar.cache.keys import Digests
from sidecar.shared_task import create_shared_task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embercache import Stats

    from sidecar.cache.popular import PopularQueries

FRESH_SECONDS = 10.0
MOST_NAMESPACES = 10
MOST_QUERIES = 10
_HEX_DIGITS = 16


class HottestQueries:
    """The `MOST_QUERIES` asked most in the busiest namespaces, read when somebody looks.

    However many look, they are read once in `FRESH_SECONDS`. Digests are keyed with a secret of
    this process, so that nobody can test guesses of a text with them; a restart gives others.
    """

    def __init__(
        self,
        popular: PopularQueries | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._popular = popular
        self._digests = Digests(secrets.token_bytes(32))
        self._clock = clock
        self._read_at = 0.0
        self._reading: asyncio.Task[list[dict[str, Any]]] | None = None

    async def read(self, stats: Stats) -> list[dict[str, Any]] | None:
        """Kind, namespace, digest and about how often; None if queries are not tracked."""
        if self._popular is None:
            return None
        reading = self._reading
        if reading is None or self._clock() - self._read_at > FRESH_SECONDS:
            self._read_at = self._clock()
            reading = self._reading = create_shared_task(self._top(self._popular, _busiest(stats)))
        # Who goes away must not end it for the others.
        return await asyncio.shield(reading)

    async def _top(
        self, popular: PopularQueries, namespaces: Sequence[str]
    ) -> list[dict[str, Any]]:
        found = [query for name in namespaces for query in await popular.top(name, MOST_QUERIES)]
        found.sort(key=lambda each: -each.count)
        return [
            {
                "kind": each.kind,
                "namespace": each.namespace,
                "digest": self._digest(each.kind, each.namespace, each.request),
                "count": each.count,
            }
            for each in found[:MOST_QUERIES]
        ]

    def _digest(self, kind: str, namespace: str, request: bytes) -> str:
        return self._digests.of(kind.encode(), namespace.encode(), request).hex()[:_HEX_DIGITS]


def _busiest(stats: Stats) -> list[str]:
    """The namespaces that asked most."""
    asked: dict[str, int] = {}
    for each in stats.usage:
        asked[each.namespace] = asked.get(each.namespace, 0) + sum(each.answered.values())
    return sorted(asked, key=lambda name: -asked[name])[:MOST_NAMESPACES]
