"""What the proxy does to connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest

from tests.chaos.proxy import FaultyProxy, LinkFault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

HANG_GUARD = 10.0
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[FaultyProxy], Awaitable[Connection]]


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[FaultyProxy]:
    """In front of a server that sends back what it gets, and says when a client has gone."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(2**16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()

    path = tmp_path / "echo.sock"
    server = await asyncio.start_unix_server(echo, path)
    async with asyncio.timeout(HANG_GUARD), server, FaultyProxy(path, "echo", 1) as proxy:
        yield proxy


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Opens connections over which one word went both ways; closes them."""
    writers: list[asyncio.StreamWriter] = []

    async def open_connection(proxy: FaultyProxy) -> Connection:
        connection = await asyncio.open_connection("127.0.0.1", proxy.port)
        writers.append(connection[1])
        assert await said(connection, b"hello") == b"hello"
        return connection

    yield open_connection
    for writer in writers:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def said(connection: Connection, words: bytes) -> bytes:
    """What comes back for these words."""
    connection[1].write(words)
    return await connection[0].readexactly(len(words))


async def is_silent(connection: Connection) -> bool:
    """Whether nothing comes back though nothing is closed."""
    connection[1].write(b"anybody?")
    try:
        async with asyncio.timeout(0.1):
            await connection[0].read(1)
    except TimeoutError:
        return True
    return False


@pytest.mark.parametrize("amount", [1, 20_000_000])
async def test_all_bytes_come_through_in_their_order_where_nothing_is_done(
    proxy: FaultyProxy, connect: Connect, amount: int
) -> None:
    connection = await connect(proxy)
    words = bytes(range(256)) * (amount // 256 + 1)
    connection[1].write(words)
    assert await connection[0].readexactly(len(words)) == words


async def test_the_end_of_what_the_client_sends_reaches_the_server_after_it(
    proxy: FaultyProxy, connect: Connect
) -> None:
    connection = await connect(proxy)
    connection[1].write(b"the last words")
    connection[1].write_eof()
    assert await connection[0].read() == b"the last words"


async def test_a_client_is_told_when_the_server_is_not_there(
    tmp_path: Path, connect: Connect
) -> None:
    async with FaultyProxy(tmp_path / "nobody.sock", "nobody", 1) as proxy:
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            async with asyncio.timeout(HANG_GUARD):
                await connect(proxy)


async def test_latency_delays_and_changes_nothing(proxy: FaultyProxy, connect: Connect) -> None:
    connection = await connect(proxy)
    await proxy.begin(LinkFault("latency", amount=0.05))
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await said(connection, b"late") == b"late"
    assert loop.time() - began >= 0.05  # twice at least half of it


async def test_a_cut_resets_what_is_connected_and_refuses_the_rest_until_its_end(
    proxy: FaultyProxy, connect: Connect
) -> None:
    connection = await connect(proxy)
    await proxy.begin(LinkFault("cut"))
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await said(connection, b"hello")
    with pytest.raises(ConnectionRefusedError):
        await connect(proxy)
    await proxy.end()
    await connect(proxy)


async def test_a_reset_is_of_new_connections_too_when_they_send(
    proxy: FaultyProxy, connect: Connect
) -> None:
    await connect(proxy)
    await proxy.begin(LinkFault("reset"))
    for _ in range(3):
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await connect(proxy)
    await proxy.end()
    await connect(proxy)


@pytest.mark.parametrize("way", ["up", "down", "both"])
async def test_nothing_comes_out_of_a_black_hole_while_it_lasts(
    proxy: FaultyProxy, connect: Connect, way: str
) -> None:
    connection = await connect(proxy)
    await proxy.begin(LinkFault("black hole", way=way))
    assert await is_silent(connection)
    await proxy.end()
    await connect(proxy)


async def test_after_a_black_hole_some_data_come_late_and_some_connections_are_reset(
    proxy: FaultyProxy, connect: Connect
) -> None:
    connections = [await connect(proxy) for _ in range(20)]
    await proxy.begin(LinkFault("black hole"))
    for connection in connections:
        connection[1].write(b"late")
    await proxy.end()
    came = [await reader.read(4) for reader, _ in connections if not await fails(reader)]
    assert 0 < len(came) < len(connections)
    assert set(came) == {b"late"}


async def fails(reader: asyncio.StreamReader) -> bool:
    """Whether the connection was reset before any data came."""
    try:
        data = await reader.read(4)
    except ConnectionResetError:
        return True
    reader.feed_data(data)
    return not data


async def test_the_client_of_a_half_open_connection_hears_nothing_even_afterwards(
    proxy: FaultyProxy, connect: Connect
) -> None:
    connection = await connect(proxy)
    await proxy.begin(LinkFault("half open", way="up"))
    await proxy.end()
    assert await is_silent(connection)
    await connect(proxy)


async def test_garbage_comes_once_and_before_the_data(proxy: FaultyProxy, connect: Connect) -> None:
    connection = await connect(proxy)
    await proxy.begin(LinkFault("garbage", way="down"))
    connection[1].write(b"words")
    connection[1].write_eof()
    came = await connection[0].read()
    assert came.endswith(b"words")
    assert len(came) > len(b"words")


async def test_a_slow_drip_gives_all_in_the_end(proxy: FaultyProxy, connect: Connect) -> None:
    connection = await connect(proxy)
    await proxy.begin(LinkFault("slow drip", way="down", amount=100))
    words = bytes(range(256)) * 100
    connection[1].write(words)
    assert await connection[0].read(100) == words[:5]
    await proxy.end()
    assert await connection[0].readexactly(len(words) - 5) == words[5:]


async def concerned(connect: Connect, path: Path, seed: int) -> list[bool]:
    """Which of twenty connections a fault of half of them concerns."""
    async with FaultyProxy(path, "link", seed) as proxy:
        connections = [await connect(proxy) for _ in range(20)]
        await proxy.begin(LinkFault("reset", share=0.5))
        return [await fails_at_once(connection) for connection in connections]


async def fails_at_once(connection: Connection) -> bool:
    try:
        await said(connection, b"hello")
    except (ConnectionError, asyncio.IncompleteReadError):
        return True
    return False


async def test_which_connections_are_concerned_is_drawn_by_the_seed(
    proxy: FaultyProxy, connect: Connect, tmp_path: Path
) -> None:
    path = tmp_path / "echo.sock"
    first = await concerned(connect, path, 1)
    assert 0 < sum(first) < 20
    assert await concerned(connect, path, 1) == first
    assert await concerned(connect, path, 2) != first
