"""Calls as an application makes them: its own sidecar first, with the client's own retries."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from embercache import PartialFailureError
from embercache.errors import EmbercacheError

from tests.chaos.promises import Asked
from tests.chaos.record import FAILED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from embercache.aio import AsyncClient

    from tests.chaos.parts import Server
    from tests.chaos.record import Record
    from tests.chaos.timeline import Circumstances

T = TypeVar("T")

ENCODER, INDEX = "encoder", "redis"
"""What a call may need beside its sidecar."""

_ATTEMPTS = 6


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
    repeated with the other one, and so on. Any other failure is a violation, unless the call needed
    what could not be reached: an encoder (and the answer was not in the memory of that very process
    for sure), or Redis.
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
        needs: frozenset[str],
        is_hot: Callable[[str, int], bool] = lambda sidecar, starts: False,
    ) -> Reply[T] | None:
        """The answer; None if the call has failed, which is noted.

        ``is_hot`` says of a process, by sidecar and number of the start, whether it had the
        answer in memory for sure.
        """
        began, was_down = time.time(), False
        for attempt in range(_ATTEMPTS):
            server = self._servers[attempt % len(self._servers)]
            start, starts = time.time(), server.starts
            try:
                value = await ask(self._clients[server.name])
            except EmbercacheError as error:
                asked = Asked(server.name, starts, start, time.time())
                if self._circumstances.down(server.name, start, asked.end):
                    was_down = True
                    self._record.moved[kind] += 1
                    continue
                self._note(kind, error, asked, needs, is_hot(server.name, starts))
                return None
            asked = Asked(server.name, starts, start, time.time())
            was_down |= self._circumstances.down(server.name, start, asked.end)
            return Reply(value, asked, asked.end - began, was_down)
        self._record.violated(
            FAILED, f"{kind}: {_ATTEMPTS} attempts at sidecars that were down", began, time.time()
        )
        return None

    def _note(
        self, kind: str, error: EmbercacheError, asked: Asked, needs: frozenset[str], hot: bool
    ) -> None:
        if excuse := self._excuse(asked, needs, hot):
            self._record.failed(kind, error.code, excuse)
            return
        reason = error
        if isinstance(error, PartialFailureError):
            reason = next(iter(error.errors.values()))
        hit = " a hit," if hot else ""
        self._record.calls[kind] += 1
        self._record.violated(
            FAILED,
            f"{kind},{hit} at {asked.sidecar}: {type(error).__name__}: {reason}",
            asked.start,
            asked.end,
        )

    def _excuse(self, asked: Asked, needs: frozenset[str], hot: bool) -> str:
        where = asked.sidecar, asked.start, asked.end
        if ENCODER in needs and not hot and not self._circumstances.encoder_lives(*where):
            return "no living encoder"
        if INDEX in needs and not self._circumstances.redis_reached(*where):
            return "Redis out of reach"
        return ""
