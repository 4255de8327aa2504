"""What the span of a lookup in Redis says of a Redis that is of no use."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from sidecar.cache.redis_link import WarmUnavailableError
from sidecar.cache.warm import WarmCounters
from sidecar.cache.warm_lookups import WarmLookups
from sidecar.spans import Span, enter, leave

if TYPE_CHECKING:
    from collections.abc import Iterator


class TierSpan(Span):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def lost(self, reason: str) -> None:
        self.reasons.append(reason)


@pytest.fixture
def span() -> Iterator[TierSpan]:
    """The span in which the lookup is made."""
    span = TierSpan()
    token = enter(span)
    yield span
    leave(token)


class Link:
    """A link to a Redis that is down, fails or says nothing."""

    def __init__(self, state: str) -> None:
        self.up = state != "down"
        self._state = state

    async def run(self, _: object) -> list[None]:
        if self._state == "failing":
            raise WarmUnavailableError("failed")
        if self._state == "silent":
            await asyncio.Event().wait()
        return [None]


@pytest.mark.parametrize(
    ("state", "reasons"),
    [
        ("down", ["redis_down"]),
        ("failing", ["redis_failed"]),
        ("silent", ["timeout"]),
        ("well", []),
    ],
)
async def test_the_span_says_why_nothing_was_found(
    state: str, reasons: list[str], span: TierSpan
) -> None:
    timeout = 0.01 if state == "silent" else 30
    lookups = WarmLookups(Link(state), WarmCounters(), timeout=timeout)  # type: ignore[arg-type]
    assert await lookups.get_many([b"key"]) == [None]
    await lookups.close()
    assert span.reasons == reasons
