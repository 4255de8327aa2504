"""The OpenAI-compatible API, and the page for those who watch, with TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from cryptography import x509

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Party = Any
    Start = Callable[..., Awaitable[Any]]

HANG_GUARD = 30.0
FAILED = "a TLS handshake failed"


async def shown_by(url: str, **bounds: Any) -> int:
    """The serial number of the certificate that a listener shows.

    ``bounds`` are attributes of the context that asks.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers(bounds.pop("ciphers", "ALL:@SECLEVEL=0"))
    for name, value in bounds.items():
        setattr(context, name, value)
    host, _, port = url.split("/")[2].rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return x509.load_der_x509_certificate(der).serial_number


async def status(http: aiohttp.ClientSession, url: str, party: Party, *, anonymous: bool) -> int:
    """The status of an answer to somebody who shows a certificate, or none."""
    context = ssl.create_default_context(cafile=party.ca) if anonymous else party.context()
    async with http.get(url, ssl=context) as response:
        await response.read()
        return response.status


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(HANG_GUARD):
        while not await condition():
            await asyncio.sleep(0.02)


async def test_the_openai_api_is_served_over_tls(
    start: Start, tls: dict[str, Any], http: aiohttp.ClientSession, caller: Party
) -> None:
    sidecar = await start(tls=tls)
    assert sidecar.openai_url.startswith("https://")
    url = f"{sidecar.openai_url}/models"
    assert await status(http, url, caller, anonymous=True) == 200


@pytest.mark.threat("A stranger without a certificate calls")
async def test_with_mutual_tls_the_openai_api_is_for_callers_with_a_good_certificate(
    start: Start,
    mutual_tls: dict[str, Any],
    http: aiohttp.ClientSession,
    caller: Party,
    unknown_callers: dict[str, Party],
) -> None:
    sidecar = await start(tls=mutual_tls)
    url = f"{sidecar.openai_url}/models"
    assert await status(http, url, caller, anonymous=False) == 200
    with pytest.raises(aiohttp.ClientError):
        await status(http, url, caller, anonymous=True)
    for unknown in unknown_callers.values():
        with pytest.raises(aiohttp.ClientError):
            await status(http, url, unknown, anonymous=False)


@pytest.mark.threat("A stranger without a certificate calls")
async def test_with_mutual_tls_probes_need_no_certificate_and_metrics_and_page_do(
    start: Start, mutual_tls: dict[str, Any], http: aiohttp.ClientSession, caller: Party
) -> None:
    sidecar = await start(tls=mutual_tls, server={"status_page": True})
    private = dict.fromkeys(("/metrics", "/status/", "/status/page.js", "/status/data"), 403)
    for path, anonymous_status in {"/livez": 200, "/readyz": 200, **private}.items():
        url = sidecar.url(path)
        assert await status(http, url, caller, anonymous=True) == anonymous_status
        assert await status(http, url, caller, anonymous=False) == 200


async def test_without_mutual_tls_metrics_are_for_everybody(
    start: Start, tls: dict[str, Any], http: aiohttp.ClientSession, caller: Party
) -> None:
    sidecar = await start(tls=tls)
    async with http.get(sidecar.url("/metrics"), ssl=caller.context()) as response:
        page = await response.text()
    certificate = x509.load_pem_x509_certificate(caller.pair.certificate.read_bytes())
    end = certificate.not_valid_after_utc.timestamp()
    expiry = "embercache_certificate_expiry_timestamp_seconds"
    (line,) = (line for line in page.splitlines() if line.startswith(f"{expiry} "))
    assert float(line.split()[1]) == pytest.approx(end, abs=120)


async def test_a_probe_with_a_certificate_that_is_no_good_is_refused(
    start: Start,
    mutual_tls: dict[str, Any],
    http: aiohttp.ClientSession,
    unknown_callers: dict[str, Party],
) -> None:
    sidecar = await start(tls=mutual_tls)
    for unknown in unknown_callers.values():
        with pytest.raises(aiohttp.ClientError):
            await status(http, sidecar.url("/livez"), unknown, anonymous=False)


async def test_no_request_fails_while_certificates_are_replaced(
    start: Start,
    mutual_tls: dict[str, Any],
    http: aiohttp.ClientSession,
    server: Party,
    caller: Party,
) -> None:
    sidecar = await start(tls=mutual_tls)
    urls = (f"{sidecar.openai_url}/models", sidecar.url("/metrics"))
    context, ended = caller.context(), asyncio.Event()
    answered = 0

    async def ask(session: aiohttp.ClientSession, url: str) -> None:
        nonlocal answered
        while not ended.is_set():
            async with session.get(url, ssl=context) as response:
                await response.read()
                assert response.status == 200
            answered += 1

    async with aiohttp.ClientSession() as keeping, asyncio.TaskGroup() as load:
        for session in (http, keeping):
            for url in urls:
                load.create_task(ask(session, url))
        for _ in range(2):
            before, new = answered, server.renew()
            for url in urls:
                await until(lambda new=new, url=url: is_shown(url, new))
            assert answered > before
        ended.set()


async def is_shown(url: str, serial: int) -> bool:
    return await shown_by(url) == serial


