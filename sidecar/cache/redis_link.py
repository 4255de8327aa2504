"""The way to Redis that all of its users share: one breaker, one limit of time, one probe."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeVar

from redis.asyncio.cluster import RedisCluster
from redis.exceptions import (
    ClusterDownError,
    ConnectionError,  # noqa: A004 - redis-py's own
    RedisClusterException,
    RedisError,
    ResponseError,
)

from sidecar.shared_task import create_shared_task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.cache.breaker import Breaker
    from sidecar.cache.redis_connect import Client

T = TypeVar("T")

_MAX_OPERATIONS = 32
# After a connection could not be opened: Redis may have as many clients as it takes.
_RETRY_SECONDS = 1.0


class WarmUnavailableError(Exception):
    """Redis did not do what was asked: it is down, too slow, or refused."""


class RedisLink:
    """Runs operations on Redis, each within a time limit, and none while Redis is down.

    Connecting takes several round trips, too many for the time limit of a lookup, so it is done
    where nobody waits: ``connections`` are opened at start, and another one whenever all that are
    open are in use. Used from one event loop. ``when_down`` is called each time that Redis goes
    down.
    """

    def __init__(
        self,
        client: Client,
        breaker: Breaker,
        *,
        timeout: float,
        probe_timeout: float,
        connections: int,
        when_down: Callable[[], None],
    ) -> None:
        self.client = client
        self._breaker = breaker
        self._timeout = timeout
        self._probe_timeout = probe_timeout
        self._connections = connections
        self._when_down = when_down
        # More would come to redis-py's own limit, where it fails instead of waiting.
        self._turns = asyncio.Semaphore(_MAX_OPERATIONS)
        self._running = self._opened = 0
        self._opening: asyncio.Task[None] | None = None
        self._probing: asyncio.Task[None] | None = None
        self._probe_failure = ""

    @property
    def up(self) -> bool:
        """Whether operations are sent."""
        return self._breaker.closed

    @property
    def has_free_connection(self) -> bool:
        """Whether one more operation would find a connection that is open already."""
        return self._running < self._opened

    async def start(self) -> None:
        """Connects. If Redis does not answer, goes on trying in the background."""
        if not await self._probe():
            self._breaker.trip(self._probe_failure)
            self._went_down()

    async def close(self) -> None:
        """Stops probing and closes the connections."""
        for task in (self._probing, self._opening):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        # They may be broken in any way, and are given up whatever comes.
        with contextlib.suppress(RedisError, OSError):
            await self._forget_connections()
        with contextlib.suppress(RedisError, OSError):
            await self.client.aclose()

    async def run(
        self, operation: Callable[[Client], Awaitable[T]], seconds: float | None = None
    ) -> T:
        """The result of ``operation``, which has ``seconds`` (default: the link's own limit).

        An operation that is cut short, by its time limit or because the caller is cancelled, costs
        its connection: redis-py closes it rather than leave a reply behind for the next user.

        Raises `WarmUnavailableError` if Redis is down, too slow, or refuses.
        """
        if not self._breaker.closed:
            raise WarmUnavailableError("Redis is down; it is probed until it is back")
        try:
            async with (
                asyncio.timeout(self._timeout if seconds is None else seconds),
                self._turns,
            ):
                self._running += 1
                self._open_ahead()
                try:
                    result = await operation(self.client)
                finally:
                    self._running -= 1
        except (RedisError, RedisClusterException, OSError) as error:
            self.report(error)
            # The server's own words may quote a key, hence the kind of error only.
            raise WarmUnavailableError(f"Redis failed: {type(error).__name__}") from error
        self._breaker.succeeded()
        return result

    def report(self, error: Exception) -> None:
        """Counts an operation that failed."""
        if isinstance(error, ResponseError) and not isinstance(error, ClusterDownError):
            # Redis is there, but refuses this command.
            self._breaker.succeeded()
            return
        reason = _reason(error)
        if isinstance(self.client, RedisCluster) and isinstance(error, ConnectionError):
            # Calls for the other nodes succeed all the while, so the count would not get there;
            # and only the probe finds out who took over from the node that is gone.
            self._breaker.trip(reason)
        else:
            self._breaker.failed(reason)
        if not self._breaker.closed:
            self._went_down()

    def _went_down(self) -> None:
        if self._probing is None or self._probing.done():
            self._when_down()
            if self._opening is not None:
                self._opening.cancel()
            self._probing = create_shared_task(self._breaker.recover(self._probe))

    async def _probe(self) -> bool:
        """Whether Redis answers over a new connection; if so, opens the others as well."""
        try:
            async with asyncio.timeout(self._probe_timeout):
                await self._forget_connections()
                await self._ping()
                more = (self._ping() for _ in range(self._connections))
                await asyncio.gather(*more, return_exceptions=True)
        except (RedisError, RedisClusterException, OSError) as error:
            self._probe_failure = _reason(error)
            return False
        self._opened = self._connections
        return True

    def _open_ahead(self) -> None:
        """Sees to it that the next operation finds a connection that is open."""
        if not self.has_free_connection and (self._opening is None or self._opening.done()):
            self._opening = create_shared_task(self._open_more())

    async def _open_more(self) -> None:
        while not self.has_free_connection and self._opened < _MAX_OPERATIONS:
            try:
                async with asyncio.timeout(self._probe_timeout), self._turns:
                    # All are in use, so this is a new one.
                    await self._ping()
                    self._opened += 1
            except (RedisError, RedisClusterException, OSError):
                # Whether Redis is there, those find out that ask it for something.
                await asyncio.sleep(_RETRY_SECONDS)

    async def _forget_connections(self) -> None:
        if isinstance(self.client, RedisCluster):
            # It reads the layout of the cluster anew when it is used next.
            await self.client.aclose()
            # Which does nothing after a node has failed.
            await self.client.nodes_manager.aclose()
            await self.client.nodes_manager.aclose("startup_nodes")
        else:
            await self.client.connection_pool.disconnect(inuse_connections=False)

    async def _ping(self) -> None:
        if isinstance(self.client, RedisCluster):
            await self.client.execute_command("PING", target_nodes=RedisCluster.PRIMARIES)
        else:
            await self.client.execute_command("PING")  # type: ignore[no-untyped-call]


def _reason(error: Exception) -> str:
    """For the log. What Redis itself says may quote a key, hence not the text of a reply."""
    kind = type(error).__name__
    return f"{kind}: {error}" if isinstance(error, ConnectionError) else kind
