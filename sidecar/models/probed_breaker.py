"""Whether calls go to a server: what a probe in the background has found out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from sidecar.shared_task import create_shared_task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.cache.breaker import Breaker

_log = structlog.get_logger()


class ProbedBreaker:
    """A `Breaker` with a probe that closes it, and that is asked before a suspicion opens it.

    ``probe`` says whether the server is well. Used from one event loop only.
    """

    def __init__(self, breaker: Breaker, probe: Callable[[], Awaitable[bool]]) -> None:
        self._breaker = breaker
        self._probe = probe
        self._task: asyncio.Task[None] | None = None
        self._has_answered = False

    @property
    def closed(self) -> bool:
        """Whether ordinary calls may go through."""
        return self._breaker.closed

    def succeeded(self) -> None:
        """Reports a call that was answered."""
        self._has_answered = True
        self._breaker.succeeded()

    def failed(self, reason: str) -> None:
        """Reports a call that failed, which opens the breaker if it is one of many in a row."""
        self._breaker.failed(reason)
        self._recover()

    def trip(self, reason: str) -> None:
        """Opens the breaker at once."""
        self._breaker.trip(reason)
        self._recover()

    def suspect(self, reason: str) -> None:
        """Reports what may be the callers' fault: opens the breaker if the probe fails, too."""
        if self._is_idle():
            self._task = create_shared_task(self._confirm(reason))

    async def close(self) -> None:
        """Stops probing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def _is_idle(self) -> bool:
        return self._task is None or self._task.done()

    def _recover(self) -> None:
        if not self._breaker.closed and self._is_idle():
            # Not on behalf of the call that found out.
            self._task = create_shared_task(self._breaker.recover(self._probe))

    async def _confirm(self, reason: str) -> None:
        self._has_answered = False
        try:
            is_well = await self._probe()
        except Exception:
            _log.exception("probe failed unexpectedly")
            is_well = False
        if not is_well and not self._has_answered:
            self._breaker.trip(reason)
        # It may have opened meanwhile, too.
        await self._breaker.recover(self._probe)
