"""Whether encoders answer: told by calls, and tried in the background."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

import grpc

from sidecar.cache.breaker import Breaker
from sidecar.demand import within
from sidecar.models.pool_channel import AWAY
from sidecar.models.probed_breaker import ProbedBreaker
from sidecar.models.types import ModelError, ModelUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 0.1, 5.0
_LEAST_WAIT_SECONDS, _SILENCE_SECONDS = 1.0, 5.0


class EncoderWatch:
    """Refuses calls while no encoder answers. Used from one event loop only.

    ``describe`` learns what the model ``name`` is, or raises `ModelError`; ``compute`` computes a
    small input, or raises as a call does; within ``seconds`` they show that an encoder is back.
    """

    def __init__(
        self,
        name: str,
        target: str,
        describe: Callable[[], Awaitable[None]],
        compute: Callable[[], Awaitable[None]],
        seconds: float,
    ) -> None:
        self._target = target
        self._describe = describe
        self._compute = compute
        self._seconds = seconds
        self._unanswered_since: float | None = None
        breaker = Breaker(
            f"encoder {name}",
            first_seconds=_FIRST_RETRY_SECONDS,
            longest_seconds=_LONGEST_RETRY_SECONDS,
        )
        self._breaker = ProbedBreaker(breaker, self._probe)

    def refuse_if_away(self, reason: str) -> None:
        """Raises `ModelUnavailableError` while no encoder answers; ``reason`` if that is known."""
        if not self._breaker.closed:
            raise ModelUnavailableError(
                reason
                or f"the encoder at {self._target} did not answer of late, and is left alone until"
                " it answers again, which is tried in the background: try again later"
            )

    def gone(self, reason: str) -> None:
        """Takes note that no encoder was there when it was asked."""
        self._breaker.trip(reason)

    def sent(self) -> None:
        """Takes note of a call that begins."""
        if self._unanswered_since is None:
            self._unanswered_since = monotonic()

    def answered(self) -> None:
        """Takes note of an answer, whatever it was."""
        self._unanswered_since = None
        self._breaker.succeeded()

    def ended(self, error: grpc.aio.AioRpcError) -> None:
        """Takes note of a call that did not end well."""
        if error.code() in AWAY:
            self._breaker.failed(error.code().name)
        else:
            self.answered()

    def given_up(self, after: float) -> None:
        """Takes note of a call whose caller did not wait for the answer, but so many seconds.

        His call may be a long one. So if nobody has got an answer for a while, a small input tells.
        """
        since = self._unanswered_since
        is_silent = since is not None and monotonic() - since >= _SILENCE_SECONDS
        if after >= _LEAST_WAIT_SECONDS and is_silent:
            self._breaker.suspect("no answer in time")

    async def close(self) -> None:
        """Ends what is tried."""
        await self._breaker.close()

    async def _probe(self) -> bool:
        """Whether an encoder says what the model is, and computes."""
        try:
            await self._describe()
            # It hears of that, and says at once if it has too much to do.
            within(self._seconds)
            async with asyncio.timeout(self._seconds):
                await self._compute()
        except (ModelUnavailableError, TimeoutError):
            return False
        except grpc.aio.AioRpcError as error:
            return error.code() not in AWAY
        except ModelError:
            # That, too, is an answer.
            return True
        return True
