"""The way to PostgreSQL: a few connections, one breaker, and an end in time for every operation."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from sidecar.cache.breaker import Breaker
from sidecar.index.types import IndexUnavailableError
from sidecar.shared_task import create_shared_task

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from psycopg import AsyncConnection

T = TypeVar("T")

_CONNECT_SECONDS = 2
_MAX_CONNECTIONS = 8
# libpq's words for a connection that could not be made: what it says of certificates.
_TLS = re.compile(r"^connection failed: .*? failed: ([^\n]*(?:SSL|certificate|private key)[^\n]*)")


class Postgres:
    """Connections to one database, made when they are needed. Used from one event loop.

    ``when_failed`` is called each time that an operation fails.

    Not those of psycopg_pool: after a restart of the server it hands out each connection that is
    dead, or asks first whether it is, for as long as a server that hangs does not answer.
    """

    def __init__(self, url: str, when_failed: Callable[[], None]) -> None:
        self._url = url
        self._when_failed = when_failed
        self._breaker = Breaker("index")
        self._turns = asyncio.Semaphore(_MAX_CONNECTIONS)
        self._idle: list[AsyncConnection] = []
        self._running: set[asyncio.Task[object]] = set()
        self._probing: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Ends what is in progress, and the connections."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait({self._probing})
        if self._running:
            await asyncio.wait(self._running)
        await self._forget()

    async def run(self, operation: Callable[[AsyncConnection], Awaitable[T]], seconds: float) -> T:
        """What ``operation`` gives; it has ``seconds``.

        It goes on if the caller is cancelled: psycopg would ask the server to end it, and stop this
        process until the server has answered.

        Raises `IndexUnavailableError`; its cause is what the server said.
        """
        if not self._breaker.closed:
            raise IndexUnavailableError("PostgreSQL is down; it is probed until it is back")
        task = asyncio.create_task(self._run(operation, seconds))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _run(self, operation: Callable[[AsyncConnection], Awaitable[T]], seconds: float) -> T:
        try:
            async with self._turn(seconds), self._connection() as connection:
                with _cut_after(seconds, connection):
                    result = await operation(connection)
        except (psycopg.Error, OSError) as error:
            self._when_failed()
            if isinstance(error, (psycopg.OperationalError, OSError)):
                await self._lost(error)
            # What the server says may quote values, hence the kind of error only.
            raise IndexUnavailableError(
                f"the index (PostgreSQL) failed: {_kind(error)}; try again"
            ) from error
        self._breaker.succeeded()
        return result

    @asynccontextmanager
    async def _turn(self, seconds: float) -> AsyncIterator[None]:
        async with asyncio.timeout(seconds):
            await self._turns.acquire()
        try:
            yield
        finally:
            self._turns.release()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        connection = self._idle.pop() if self._idle else await self._connect()
        try:
            yield connection
        finally:
            if connection.info.transaction_status is TransactionStatus.IDLE:
                self._idle.append(connection)
            else:
                await connection.close()

    async def _connect(self) -> AsyncConnection:
        return await psycopg.AsyncConnection.connect(
            self._url, autocommit=True, connect_timeout=_CONNECT_SECONDS
        )

    async def _lost(self, error: Exception) -> None:
        # The others are likely dead as well.
        await self._forget()
        self._breaker.failed(_kind(error))
        if not self._breaker.closed and (self._probing is None or self._probing.done()):
            self._probing = create_shared_task(self._breaker.recover(self._probe))

    async def _forget(self) -> None:
        while self._idle:
            await self._idle.pop().close()

    async def _probe(self) -> bool:
        try:
            connection = await self._connect()
        except (psycopg.Error, OSError):
            return False
        self._idle.append(connection)
        return True


def _kind(error: Exception) -> str:
    """The kind of an error, and what TLS has against a connection: that quotes no values."""
    found = _TLS.search(str(error))
    return f"{type(error).__name__} ({found[1]})" if found else type(error).__name__


@contextmanager
def _cut_after(seconds: float, connection: AsyncConnection) -> Iterator[None]:
    """Ends the connection if the context lasts too long, so that waiting for it fails."""
    timer = asyncio.get_running_loop().call_later(seconds, _cut, connection)
    try:
        yield
    finally:
        timer.cancel()


def _cut(connection: AsyncConnection) -> None:
    # Not closed: the loop still watches it, under its number.
    with socket.socket(fileno=os.dup(connection.fileno())) as same:
        same.shutdown(socket.SHUT_RDWR)
