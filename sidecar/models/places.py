"""Who may generate: so many at once, within a bound of memory, first come first served."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sidecar.models.engine import closing_error

if TYPE_CHECKING:
    from sidecar.models.prefixes import Prefixes


@dataclass(frozen=True, slots=True)
class _Waiting:
    n_bytes: int
    entered: asyncio.Future[bool]
    unwanted: asyncio.Future[Any]


class Places:
    """``parallel`` places, and memory reserved in ``prefixes``. For one event loop.

    The first who waits is the next, even where one behind him needs less memory: else those who
    need much would wait for ever.
    """

    def __init__(self, parallel: int, prefixes: Prefixes) -> None:
        self.taken = 0
        self._parallel = parallel
        self._prefixes = prefixes
        self._waiting: deque[_Waiting] = deque()
        self._closed = False

    async def enter(self, n_bytes: int, unwanted: asyncio.Future[Any]) -> bool:
        """Waits for a place and memory, to be given back with `leave`.

        Returns False, with neither, if ``unwanted`` is done before. Raises `ModelUnavailableError`
        after `close`. The memory must be less than all there is.
        """
        if self._closed:
            raise closing_error()
        entered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(n_bytes, entered, unwanted))

        def give_up(_: object) -> None:
            if not entered.done():
                entered.set_result(False)
                self._admit()

        unwanted.add_done_callback(give_up)
        self._admit()
        return await entered

    def leave(self, n_bytes: int) -> None:
        """Gives back a place and its memory."""
        self.taken -= 1
        self._prefixes.free(n_bytes)
        self._admit()

    def close(self) -> None:
        """Sends away all who wait."""
        self._closed = True
        for waiting in self._waiting:
            if not waiting.entered.done():
                waiting.entered.set_exception(closing_error())
        self._waiting.clear()

    def _admit(self) -> None:
        while self._waiting:
            first = self._waiting[0]
            if not first.entered.done() and not first.unwanted.done():
                if self.taken == self._parallel or not self._prefixes.reserve(first.n_bytes):
                    return
                self.taken += 1
                first.entered.set_result(True)
            self._waiting.popleft()
