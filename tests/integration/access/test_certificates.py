"""Callers known by their certificates, over real TLS, by every listener alike."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

from sidecar.access.caller import caller
from sidecar.telemetry.metrics import CallMetrics
from sidecar.transport.guarded_handlers import GuardedHandlers
from sidecar.transport.handlers import Handlers, ServerStream, Unary
from sidecar.transport.openai.counted import CountedCalls
from sidecar.transport.openai.guarded import GuardedCalls
from sidecar.transport.shown import FrontCall

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Identities = Callable[[str], Any]
    # What a caller is called, or the status with which he is refused.
    Known = Callable[..., Awaitable[str]]

HANG_GUARD = 30.0
SERVICE, METHODS = "embercache.v1.EmbedService", ("Embed", "ListModels")
TOKEN = "the-token-of-one-caller"  # noqa: S105


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@contextlib.asynccontextmanager
async def grpc_server(guarded: GuardedHandlers) -> AsyncIterator[grpc.aio.Server]:
    """A server that says as whom it knows a caller; it listens nowhere yet."""

    async def tell(_raw: bytes) -> bytes:
        who = caller()
        assert who is not None
        return who.name.encode()

    async def tell_often(raw: bytes) -> AsyncIterator[bytes]:
        yield await tell(raw)
        yield await tell(raw)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        [
            guarded.of(SERVICE, Embed=Unary(tell)),
            guarded.of("embercache.v1.GenerateService", GenerateStream=ServerStream(tell_often)),
        ]
    )
    yield server
    await server.stop(0)


def known_at(port: int, authority: Any) -> Known:
    """As whom a gRPC listener knows somebody with a certificate, and perhaps a token."""

    async def known(identity: Any, *tokens: str) -> str:
        credentials = grpc.ssl_channel_credentials(
            authority.pem, identity.key, identity.certificate
        )
        metadata = [("authorization", f"Bearer {token}") for token in tokens]
        options = {"metadata": metadata, "timeout": HANG_GUARD}
        async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
            stream = channel.unary_stream("/embercache.v1.GenerateService/GenerateStream")
            try:
                name = await channel.unary_unary(f"/{SERVICE}/Embed")(b"", **options)
                assert [each async for each in stream(b"", **options)] == [name, name]
            except grpc.aio.AioRpcError as error:
                return error.code().name
        return name.decode()

    return known


@pytest.fixture
async def by_grpc(
    access: Any, authority: Any, issue: Any, registry: CollectorRegistry
) -> AsyncIterator[Known]:
    """As whom gRPC's own server knows somebody."""
    own = issue("localhost", hosts=["localhost"])
    async with grpc_server(GuardedHandlers(Handlers(CallMetrics(registry)), access)) as server:
        pair = [(own.key, own.certificate)]
        credentials = grpc.ssl_server_credentials(pair, authority.pem, True)
        port = server.add_secure_port("localhost:0", credentials)
        await server.start()
        yield known_at(port, authority)


@pytest.fixture
async def by_front(
    access: Any, authority: Any, issue: Any, registry: CollectorRegistry, tmp_path: Path
) -> AsyncIterator[Known]:
    """As whom the server behind the native front door knows somebody."""
    native = pytest.importorskip("embercache_native")
    own = issue("localhost", hosts=["localhost"])
    guarded = GuardedHandlers(Handlers(CallMetrics(registry)), access, FrontCall)
    async with grpc_server(guarded) as server:
        server.add_insecure_port(f"unix:{tmp_path}/behind")
        await server.start()
        hot = native.HotTier(0, time.monotonic)
        behind = f"{tmp_path}/behind"
        front = native.Front(hot, behind, {}, secret=behind, bounds=[1.0], most_connections=100)
        front.set_certificate(own.certificate, own.key, authority.pem)
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        front.listen(listener.detach(), "tls")
        yield known_at(port, authority)
        await asyncio.to_thread(front.drain, 0.0)


@pytest.fixture
async def by_http(
    access: Any, authority: Any, issue: Any, registry: CollectorRegistry
) -> AsyncIterator[Known]:
    """As whom the OpenAI front knows somebody with a certificate, and perhaps a token."""

    async def tell(_request: web.Request) -> web.Response:
        who = caller()
        assert who is not None
        return web.Response(text=who.name)

    guarded = GuardedCalls(CountedCalls(CallMetrics(registry)), access)
    own = issue("localhost", hosts=["localhost"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=authority.pem.decode())
    context.load_cert_chain(own.file)
    context.verify_mode = ssl.CERT_REQUIRED
    application = web.Application()
    application.router.add_get("/", guarded.of("openai/models", "GET /v1/models", tell))
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "localhost", 0, ssl_context=context).start()
    port = runner.addresses[0][1]

    async def known(identity: Any, *tokens: str) -> str:
        context = ssl.create_default_context(cadata=authority.pem.decode())
        context.load_cert_chain(identity.file)
        headers = [("Authorization", f"Bearer {token}") for token in tokens]
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"https://localhost:{port}/", ssl=context, headers=headers) as response,
        ):
            if response.status == 200:
                return await response.text()
            return {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED"}[response.status]

    yield known
    await runner.cleanup()


@pytest.fixture(params=["by_grpc", "by_front", "by_http"])
def known(request: pytest.FixtureRequest) -> Known:
    found: Known = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("URI", "by-uri"),
        ("DNS", "by-dns"),
        ("URI before DNS", "by-uri"),
        ("common name", "by-common-name"),
        # Whoever issues certificates of hosts may let them have any common name.
        ("common name beside another", "UNAUTHENTICATED"),
        ("another", "UNAUTHENTICATED"),
        ("longer host", "UNAUTHENTICATED"),
        ("writer", "PERMISSION_DENIED"),
    ],
)
async def test_a_certificate_is_known_by_its_exact_names(
    known: Known, identities: Identities, kind: str, name: str
) -> None:
    assert await known(identities(kind)) == name


async def test_a_token_wins_over_a_certificate_known_or_not(
    known: Known, identities: Identities
) -> None:
    assert await known(identities("URI"), TOKEN) == "by-token"
    assert await known(identities("another"), TOKEN) == "by-token"
    assert await known(identities("URI"), "no-such-token-of-all") == "UNAUTHENTICATED"
    assert await known(identities("URI"), TOKEN, TOKEN) == "UNAUTHENTICATED"


@pytest.mark.parametrize("known", ["by_grpc", "by_front"], indirect=True)
async def test_refused_calls_are_counted_like_others(
    known: Known, identities: Identities, registry: CollectorRegistry
) -> None:
    await known(identities("another"))
    await known(identities("writer"))
    page = generate_latest(registry).decode()
    for code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        assert f'embercache_calls_failed_total{{code="{code}",method="Embed"}} 1.0' in page
