"""Redis over TLS: a real Redis behind something that ends TLS, as its own build here cannot."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from redis import Redis
from redis.exceptions import RedisError

from sidecar.cache.redis_connect import connect as redis_connect
from sidecar.dev_redis import DevRedis
from sidecar.files_in_use import count_failures
from sidecar.index.open import open_index

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Party = Any
    Start = Callable[..., Awaitable[Any]]


HANG_GUARD = 30.0


class TlsEnd:
    """Ends TLS with clients who show a certificate, in front of a Unix socket."""

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def listen(self, party: Party) -> None:
        """Shows the certificate of ``party``, and trusts whom it trusts."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*party.files)
        context.load_verify_locations(cafile=party.ca)
        context.verify_mode = ssl.CERT_REQUIRED
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=context, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Ends all connections."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, to_redis = await asyncio.open_unix_connection(self._socket_path)
        self._writers |= {writer, to_redis}
        await asyncio.gather(self._pump(reader, to_redis), self._pump(behind, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(2**16):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
        self._writers.discard(writer)


@pytest.fixture
async def end(redis_server: DevRedis, server: Party) -> AsyncIterator[TlsEnd]:
    """Redis over TLS."""
    running = TlsEnd(redis_server.socket_path)
    await running.listen(server)
    yield running
    await running.close()


def address(party: Party, port: int, scheme: str = "rediss") -> str:
    """The URL of a Redis to whom a party shows its certificate."""
    certificate, key = party.files
    return (
        f"{scheme}://localhost:{port}?ssl_ca_certs={party.ca}&ssl_certfile={certificate}"
        f"&ssl_keyfile={key}"
    )


async def test_entries_are_kept_in_a_redis_over_tls(
    start: Start, end: TlsEnd, caller: Party, connect: Callable[..., Any]
) -> None:
    sidecar = await start(redis={"url": address(caller, end.port)})
    client = connect(sidecar.address)
    assert await client.tier(3) == "COMPUTED"
    async with asyncio.timeout(HANG_GUARD):
        while await client.tier(3) != "WARM":
            await client.flush()


async def test_an_index_is_reached_over_tls(end: TlsEnd, caller: Party) -> None:
    index = open_index(address(caller, end.port))
    await index.start()
    assert await index.collections() == []
    await index.close()


async def test_new_connections_use_the_files_as_they_are_by_then(
    end: TlsEnd, server: Party, caller: Party, other_authority: Any
) -> None:
    client = redis_connect(address(caller, end.port), connect_timeout=5)
    assert await client.ping()
    for party in (server, caller):
        party.trust(other_authority)
        party.renew(authority=other_authority)
    await end.close()
    await end.listen(server)
    with contextlib.suppress(RedisError):
        await client.ping()  # Over the connection that is dead by now.
    assert await client.ping()
    await client.aclose()


async def test_files_that_are_no_good_leave_those_before_in_use_and_are_told_once(
    end: TlsEnd, caller: Party, logs: list[Any]
) -> None:
    failures = count_failures()
    client = redis_connect(address(caller, end.port), connect_timeout=5)
    assert failures == {"redis_certificates": 0}
    caller.pair.put(b"no certificate", b"no key")
    for _ in range(3):
        assert await client.ping()
        await client.connection_pool.disconnect()
    told = "the new certificates for Redis cannot be used"
    assert [log["event"] for log in logs] == [told]
    assert failures == {"redis_certificates": 1}
    await client.aclose()


async def test_connections_to_a_cluster_use_the_files_too(
    server: Party, caller: Party, other_authority: Any
) -> None:
    port = free_port()
    arguments = ["--cluster-enabled", "yes", "--cluster-announce-port", str(port)]
    arguments += ["--cluster-announce-ip", "127.0.0.1", "--cluster-port", str(free_port())]
    with DevRedis(port=free_port(), arguments=arguments) as node:
        with Redis(unix_socket_path=str(node.socket_path)) as direct:
            direct.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            while direct.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                await asyncio.sleep(0.01)
        end = TlsEnd(node.socket_path)
        end.port = port
        await end.listen(server)
        client = redis_connect(address(caller, port, "rediss+cluster"), connect_timeout=5)
        assert await client.set("key", "value")
        for party in (server, caller):
            party.trust(other_authority)
            party.renew(authority=other_authority)
        await end.close()
        await end.listen(server)
        await client.aclose()
        assert await client.get("key") == b"value"
        await client.aclose()
        await end.close()


@pytest.mark.parametrize(
    ("known", "of", "reason"),
    [
        ("other", "same", "certificate verify failed"),
        ("same", "other", "Connection closed by server"),
    ],
    ids=["its authority is not known", "ours is not known to it"],
)
@pytest.mark.threat("A stranger poses as Redis")
async def test_without_trust_a_sidecar_works_without_redis_and_says_why(
    start: Start,
    end: TlsEnd,
    make_party: Callable[..., Party],
    authority: Any,
    other_authority: Any,
    connect: Callable[..., Any],
    logs: list[Any],
    known: str,
    of: str,
    reason: str,
) -> None:
    parties = {"same": authority, "other": other_authority}
    wary = make_party("wary", known=parties[known], of=parties[of])
    sidecar = await start(redis={"url": address(wary, end.port)})
    assert await connect(sidecar.address).embed(2) == [2, 2, 2]
    opened = {"event": "circuit breaker opened", "service": "redis"}
    (log,) = (log for log in logs if opened.items() <= log.items())
    assert reason in log["reason"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