async def test_authorities_of_callers_are_replaced_too(
    start: Start,
    mutual_tls: dict[str, Any],
    http: aiohttp.ClientSession,
    server: Party,
    caller: Party,
    unknown_callers: dict[str, Party],
    other_authority: Any,
) -> None:
    sidecar = await start(tls=mutual_tls)
    stranger = unknown_callers["of an authority that is not known"]
    server.trust(other_authority)

    async def is_let_in() -> bool:
        try:
            url = sidecar.url("/metrics")
            return await status(http, url, stranger, anonymous=False) == 200
        except aiohttp.ClientError:
            return False

    await until(is_let_in)
    url = f"{sidecar.openai_url}/models"
    assert await status(http, url, stranger, anonymous=False) == 200
    for refused in (url, sidecar.url("/livez")):
        with pytest.raises(aiohttp.ClientError):
            await status(http, refused, caller, anonymous=False)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
@pytest.mark.threat("A stranger reads calls on the wire")
async def test_versions_before_1_2_and_ciphers_without_authentication_are_refused(
    start: Start, tls: dict[str, Any]
) -> None:
    sidecar = await start(tls=tls)
    old, newer = ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2
    ciphers = "ECDHE-ECDSA-AES128-SHA256:@SECLEVEL=0"
    for url in (sidecar.openai_url, sidecar.url("/livez")):
        assert await shown_by(url, maximum_version=newer)
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await shown_by(url, minimum_version=old, maximum_version=old)
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await shown_by(url, maximum_version=newer, ciphers=ciphers)


async def test_who_showed_a_certificate_shows_it_again_with_each_connection(
    start: Start, mutual_tls: dict[str, Any], caller: Party
) -> None:
    sidecar = await start(tls=mutual_tls)
    context = caller.context()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    for url in (sidecar.openai_url, sidecar.url("/livez")):
        session = await asyncio.to_thread(session_of, url, context)
        assert session is None or not session.has_ticket


def session_of(url: str, context: ssl.SSLContext) -> ssl.SSLSession | None:
    """What a client keeps of a connection, after an answer."""
    host, _, port = url.split("/")[2].rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=HANG_GUARD) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        connection.sendall(b"GET /v1/models HTTP/1.0\r\n\r\n")
        assert connection.recv(1)
        return connection.session


async def test_why_handshakes_fail_is_logged_once_for_many(
    start: Start,
    mutual_tls: dict[str, Any],
    http: aiohttp.ClientSession,
    caller: Party,
    unknown_callers: dict[str, Party],
    other_authority: Any,
    logs: list[Any],
    eventually: Callable[..., Awaitable[None]],
) -> None:
    sidecar = await start(tls=mutual_tls)
    secure = f"{sidecar.openai_url}/models"
    suspicious = ssl.create_default_context(cadata=other_authority.pem.decode())
    for url, context in (
        (secure.replace("https:", "http:"), True),
        (secure, ssl.create_default_context(cafile=caller.ca)),
        (secure, unknown_callers["that has ended"].context()),
    ):
        for _ in range(3):
            with pytest.raises(aiohttp.ClientError):
                await http.get(url, ssl=context)
    for _ in range(3):
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.to_thread(handshake, secure, suspicious)

    def told() -> list[str]:
        return [log["reason"] for log in logs if log["event"] == FAILED]

    await eventually(lambda: len(told()) == 4)
    plain, anonymous, late, unknown = told()
    assert "has to begin with https://" in plain
    assert "shows no certificate, which tls.client_ca_file asks for" in anonymous
    assert "certificate of the caller is not accepted: certificate has expired" in late
    assert "does not know the authority of the certificate" in unknown
    listeners = {log["listener"] for log in logs if log["event"] == FAILED}
    assert listeners == {"server.openai_address"}


async def test_callers_who_speak_tls_to_a_plain_port_are_logged_once(
    start: Start,
    http: aiohttp.ClientSession,
    caller: Party,
    logs: list[Any],
    eventually: Callable[..., Awaitable[None]],
) -> None:
    sidecar = await start()
    urls = (sidecar.openai_url.replace("http:", "https:"), sidecar.url("/livez"))
    for url in urls * 3:
        with pytest.raises(aiohttp.ClientError):
            await http.get(url, ssl=caller.context())

    def told() -> list[Any]:
        return [log for log in logs if log["event"] == FAILED]

    await eventually(lambda: len(told()) >= 2)
    assert [log["listener"] for log in told()] == [
        "server.openai_address",
        "server.metrics_address",
    ]
    assert all("the caller speaks TLS, which this port does not" in log["reason"] for log in told())


def handshake(url: str, context: ssl.SSLContext) -> None:
    """A handshake of a client that says why it ends one; asyncio's does not."""
    host, _, port = url.split("/")[2].rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        context.wrap_socket(connection, server_hostname=host).close()


async def test_who_connects_and_goes_is_not_logged(
    start: Start, tls: dict[str, Any], logs: list[Any], http: aiohttp.ClientSession, caller: Party
) -> None:
    sidecar = await start(tls=tls)
    host, _, port = sidecar.openai_url.split("/")[2].rpartition(":")
    for _ in range(3):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.close()
        await writer.wait_closed()
    assert await status(http, f"{sidecar.openai_url}/models", caller, anonymous=True) == 200
    assert not [log for log in logs if log["event"] == FAILED]
