"""How fast work may go that nobody waits for, so that those who wait come first."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

from sidecar.services.errors import invalid

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

REPORT_SECONDS = 1.0
_FIRST_DELAY = 0.1
_LONGEST_DELAY = 5.0
_ATTEMPTS = 12


class Pace:
    """Spreads items evenly over time, at most ``per_second`` of them; 0 is no limit.

    ``now`` is monotonic, in seconds. Raises `CallError` for a rate that makes no sense.
    """

    def __init__(
        self,
        per_second: float,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if not (math.isfinite(per_second) and per_second >= 0):
            raise invalid("per_second must be a number of items, or 0 for no limit")
        self._per_second = per_second
        self._now = now
        self._sleep = sleep
        self._free_at = -math.inf

    def batch(self, most: int) -> int:
        """How many items to do at once: ``most``, or what may be done in a second if it is less."""
        return min(most, max(1, int(self._per_second))) if self._per_second else most

    async def take(self, items: int) -> None:
        """Waits until so many items may be begun."""
        if not self._per_second:
            return
        now = self._now()
        begin = max(now, self._free_at)
        self._free_at = begin + items / self._per_second
        if begin > now:
            await self._sleep(begin - now)

    async def back_off(self, failures: int) -> bool:
        """Waits before something that failed so often in a row is tried again, longer each time.

        False, and no wait, when it has failed for about half a minute.
        """
        if failures >= _ATTEMPTS:
            return False
        await self._sleep(min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** (failures - 1)))
        return True


async def reports(
    work: asyncio.Task[None], report: Callable[[], bytes]
) -> AsyncGenerator[bytes, None]:
    """What ``report`` returns, once a second while work goes on and when it has ended.

    Raises what the work raises.
    """
    while not (await asyncio.wait({work}, timeout=REPORT_SECONDS))[0]:
        yield report()
    work.result()
    yield report()
