"""Sidecars in front of an OpenAI-compatible service that wants a certificate."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from aiohttp import web

from sidecar.models.errors import SetupError
from sidecar.models.openai_client import OpenAIClient
from sidecar.models.openai_key import OpenAIKey
from sidecar.models.openai_target import parse_target
from sidecar.models.openai_tls import OpenAITls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Connect = Callable[..., Any]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]
    Party = Any
    Service = Any
    Start = Callable[..., Awaitable[Any]]

HANG_GUARD = 30.0
FAULT = "calls to an upstream fail"
RENEWED = "new certificates are in use"


@pytest.fixture
async def service(openai_server: Service, server: Party) -> AsyncIterator[Service]:
    """The service over mutual TLS, as the files of ``server`` say when a connection is made."""
    context = server_context(server)

    def choose(connection: Any, _name: str | None, _: ssl.SSLContext) -> None:
        connection.context = server_context(server)

    context.sni_callback = choose

    async def close(_: web.Request, response: web.StreamResponse) -> None:
        response.force_close()  # Each call makes a connection of its own.

    app = web.Application()
    app.on_response_prepare.append(close)
    for path in ("embeddings", "chat/completions"):
        app.router.add_post(f"/v1/{path}", openai_server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    port = runner.addresses[0][1]
    # An address that is not in the certificate.
    await web.TCPSite(runner, "127.0.0.2", port, ssl_context=context).start()
    openai_server.target = f"openai://localhost:{port}/v1"
    yield openai_server
    await runner.cleanup()


def server_context(party: Party) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*party.files)
    context.load_verify_locations(cafile=party.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def files(party: Party) -> dict[str, str]:
    """Settings of a sidecar that shows a certificate."""
    certificate, key = party.files
    names = {"ca_file": party.ca, "cert_file": certificate, "cert_key_file": key}
    return {name: str(path) for name, path in names.items()}


def in_front_of(target: str, **settings: str) -> dict[str, Any]:
    openai: dict[str, Any] = {"retries": 0}
    return {
        "encoder": {"target": target},
        "model": {"packs": "theirs"},
        "openai": openai | settings,
    }


def faults(logs: list[Any]) -> list[str]:
    return [log["reason"] for log in logs if log["event"] == FAULT]


async def test_a_service_is_called_over_mutual_tls(
    start: Start, service: Service, caller: Party, connect: Connect
) -> None:
    sidecar = await start(**in_front_of(service.target, **files(caller)))
    embedding = await connect(sidecar.address).embed_text("a text")
    assert not embedding.HasField("error"), embedding.error
    assert len(embedding.vector) == 16


async def test_no_call_fails_while_certificates_are_replaced(
    start: Start,
    service: Service,
    caller: Party,
    connect: Connect,
    logs: list[Any],
    eventually: Eventually,
) -> None:
    sidecar = await start(**in_front_of(service.target, **files(caller)))
    client, ended = connect(sidecar.address), asyncio.Event()
    answered = 0

    async def call() -> None:
        nonlocal answered
        while not ended.is_set():
            answered += 1
            embedding = await client.embed_text(f"text {answered}")
            assert not embedding.HasField("error"), embedding.error

    def renewals() -> int:
        return sum(log["event"] == RENEWED for log in logs)

    async with asyncio.TaskGroup() as load:
        for _ in range(4):
            load.create_task(call())
        for count in range(1, 3):
            before = answered
            caller.renew()
            await eventually(lambda count=count: renewals() == count)
            await eventually(lambda before=before: answered > before + 8)
        ended.set()


async def test_authorities_and_certificates_are_replaced_together(
    start: Start,
    service: Service,
    server: Party,
    caller: Party,
    other_authority: Any,
    connect: Connect,
    logs: list[Any],
    eventually: Eventually,
) -> None:
    sidecar = await start(**in_front_of(service.target, **files(caller)))
    client = connect(sidecar.address)
    await client.embed_text("a text")
    for party in (server, caller):
        party.trust(other_authority)
        party.renew(authority=other_authority)
    await eventually(lambda: any(log["event"] == RENEWED for log in logs))

    async def is_embedded() -> bool:
        # Between two of the three files that have been replaced, connections cannot be made.
        return not (await client.embed_text("another text")).HasField("error")

    async with asyncio.timeout(HANG_GUARD):
        while not await is_embedded():
            await asyncio.sleep(0.02)


async def test_an_answer_that_has_begun_goes_on_over_its_connection(
    service: Service, caller: Party
) -> None:
    target = parse_target(service.target, "encoder.target", has_key=False, insecure=False)
    tls = OpenAITls(caller.ca, *caller.files)
    client = OpenAIClient(target, OpenAIKey(""), timeout=HANG_GUARD, retries=0, tls=tls)
    service.hold_after = 1
    stream = client.stream("/chat/completions", {"model": "theirs", "messages": []})
    assert await anext(stream)
    client.renew()
    service.release.set()
    assert len([event async for event in stream]) > 1
    await client.close()


@pytest.mark.threat("A stranger poses as the encoder pool")
async def test_what_is_wrong_with_certificates_is_logged_once_and_told_to_callers(
    start: Start,
    service: Service,
    caller: Party,
    make_party: Callable[..., Party],
    other_authority: Any,
    connect: Connect,
    logs: list[Any],
) -> None:
    wary = make_party("wary", known=other_authority)
    for target, party, reason in (
        (service.target, wary, "its certificate is not accepted: "),
        (service.target.replace("localhost", "127.0.0.2"), caller, "is not valid for '127.0.0.2'"),
    ):
        logs.clear()
        sidecar = await start(**in_front_of(target, **files(party)))
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await connect(sidecar.address).embed_text("a text")
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE
            assert reason in (error.value.details() or "")
        (logged,) = faults(logs)
        assert reason in logged


async def test_files_that_are_no_good_leave_those_before_in_use(
    start: Start,
    service: Service,
    caller: Party,
    connect: Connect,
    logs: list[Any],
    eventually: Eventually,
) -> None:
    sidecar = await start(**in_front_of(service.target, **files(caller)))
    caller.pair.put(b"no certificate", b"no key")
    failed = "the new certificates for upstreams cannot be used"
    await eventually(lambda: any(log["event"] == failed for log in logs))
    embedding = await connect(sidecar.address).embed_text("a text")
    assert not embedding.HasField("error"), embedding.error
    assert len([log for log in logs if log["event"] == failed]) == 1


async def test_files_that_cannot_be_used_are_refused_at_start(
    start: Start, service: Service, caller: Party, tmp_path: Path
) -> None:
    good = files(caller)
    (tmp_path / "empty").write_bytes(b"")
    for settings, reason in (
        (good | {"ca_file": str(tmp_path / "empty")}, r"openai\.ca_file.*empty"),
        (good | {"cert_file": str(tmp_path / "none")}, "cannot read .*none"),
        ({"cert_file": good["cert_file"]}, r"set openai\.cert_file and openai\.cert_key_file"),
    ):
        with pytest.raises(SetupError, match=reason):
            await start(**in_front_of(service.target, **settings))
