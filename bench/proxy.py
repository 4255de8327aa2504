"""A TCP proxy in front of a Unix socket whose connections can be cut or swallowed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Self, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

Side: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
"""What comes from a client or a server, and what goes to it."""


class Proxy:
    """Stands between a client and a server, as an asynchronous context.

    `cut` resets what is connected and refuses the rest; `swallow` keeps everything open and lets
    no byte through, as a network does that drops packets; `restore` ends both. What was swallowed
    is not delivered afterwards: such connections are reset then.
    """

    def __init__(self, upstream: Path) -> None:
        self._upstream = upstream
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._passes = asyncio.Event()
        self._passes.set()
        self.port = 0

    @property
    def url(self) -> str:
        """The address as a ``redis://`` URL."""
        return f"redis://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def cut(self) -> None:
        """Resets all connections, and refuses new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._reset()

    def swallow(self) -> None:
        """Lets nothing through, in neither direction, and says so to nobody."""
        self._passes.clear()

    async def restore(self) -> None:
        """Lets new connections through."""
        if not self._passes.is_set():
            self._reset()
            self._passes.set()
        if self._server is None:
            await self._listen()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def _reset(self) -> None:
        for task in self._tasks:
            task.cancel()
        for writer in self._writers:
            reset(writer)
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a server runs this in a task
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._passes.wait()
                server = await asyncio.open_unix_connection(self._upstream)
                self._writers.add(server[1])
                await self._relay((reader, writer), server)
        finally:
            # Also where the server was not there: the client is to hear of it.
            writer.transport.abort()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _relay(self, client: Side, server: Side) -> None:
        """Carries bytes both ways until the connection has ended."""
        await asyncio.gather(self._pump(client[0], server[1]), self._pump(server[0], client[1]))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(2**16):
                await self._passes.wait()
                writer.write(data)
                await writer.drain()
        finally:
            writer.transport.abort()
            self._writers.discard(writer)


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection; its other side sees a reset, whether data are unsent or not."""
    with contextlib.suppress(OSError):
        raw: socket.socket = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
