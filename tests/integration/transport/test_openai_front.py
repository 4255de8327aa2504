"""The HTTP server itself: who may call it, models, and how it begins and ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

import openai
import pytest

from sidecar.config import ServerSettings
from sidecar.transport.listening import ListenError
from sidecar.transport.openai import front as front_module

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Front = Any
    FakeServices = Any
    OpenFront = Callable[..., Awaitable[Front]]

TEXT = {"model": "tiny", "input": "a"}
CHAT = {"model": "small", "messages": [{"role": "user", "content": "Hello"}]}
HANG_GUARD = 30.0
POST = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


async def until_refused(front: Front) -> None:
    """Calls until no connection is taken any more."""
    async with asyncio.timeout(HANG_GUARD):
        with contextlib.suppress(openai.APIConnectionError):
            while True:
                await front.openai.models.list()


async def test_models_of_both_kinds_are_listed(front: Front) -> None:
    models = [model async for model in front.openai.models.list()]
    assert [model.id for model in models] == ["tiny", "small"]
    assert {model.object for model in models} == {"model"}


async def test_a_model_may_be_asked_for_by_name(front: Front) -> None:
    assert (await front.openai.models.retrieve("small")).id == "small"
    with pytest.raises(openai.NotFoundError, match="choose one of tiny, small"):
        await front.openai.models.retrieve("huge")


@pytest.mark.parametrize("origin", ["https://example.com", "http://127.0.0.1", "null"])
@pytest.mark.threat("A page in a browser calls the OpenAI API")
async def test_web_pages_are_refused(front: Front, services: FakeServices, origin: str) -> None:
    status, answer, _ = await front.post("embeddings", TEXT, Origin=origin)
    assert (status, answer["error"]["code"]) == (403, "origin")
    assert services.embeds == []


@pytest.mark.parametrize(
    "host", ["example.com", "example.com:80", "127.0.0.1.example.com", "", "["]
)
@pytest.mark.threat("A page in a browser calls the OpenAI API")
async def test_names_of_other_hosts_are_refused(front: Front, host: str) -> None:
    status, answer, _ = await front.send("GET", "models", headers={"Host": host})
    assert (status, answer["error"]["code"]) == (403, "host")


@pytest.mark.parametrize(
    "host", ["localhost:8080", "LOCALHOST", "127.0.0.1:1", "10.1.2.3", "[::1]:80"]
)
async def test_addresses_and_localhost_are_served(front: Front, host: str) -> None:
    status, _, _ = await front.send("GET", "models", headers={"Host": host})
    assert status == 200


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
async def test_a_listener_for_other_machines_is_served_by_every_name_but_not_to_web_pages(
    open_front: OpenFront, address: str
) -> None:
    front = await open_front(openai_address=address, insecure=True)
    for host in ("pool", "pool.models.svc.cluster.local:50601"):
        status, _, _ = await front.send("GET", "models", headers={"Host": host})
        assert status == 200
        page = {"Host": host, "Origin": f"http://{host}"}
        status, answer, _ = await front.send("GET", "models", headers=page)
        assert (status, answer["error"]["code"]) == (403, "origin")


async def test_the_name_that_it_listens_on_is_served(open_front: OpenFront) -> None:
    front = await open_front(openai_address="localhost:0")
    assert front.url.startswith("http://localhost:")
    status, _, _ = await front.send("GET", "models")
    assert status == 200


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
async def test_only_json_is_read(front: Front, services: FakeServices, kind: str) -> None:
    status, _, _ = await front.post("embeddings", TEXT, **{"Content-Type": kind})
    assert status == 415
    assert services.embeds == []


async def test_json_may_name_its_charset(front: Front) -> None:
    status, _, _ = await front.post(
        "embeddings", TEXT, **{"Content-Type": "application/json; charset=utf-8"}
    )
    assert status == 200


async def test_compressed_requests_are_refused(front: Front) -> None:
    status, answer, _ = await front.post("embeddings", b"\x1f\x8b", **{"Content-Encoding": "gzip"})
    assert status == 415
    assert "compressed" in answer["error"]["message"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"a"', b"null", b"\xff", b"[" * 100_000, b'{"model": NaN}']
)
async def test_a_body_that_is_no_object_is_refused(front: Front, body: bytes) -> None:
    status, answer, _ = await front.post("embeddings", body)
    assert status == 400
    assert "the body is not" in answer["error"]["message"]


async def test_the_name_of_an_unknown_field_is_told_only_if_it_is_a_name(front: Front) -> None:
    _, answer, _ = await front.post("embeddings", TEXT | {"imput": 1})
    assert answer["error"]["param"] == "imput"
    status, answer, _ = await front.post("embeddings", TEXT | {"dear diary, today": 1})
    assert status == 400
    assert "diary" not in str(answer)


async def test_an_unknown_path_is_an_error_like_others(front: Front) -> None:
    with pytest.raises(openai.NotFoundError, match="no such path"):
        await front.openai.responses.create(model="small", input="Hello")


async def test_a_path_is_posted_to_or_not(front: Front) -> None:
    status, answer, _ = await front.send("GET", "embeddings")
    assert status == 405
    assert "POST" in answer["error"]["message"]


async def test_keys_are_accepted_whatever_they_are(front: Front) -> None:
    status, _, _ = await front.post("embeddings", TEXT, Authorization="Bearer sk-secret")
    assert status == 200


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\r\n\r\n", id="encrypted"),
        pytest.param(b"private words\r\n\r\n", id="no HTTP"),
        pytest.param(b"GET / HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", id="a long header"),
        pytest.param(POST + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n", id="two lengths"),
        pytest.param(POST + CHUNKED + b"\r\nprivate\r\n", id="no chunk"),
    ],
)
async def test_what_is_no_http_is_refused_and_fills_no_log(
    front: Front, caplog: pytest.LogCaptureFixture, request_: bytes
) -> None:
    host, port = front.url.removeprefix("http://").removesuffix("/v1").split(":")
    with caplog.at_level(logging.DEBUG, "aiohttp"):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request_)
        async with asyncio.timeout(HANG_GUARD):
            status = await reader.readline()
        writer.close()
    assert status.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
    records = [record for record in caplog.records if record.name.startswith("aiohttp")]
    assert len(records) <= 1
    assert all(r.levelno == logging.DEBUG and not r.exc_info for r in records)
    assert "private" not in caplog.text


async def test_an_address_in_use_is_refused(front: Front, open_front: OpenFront) -> None:
    address = front.url.removeprefix("http://").removesuffix("/v1")
    with pytest.raises(ListenError, match=r"another process .* server\.openai_address"):
        await open_front(openai_address=address)


async def test_a_drain_lets_a_stream_end(front: Front, services: FakeServices) -> None:
    services.go.clear()
    stream = await front.openai.chat.completions.create(**CHAT, stream=True)
    drain = asyncio.create_task(front.front.drain())
    await until_refused(front)
    services.go.set()
    pieces = [chunk.choices[0].delta.content async for chunk in stream]
    assert pieces == ["", "Hello", " you", None]
    await drain


@pytest.mark.parametrize("seconds", [0, 0.02])
async def test_a_drain_ends_what_takes_too_long(
    open_front: OpenFront, services: FakeServices, seconds: float
) -> None:
    front = await open_front(drain_timeout=seconds)
    services.go.clear()
    stream = await front.openai.chat.completions.create(**CHAT, stream=True)
    await front.front.drain()
    with pytest.raises(openai.APIConnectionError):
        async for _ in stream:
            pass
    assert services.closed == 1


async def test_a_drain_does_not_wait_for_idle_connections(front: Front) -> None:
    await front.openai.models.list()
    async with asyncio.timeout(HANG_GUARD):
        await front.front.drain()


async def begin(front: Front, sent: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A new connection on which so much has been sent."""
    port = int(front.url.rpartition(":")[2].removesuffix("/v1"))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    return reader, writer


