"""A service that sends without end, over real HTTP."""

from __future__ import annotations

import asyncio
import gzip
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from sidecar.models.openai_client import OpenAIClient
from sidecar.models.openai_key import OpenAIKey
from sidecar.models.openai_target import parse_target
from sidecar.models.types import ModelError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

HANG_GUARD = 30.0
MIB = 2**20
BODIES = {
    "/embeddings": {"model": "m", "input": ["a", "b"]},
    "/completions": {"model": "m", "prompt": "a", "max_tokens": 1024, "stream": True},
}


class Endless:
    """Sends ``start``, then blocks of blanks or letters until nobody reads; counts the MiB."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.start = b""
        self.status = 200
        self.sent = 0
        self.asked: list[dict[str, str]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        self.asked.append(dict(request.headers))
        response = web.StreamResponse(status=self.status, headers=self.headers)
        await response.prepare(request)
        await response.write(self.start)
        while True:
            await response.write(b" " * MIB)
            self.sent += 1


@pytest.fixture
async def connect_to() -> AsyncIterator[Callable[[str], OpenAIClient]]:
    made: list[OpenAIClient] = []

    def connect(target: str) -> OpenAIClient:
        parsed = parse_target(target, "encoder.target", has_key=False, insecure=False)
        made.append(OpenAIClient(parsed, OpenAIKey(""), timeout=HANG_GUARD, retries=0))
        return made[-1]

    yield connect
    for client in made:
        await client.close()


@pytest.fixture
async def endless(
    connect_to: Callable[[str], OpenAIClient],
) -> AsyncIterator[tuple[Endless, OpenAIClient]]:
    server = Endless()
    app = web.Application()
    app.router.add_post("/v1/{path:.*}", server.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    client = connect_to(f"openai+http://127.0.0.1:{runner.addresses[0][1]}/v1")
    yield server, client
    await runner.cleanup()


async def call(client: OpenAIClient, path: str) -> None:
    async with asyncio.timeout(HANG_GUARD):
        if path == "/embeddings":
            await client.post(path, BODIES[path])
        else:
            async with aclosing(client.stream(path, BODIES[path])) as events:
                async for _ in events:
                    pass


@pytest.mark.threat("An upstream sends without end")
@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize(
    ("path", "start"), [("/embeddings", b'{"data":['), ("/completions", b"data: x")]
)
async def test_an_answer_that_does_not_end_is_broken_off(
    path: str, start: bytes, status: int, endless: tuple[Endless, OpenAIClient]
) -> None:
    server, client = endless
    server.start, server.status = start, status
    with pytest.raises(ModelError, match=r"sent an answer of more than [0-9]+ bytes"):
        await call(client, path)
    # What the network held is read by nobody.
    assert server.sent < 64


@pytest.mark.threat("An upstream sends without end")
@pytest.mark.parametrize("path", BODIES)
async def test_a_compressed_answer_is_not_asked_for_and_not_unpacked(
    path: str, endless: tuple[Endless, OpenAIClient]
) -> None:
    server, client = endless
    server.headers, server.start = {"Content-Encoding": "gzip"}, gzip.compress(b" " * MIB)
    with pytest.raises(ModelError, match="sent a compressed answer"):
        await call(client, path)
    assert server.asked[0]["Accept-Encoding"] == "identity"


async def test_vectors_of_many_numbers_are_within_the_bound(
    openai_server: Any, connect_to: Callable[[str], OpenAIClient]
) -> None:
    openai_server.knows_base64 = False
    openai_server.embed = lambda text: [-1.2345678901234567e-05] * 8192
    client = connect_to(openai_server.target)
    body = {"model": "m", "input": ["a"] * 128, "encoding_format": "float"}
    answer = await client.post("/embeddings", body)
    assert len(answer["data"]) == 128
