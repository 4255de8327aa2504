"""When a call of an OpenAI-compatible service is made again, and when the service is left alone.

Not left to the SDK, whose repetitions know nothing of each other: a service in trouble would get
several times the calls.
"""

from __future__ import annotations

import asyncio
import email.utils
import math
import random
import time
from asyncio import sleep
from typing import TYPE_CHECKING, TypeVar

import openai

from sidecar.cache.breaker import Breaker
from sidecar.models.types import ModelUnavailableError
from sidecar.shared_task import create_shared_task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

_FIRST_SECONDS, _LONGEST_SECONDS = 0.5, 8.0
# A service that asks for a longer pause is not waited for.
_LONGEST_ASKED_SECONDS = 60.0
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

    After five failures in a row, those of repetitions included, calls are refused until ``probe``
    succeeds, which is tried in the background. Used from one event loop.
    """

    def __init__(self, host: str, most: int, probe: Callable[[], Awaitable[bool]]) -> None:
        self._host = host
        self._most = most
        self._probe = probe
        self._budget = RepetitionBudget()
        self._breaker = Breaker(f"openai {host}")
        self._recovery: asyncio.Task[None] | None = None

    async def run(self, call: Callable[[], Awaitable[T]]) -> T:
        """The result of a call; whether it is of use is said by `succeeded` and `failed`.

        Raises what the last call raised, or `ModelUnavailableError` while the service is left
        alone.
        """
        self._budget.earn()
        taken = 0
        while True:
            if not self._breaker.closed:
                raise ModelUnavailableError(
                    f"{self._host} failed again and again of late, and is left alone until it"
                    " answers, which is tried in the background: try again later"
                )
            try:
                return await call()
            except openai.OpenAIError as error:
                self.failed(error)
                pause = _pause(error, taken)
                if taken == self._most or pause is None or not self._budget.spend():
                    raise
            taken += 1
            await sleep(pause)

    def succeeded(self) -> None:
        """Takes note of a whole answer."""
        self._breaker.succeeded()

    def failed(self, error: openai.OpenAIError) -> None:
        """Takes note of a failure; one that is an answer to the call shows a service at work."""
        if isinstance(error, openai.APIStatusError) and error.status_code < 500:
            self._breaker.succeeded()
            return
        self._breaker.failed(type(error).__name__)
        if not self._breaker.closed and (self._recovery is None or self._recovery.done()):
            # Not on behalf of the call that found out.
            self._recovery = create_shared_task(self._breaker.recover(self._probe))

    async def close(self) -> None:
        """Stops probing."""
        if self._recovery is not None:
            self._recovery.cancel()
            await asyncio.wait({self._recovery})


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
            return asked if asked <= _LONGEST_ASKED_SECONDS else None
    elif not isinstance(error, openai.APIConnectionError):
        return None
    seconds = min(_FIRST_SECONDS * 2.0 ** min(taken, 10), _LONGEST_SECONDS)
    return seconds * (1 - random.random() / 4)  # noqa: S311 - only that not all come at once


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
