"""When a call of an OpenAI-compatible service is made again, and when the service is left alone.

Not left to the SDK, whose repetitions know nothing of each other: a service in trouble would get
several times the calls.
"""

from __future__ import annotations

import email.utils
import math
import random
import time
from asyncio import sleep
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

import openai

from sidecar.cache.breaker import Breaker
from sidecar.demand import demand
from sidecar.models.probed_breaker import ProbedBreaker
from sidecar.models.types import ModelUnavailableError, QueueFullError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

# A call under way keeps others from being made, so it is not one that waits for long.
_FIRST_SECONDS, _LONGEST_SECONDS = 0.5, 2.0
# For so long at most a service is believed that no call is of use.
_LONGEST_ASKED_SECONDS = 60.0
_FAILURES = 5
_MAY_SUCCEED_LATER = (408, 409, 429)
_SHARE, _SAVED = 0.1, 10.0


class RepetitionBudget:
    """What all calls together may spend on repetitions: a token bucket.

    Each call earns ``share`` of a repetition, and up to ``saved`` of them are kept.
    """

    def __init__(self, share: float = _SHARE, saved: float = _SAVED) -> None:
        self._share = share
        self._most = self._held = saved

    def earn(self) -> None:
        """Takes note of a call."""
        self._held = min(self._most, self._held + self._share)

    def spend(self) -> bool:
        """Whether there is a repetition to be had, which is gone then."""
        if self._held < 1:
            return False
        self._held -= 1
        return True


class Repeats:
    """Makes calls of one service, again up to ``most`` times where that may help.

    After five failures in a row ``probe`` is tried, in the background: what fails may be the input
    of one caller. If it fails, too, calls are refused until it succeeds. Calls are also refused for
    as long as a service asks for that has too many. Used from one event loop.
    """

    def __init__(self, host: str, most: int, probe: Callable[[], Awaitable[bool]]) -> None:
        self._host = host
        self._most = most
        self._budget = RepetitionBudget()
        self._breaker = ProbedBreaker(Breaker(f"openai {host}"), probe)
        self._failures = 0
        self._refused_until = -math.inf

    async def run(self, call: Callable[[], Awaitable[T]]) -> T:
        """The result of a call; whether it is of use is said by `succeeded` and `failed`.

        Raises what the last call raised, `QueueFullError` while the service wants no calls, or
        `ModelUnavailableError` while it is left alone.
        """
        self._budget.earn()
        taken = 0
        while True:
            if not self._breaker.closed:
                raise ModelUnavailableError(
                    f"{self._host} failed again and again of late, and is left alone until it"
                    " answers, which is tried in the background: try again later"
                )
            self._refuse_while_asked_to()
            try:
                return await call()
            except openai.OpenAIError as error:
                self._note_asked_pause(error)
                pause = _pause(error, taken)
                if taken == self._most or pause is None or not self._budget.spend():
                    # Once, however often it was repeated: a service may fail at this input only.
                    self.failed(error)
                    raise
            taken += 1
            await sleep(pause)

    def succeeded(self) -> None:
        """Takes note of a whole answer."""
        self._failures = 0
        self._breaker.succeeded()

    def failed(self, error: openai.OpenAIError) -> None:
        """Takes note of a failure; one that is an answer to the call shows a service at work."""
        if isinstance(error, openai.APIStatusError) and error.status_code < 500:
            self.succeeded()
            return
        self._failures += 1
        if self._failures >= _FAILURES:
            self._failures = 0
            self._breaker.suspect(type(error).__name__)

    async def close(self) -> None:
        """Stops probing."""
        await self._breaker.close()

    def _note_asked_pause(self, error: openai.OpenAIError) -> None:
        """Takes note of a service that has too many calls, and wants none for a while."""
        asked = asked_pause(error)
        if isinstance(error, openai.RateLimitError) and asked and asked > _LONGEST_SECONDS:
            self._refused_until = monotonic() + min(asked, _LONGEST_ASKED_SECONDS)

    def _refuse_while_asked_to(self) -> None:
        left = self._refused_until - monotonic()
        if left > 0:
            raise QueueFullError(
                f"{self._host} has too many calls, and asks for none in the next {left:.3g} s: try"
                " again then",
                retry_after=left,
            )


def asked_pause(error: openai.OpenAIError) -> float | None:
    """After how many seconds the service wants the call again; None if it does not say."""
    if not isinstance(error, openai.APIStatusError):
        return None
    headers = error.response.headers
    seconds = _number(headers.get("retry-after-ms"), 1000) or _number(headers.get("retry-after"), 1)
    return seconds or _until(headers.get("retry-after"))


def _pause(error: openai.OpenAIError, taken: int) -> float | None:
    """Seconds to wait before the next repetition, None if it is of no use."""
    if isinstance(error, openai.APIStatusError):
        if error.status_code < 500 and error.status_code not in _MAY_SUCCEED_LATER:
            return None
        asked = asked_pause(error)
        if asked is not None:
            return asked if _is_in_time(asked) else None
    elif not isinstance(error, openai.APIConnectionError):
        return None
    seconds = min(_FIRST_SECONDS * 2.0 ** min(taken, 10), _LONGEST_SECONDS)
    seconds *= 1 - random.random() / 4  # noqa: S311 - only that not all come at once
    return seconds if _is_in_time(seconds) else None


def _is_in_time(pause: float) -> bool:
    """Whether a repetition after this many seconds is not too late for who waits."""
    return pause <= _LONGEST_SECONDS and monotonic() + pause < demand().deadline


def _number(text: str | None, divisor: float) -> float | None:
    try:
        seconds = float(text or "") / divisor
    except ValueError:
        return None
    return seconds if 0 < seconds < math.inf else None


def _until(text: str | None) -> float | None:
    """Seconds until a date as HTTP writes them."""
    try:
        seconds = email.utils.parsedate_to_datetime(text or "").timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
        return None
    return seconds if seconds > 0 else None
