"""A turn that one sidecar of the fleet has at a time."""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import time
from typing import TYPE_CHECKING, Any, TypeVar

from sidecar.cache.redis_link import WarmUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.cache.warm import WarmTier

T = TypeVar("T")

SECONDS = 60.0
_ANSWER_SECONDS = 2.0

_RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class LeaseTakenError(Exception):
    """Another sidecar has it, or this one already."""


class LeaseLostError(Exception):
    """Redis could not be told for too long that it is still needed."""


class Leases:
    """Leases of one fleet, by name. Without Redis, of this sidecar alone.

    A lease that its holder does not renew, because it is gone or cannot reach Redis, ends after
    ``seconds``.
    """

    def __init__(self, warm: WarmTier | None, prefix: str, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._locks = _LocalLocks() if warm is None else _RedisLocks(warm, prefix)

    async def run(
        self, name: str, work: Callable[[], Awaitable[T]], *, keep_seconds: float = 0
    ) -> T:
        """The result of ``work``, done while nobody else has the lease of that name.

        When the work has succeeded the lease is kept for ``keep_seconds``, as a mark that it is
        done. Raises `LeaseTakenError`, `LeaseLostError` (the work is cancelled then), or
        `WarmUnavailableError` if Redis cannot be asked for it.
        """
        token = secrets.token_hex(16)
        if not await self._locks.acquire(name, token, self._seconds):
            raise LeaseTakenError(name)
        is_done = False
        try:
            result = await self._work(name, token, work)
            is_done = True
        finally:
            # Should Redis not hear of it, the lease ends by itself.
            with contextlib.suppress(WarmUnavailableError):
                if is_done and keep_seconds:
                    await self._locks.extend(name, token, keep_seconds)
                else:
                    await self._locks.release(name, token)
        return result

    async def _work(self, name: str, token: str, work: Callable[[], Awaitable[T]]) -> T:
        tasks = (
            asyncio.ensure_future(work()),
            asyncio.ensure_future(self._renew_until_lost(name, token)),
        )
        working, renewing = tasks
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                renewing.result()
                raise LeaseLostError(name)
            return working.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _renew_until_lost(self, name: str, token: str) -> None:
        ends = time.monotonic() + self._seconds
        while True:
            await asyncio.sleep(self._seconds / 6)
            asked = time.monotonic()
            with contextlib.suppress(WarmUnavailableError):
                if not await self._locks.extend(name, token, self._seconds):
                    return
                ends = asked + self._seconds
            # Others may take it from then on.
            if ends - time.monotonic() < self._seconds / 3:
                return


class _RedisLocks:
    """Locks that end by themselves. Raises `WarmUnavailableError`."""

    def __init__(self, warm: WarmTier, prefix: str) -> None:
        self._warm = warm
        self._stem = f"{prefix}:{{state}}:lease:"

    async def acquire(self, name: str, token: str, seconds: float) -> bool:
        """Whether the lock is ours now, for so long."""
        return bool(await self._run("SET", self._stem + name, token, "NX", "PX", _ms(seconds)))

    async def extend(self, name: str, token: str, seconds: float) -> bool:
        """Whether the lock is still ours, from now on for so long."""
        return bool(await self._run("EVAL", _RENEW, 1, self._stem + name, token, _ms(seconds)))

    async def release(self, name: str, token: str) -> None:
        """Gives the lock up, if it is ours."""
        await self._run("EVAL", _RELEASE, 1, self._stem + name, token)

    async def _run(self, *command: Any) -> Any:
        async def execute(client: Any) -> Any:
            return await client.execute_command(*command)

        return await self._warm.run(execute, _ANSWER_SECONDS)


class _LocalLocks:
    """Locks of this process: whoever has one is never cut off from it."""

    def __init__(self) -> None:
        # Until when, in monotonic seconds.
        self._taken: dict[str, float] = {}

    async def acquire(self, name: str, _token: str, _seconds: float) -> bool:
        if self._taken.get(name, 0) > time.monotonic():
            return False
        self._taken[name] = math.inf
        return True

    async def extend(self, name: str, _token: str, seconds: float) -> bool:
        self._taken[name] = time.monotonic() + seconds
        return True

    async def release(self, name: str, _token: str) -> None:
        del self._taken[name]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