@pytest.fixture
def three_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ServerSettings, "most_connections", property(lambda _: 3))


@pytest.mark.usefixtures("three_connections")
@pytest.mark.threat("A stranger takes every connection there is")
async def test_connections_whose_bodies_do_not_come_make_room(front: Front) -> None:
    halves = [await begin(front, POST + b"Content-Length: 9\r\n\r\n{") for _ in range(3)]
    assert [model.id async for model in front.openai.models.list()] == ["tiny", "small"]
    async with asyncio.timeout(HANG_GUARD):
        with contextlib.suppress(ConnectionResetError):
            assert await halves[0][0].read() == b""
    for _, writer in halves:
        writer.close()


@pytest.mark.usefixtures("three_connections")
@pytest.mark.threat("A stranger takes every connection there is")
async def test_a_new_connection_is_ended_while_all_others_are_at_work(
    front: Front, services: FakeServices
) -> None:
    services.go.clear()
    streams = [await front.openai.chat.completions.create(**CHAT, stream=True) for _ in range(3)]
    reader, writer = await begin(front, b"")
    async with asyncio.timeout(HANG_GUARD):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()
    services.go.set()
    for stream in streams:
        assert [chunk async for chunk in stream]


async def test_a_body_that_does_not_come_is_given_up(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_module, "_BODY_SECONDS", 0.01)
    reader, writer = await begin(front, POST + b"Content-Length: 9\r\n\r\n{")
    async with asyncio.timeout(HANG_GUARD):
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
    writer.close()
