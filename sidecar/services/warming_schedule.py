"""Warming at a time of day when there is little to do."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from sidecar.access.caller import enter_nobody
from sidecar.cache.lease import LeaseLostError, LeaseTakenError
from sidecar.cache.redis_link import WarmUnavailableError
from sidecar.services.errors import CallError
from sidecar.services.warming import Warmed

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.cache.lease import Leases
    from sidecar.cache.popular import PopularQueries
    from sidecar.services.warming import Warmer

_LOOK_SECONDS = 30.0
_DAY = 86400

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Window:
    """A part of every day, in seconds since midnight UTC; it may go beyond midnight."""

    opens: int
    seconds: int

    @classmethod
    def parse(cls, text: str) -> Window:
        """The window written as ``HH:MM-HH:MM``; a day, if both are equal."""
        begin, end = (
            int(hours) * 3600 + int(minutes) * 60
            for hours, _, minutes in (time.partition(":") for time in text.split("-"))
        )
        return cls(begin, (end - begin) % _DAY or _DAY)

    def opened(self, now: float) -> float | None:
        """When the window that is open at that moment was opened, None if it is closed.

        Both in seconds since the Unix epoch.
        """
        since = (now - self.opens) % _DAY
        return now - since if since < self.seconds else None


class WarmingSchedule:
    """Warms the popular queries of every namespace, once in each window, in one sidecar of all.

    `run` is a background task. When the window closes before the end, the rest is left out.

    Args:
        queries: how many of each namespace.
        per_second: most queries a second.
        clock: seconds since the Unix epoch.
    """

    def __init__(
        self,
        window: Window,
        warmer: Warmer,
        popular: PopularQueries,
        leases: Leases,
        *,
        queries: int,
        per_second: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._window = window
        self._warmer = warmer
        self._popular = popular
        self._leases = leases
        self._queries = queries
        self._per_second = per_second
        self._clock = clock
        self._done = 0

    async def run(self) -> None:
        """Warms when it is time, until cancelled."""
        while True:
            try:
                await self.look()
            except CallError as error:
                _log.warning("scheduled warming failed: it is tried again", reason=error.message)
            except Exception:
                # The next window may have better luck.
                _log.exception("scheduled warming failed")
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """Warms now, if the window is open and nobody has done it or is doing it."""
        now = self._clock()
        opened = self._window.opened(now)
        if opened is None or round(opened) == self._done:
            return
        number = round(opened)
        left = opened + self._window.seconds - now
        try:
            await self._leases.run(
                f"warming:{number}", lambda: self._warm(left), keep_seconds=left + _LOOK_SECONDS
            )
        except (LeaseTakenError, LeaseLostError, WarmUnavailableError):
            # Another sidecar's turn; should that one die, its lease ends.
            return
        self._done = number

    async def _warm(self, seconds: float) -> None:
        """Warms for so long at most, one namespace after the other."""
        enter_nobody()
        total = Warmed()
        pace = self._warmer.pace(self._per_second)
        _log.info("scheduled warming begins")
        try:
            async with asyncio.timeout(seconds):
                for name in await self._popular.namespaces():
                    requests = await self._warmer.popular(name, self._queries)
                    await self._warmer.repeat(requests, pace, total)
        except TimeoutError:
            _log.warning("the window closed before all was warm: set warming.per_second higher")
        finally:
            _log.info(
                "scheduled warming ends",
                cached=total.cached,
                computed=total.computed,
                failed=total.failed,
                statuses=dict(total.statuses),
            )
