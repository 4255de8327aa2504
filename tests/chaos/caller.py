"""Calls as an application makes them: its own sidecar first, with the client's own retries."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from embercache import PartialFailureError
from embercache.errors import EmbercacheError

from tests.chaos.excuse import AT_A_SIDECAR_THAT_IS_DOWN, excuse, excuses
from tests.chaos.promises import Asked
from tests.chaos.record import FAILED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from embercache.aio import AsyncClient

    from tests.chaos.parts import Server
    from tests.chaos.record import Record
    from tests.chaos.timeline import Circumstances

T = TypeVar("T")

DEADLINE = 10.0
"""What clients give a call, in seconds; of a stream, each answer."""

_ATTEMPTS = 6
# By how much a call may end later than its deadline: this process is late as well.
_LATE = 1.0


@dataclass(frozen=True)
class Reply(Generic[T]):
    """An answer, who gave it and when. ``seconds`` are since the first attempt began."""

    value: T
    asked: Asked
    seconds: float
    sidecar_was_down: bool


class Caller:
    """One application's way to the sidecars.

    A call goes to its own sidecar. If it fails while that was killed, frozen or starting, it is
    repeated with the other one, and so on. Any other failure is a violation, unless `excuse` knows
    why. A call is *held* if nothing would have excused it, whether it failed or not.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        clients: Mapping[str, AsyncClient],
        circumstances: Circumstances,
        record: Record,
    ) -> None:
        self._servers = servers
        self._clients = clients
        self._circumstances = circumstances
        self._record = record

    async def call(
        self,
        kind: str,
        ask: Callable[[AsyncClient], Awaitable[T]],
        *,
        needs: AbstractSet[str],
        batches: Sequence[Sequence[str]] = (),
        hot: Callable[[str, int], AbstractSet[str]] = lambda sidecar, starts: frozenset(),
        deadline: float = DEADLINE,
    ) -> Reply[T] | None:
        """The answer; None if the call has failed, which is noted.

        ``hot`` says of a process, by sidecar and number of the start, which texts of ``batches`` it
        has in memory for sure. ``deadline`` is in seconds, for each attempt.
        """
        began, was_down = time.time(), False
        for attempt in range(_ATTEMPTS):
            server = self._servers[attempt % len(self._servers)]
            start, starts = time.time(), server.starts
            hot_texts = hot(server.name, starts)
            failure: EmbercacheError | None = None
            try:
                value = await ask(self._clients[server.name])
            except EmbercacheError as error:
                failure = error
            asked = Asked(server.name, starts, start, time.time())
            self._hold_to_deadline(kind, asked, deadline)
            is_down = self._circumstances.down(server.name, start, asked.end)
            was_down |= is_down
            if is_down and failure is not None:
                if failure.code in AT_A_SIDECAR_THAT_IS_DOWN:
                    self._record.moved[kind] += 1
                    continue
                self._violated(kind, failure, asked, "at a sidecar that is down, ")
                return None
            found = excuses(self._circumstances, asked, needs, batches, hot_texts)
            self._record.held[kind] += not is_down and not found
            if failure is None:
                self._record.drained += self._circumstances.drained(server.name, start, asked.end)
                return Reply(value, asked, asked.end - began, was_down)
            if why := excuse(failure, found, batches, hot_texts):
                self._record.failed(kind, failure.code, why)
            else:
                words = f"of {len(hot_texts)} texts in memory, " if hot_texts else ""
                self._violated(kind, failure, asked, words)
            return None
        self._record.violated(
            FAILED, f"{kind}: {_ATTEMPTS} attempts at sidecars that were down", began, time.time()
        )
        return None

    def _hold_to_deadline(self, kind: str, asked: Asked, deadline: float) -> None:
        took = asked.end - asked.start
        if took > deadline + _LATE:
            words = f"{kind} at {asked.sidecar}: took {took:.1f} s, its deadline is {deadline:g} s"
            self._record.violated(FAILED, words, asked.start, asked.end)

    def _violated(self, kind: str, error: EmbercacheError, asked: Asked, words: str) -> None:
        reason: Exception = error
        if isinstance(error, PartialFailureError):
            reason = next(iter(error.errors.values()))
        self._record.calls[kind] += 1
        self._record.violated(
            FAILED,
            f"{kind}, {words}at {asked.sidecar}: {type(error).__name__}: {reason}",
            asked.start,
            asked.end,
        )
