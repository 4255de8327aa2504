"""A circuit breaker: leaves a failing service alone, and asks now and then whether it is back."""

from __future__ import annotations

import asyncio
import enum
import math
import random
import time
from typing import TYPE_CHECKING
from weakref import WeakSet

import structlog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_log = structlog.get_logger()

# All there are, so that nobody has to hand them through every layer for the sake of metrics.
_breakers: WeakSet[Breaker] = WeakSet()


class BreakerState(enum.Enum):
    """Whether calls go through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Breaker:
    """Closed until ``failures`` calls in a row have failed, then open but for probes.

    A probe is due after a back-off that doubles with every probe that fails, from ``first_seconds``
    to ``longest_seconds``, less up to half of it at random, so that sidecars do not return all at
    once. It goes on doubling if the breaker opens again within ``longest_seconds`` of closing, or
    before an ordinary call has succeeded: a service that answers probes and nothing else is left
    alone as well. Ordinary calls are refused until a probe has succeeded: they never pay for
    finding out.

    For one event loop or one thread; ``clock`` is monotonic, in seconds.
    """

    def __init__(
        self,
        name: str,
        *,
        failures: int = 5,
        first_seconds: float = 0.25,
        longest_seconds: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._name = name
        self._limit = failures
        self._first = first_seconds
        self._longest = longest_seconds
        self._clock = clock
        self._rng = rng
        self._state = BreakerState.CLOSED
        self._failures = 0
        self._backoff = 0.0
        self._retry_at = 0.0
        self._closed_at = -math.inf
        self._has_served = True
        _breakers.add(self)

    @property
    def name(self) -> str:
        """What it stands before."""
        return self._name

    @property
    def state(self) -> BreakerState:
        """The state now; an open breaker stays open until a probe begins."""
        return self._state

    @property
    def closed(self) -> bool:
        """Whether ordinary calls may go through."""
        return self._state is BreakerState.CLOSED

    @property
    def retry_in(self) -> float:
        """Seconds until a probe is due."""
        return max(0.0, self._retry_at - self._clock())

    def succeeded(self) -> None:
        """Reports an ordinary call; ignored if the breaker has opened meanwhile."""
        if self.closed:
            self._failures = 0
            self._has_served = True

    def failed(self, reason: str) -> None:
        """Reports an ordinary call that failed; ``reason`` is logged if this opens the breaker."""
        if self.closed:
            self._failures += 1
            if self._failures >= self._limit:
                self.trip(reason)

    def trip(self, reason: str) -> None:
        """Opens at once, whatever the count."""
        if self.closed:
            lasted = self._has_served and self._clock() - self._closed_at > self._longest
            self._backoff = self._first if lasted else self._next_backoff()
            self._open()
            _log.warning("circuit breaker opened", service=self._name, reason=reason)

    def begin_probe(self) -> bool:
        """Whether the caller is to probe now and to report with `end_probe`: once in a back-off."""
        if self._state is not BreakerState.OPEN or self.retry_in > 0:
            return False
        self._state = BreakerState.HALF_OPEN
        return True

    def end_probe(self, *, succeeded: bool) -> None:
        """Closes the breaker, or opens it for a longer back-off."""
        if self._state is not BreakerState.HALF_OPEN:
            return
        if succeeded:
            self._state = BreakerState.CLOSED
            self._failures = 0
            self._has_served = False
            self._closed_at = self._clock()
            _log.info("circuit breaker closed", service=self._name)
        else:
            self._backoff = self._next_backoff()
            self._open()

    def abandon_probe(self) -> None:
        """Ends a probe that has found out nothing: the next is due at once."""
        if self._state is BreakerState.HALF_OPEN:
            self._state = BreakerState.OPEN

    async def recover(self, probe: Callable[[], Awaitable[bool]]) -> None:
        """Probes in the background until the breaker is closed."""
        while not self.closed:
            await asyncio.sleep(self.retry_in)
            if self.begin_probe():
                try:
                    succeeded = await probe()
                except Exception:
                    # Whatever it was, giving up would leave the breaker open for ever.
                    _log.exception("probe failed unexpectedly", service=self._name)
                    succeeded = False
                self.end_probe(succeeded=succeeded)

    def _next_backoff(self) -> float:
        return min(self._backoff * 2, self._longest)

    def _open(self) -> None:
        self._state = BreakerState.OPEN
        self._retry_at = self._clock() + self._backoff * (1 - self._rng() / 2)


def open_breakers() -> dict[str, bool]:
    """Of each name of a breaker in this process: whether one of that name is not closed.

    To be called on the thread on which breakers are made.
    """
    states: dict[str, bool] = {}
    for breaker in _breakers:
        states[breaker.name] = states.get(breaker.name, False) or not breaker.closed
    return states
