"""Log lines that come by the hundred when something goes wrong: one a minute says it all."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_QUIET_SECONDS = 60.0


class OnceAMinute(logging.Filter):
    """Lets a record that begins with ``beginning`` through once a minute, and all others.

    asyncio logs every connection that it cannot take for want of descriptors, with a trace, and
    tries a hundred times in a second.
    """

    def __init__(self, beginning: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._beginning = beginning
        self._clock = clock
        self._quiet_until = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        if not record.getMessage().startswith(self._beginning):
            return True
        now = self._clock()
        if now < self._quiet_until:
            return False
        self._quiet_until = now + _QUIET_SECONDS
        return True
