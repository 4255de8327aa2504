"""The gRPC listener with TLS, called by real gRPC clients."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cryptography import x509

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Caller = Any
    Connect = Callable[..., Caller]
    Party = Any
    Start = Callable[..., Awaitable[Any]]

HANG_GUARD = 30.0
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


async def shown_by(address: str, **bounds: Any) -> tuple[int, str]:
    """The serial number of the certificate that a listener shows, and the version of TLS.

    ``bounds`` are attributes of the context that asks.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    context.set_ciphers(bounds.pop("ciphers", "ALL:@SECLEVEL=0"))
    for name, value in bounds.items():
        setattr(context, name, value)
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    connection = writer.get_extra_info("ssl_object")
    der, version = connection.getpeercert(binary_form=True), connection.version()
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return x509.load_der_x509_certificate(der).serial_number, version


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(HANG_GUARD):
        while not await condition():
            await asyncio.sleep(0.02)


async def test_calls_are_answered_over_tls(
    start: Start, tls: dict[str, Any], connect: Connect, make_party: Callable[..., Party]
) -> None:
    sidecar = await start(tls=tls)
    nobody = grpc.ssl_channel_credentials(make_party("nobody").ca.read_bytes())
    assert await connect(sidecar.address, nobody).embed(2) == [2, 2, 2]


async def test_who_speaks_plain_http2_fails_cleanly_and_others_are_served(
    start: Start, tls: dict[str, Any], connect: Connect, caller: Party
) -> None:
    sidecar = await start(tls=tls)
    assert (await connect(sidecar.address).failure())[0] is UNAVAILABLE
    assert await connect(sidecar.address, caller.credentials()).embed() == [1, 1, 1]


async def test_who_speaks_tls_to_a_plain_port_fails_cleanly_and_others_are_served(
    start: Start, connect: Connect, caller: Party
) -> None:
    sidecar = await start()
    code, reason = await connect(sidecar.address, caller.credentials()).failure()
    assert code is UNAVAILABLE
    assert "WRONG_VERSION_NUMBER" in reason
    assert await connect(sidecar.address).embed() == [1, 1, 1]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
@pytest.mark.threat("A stranger reads calls on the wire")
async def test_versions_before_1_2_and_ciphers_without_authentication_are_refused(
    start: Start, tls: dict[str, Any]
) -> None:
    sidecar = await start(tls=tls)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        assert await shown_by(sidecar.address, minimum_version=version, maximum_version=version)
    old = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ConnectionError, ssl.SSLError)):
        await shown_by(sidecar.address, minimum_version=old, maximum_version=old)
    with pytest.raises((ConnectionError, ssl.SSLError)):
        await shown_by(
            sidecar.address,
            maximum_version=ssl.TLSVersion.TLSv1_2,
            ciphers="ECDHE-ECDSA-AES128-SHA256:@SECLEVEL=0",
        )


@pytest.mark.threat("A stranger without a certificate calls")
async def test_with_mutual_tls_only_callers_with_a_good_certificate_are_served(
    start: Start,
    mutual_tls: dict[str, Any],
    connect: Connect,
    caller: Party,
    unknown_callers: dict[str, Party],
) -> None:
    sidecar = await start(tls=mutual_tls)
    assert await connect(sidecar.address, caller.credentials()).embed() == [1, 1, 1]
    without = grpc.ssl_channel_credentials(caller.ca.read_bytes())
    assert (await connect(sidecar.address, without).failure())[0] is UNAVAILABLE
    for what, unknown in unknown_callers.items():
        code, _ = await connect(sidecar.address, unknown.credentials()).failure()
        assert code is UNAVAILABLE, what


async def test_callers_refuse_a_certificate_of_an_authority_that_they_do_not_know(
    start: Start, tls: dict[str, Any], connect: Connect, other_authority: Any
) -> None:
    sidecar = await start(tls=tls)
    suspicious = grpc.ssl_channel_credentials(other_authority.pem)
    assert (await connect(sidecar.address, suspicious).failure())[0] is UNAVAILABLE


async def test_no_call_fails_while_certificates_are_replaced(
    start: Start,
    mutual_tls: dict[str, Any],
    connect: Connect,
    server: Party,
    caller: Party,
    eventually: Callable[..., Awaitable[None]],
) -> None:
    sidecar = await start(tls=mutual_tls)
    kept = connect(sidecar.address, caller.credentials())
    ended = asyncio.Event()
    answered = 0

    async def call(over: Caller) -> None:
        nonlocal answered
        answered += 1
        number = answered
        assert await over.embed(number) == [number] * 3

    async def over_a_kept_connection() -> None:
        while not ended.is_set():
            await call(kept)

    async def over_new_connections() -> None:
        while not ended.is_set():
            new = connect(sidecar.address, caller.credentials())
            await call(new)
            await new.channel.close()

    async with asyncio.TaskGroup() as load:
        for work in (over_a_kept_connection, over_new_connections, over_new_connections):
            load.create_task(work())
        for _ in range(3):
            new = server.renew()
            await until(lambda new=new: is_shown(sidecar.address, new))
            enough = answered + 10
            await eventually(lambda enough=enough: answered > enough)
        ended.set()


async def is_shown(address: str, serial: int) -> bool:
    return (await shown_by(address))[0] == serial


async def test_a_pair_that_is_no_good_leaves_the_one_before_in_use_and_is_logged_once(
    start: Start,
    tls: dict[str, Any],
    connect: Connect,
    server: Party,
    caller: Party,
    logs: list[Any],
    eventually: Callable[..., Awaitable[None]],
) -> None:
    sidecar = await start(tls=tls)
    before, _ = await shown_by(sidecar.address)
    certificate, key = server.pair.certificate.read_bytes(), server.authority.issue()[1]
    server.pair.put(certificate, key)
    failed = {"event": "the new certificate cannot be used", "log_level": "error"}
    await eventually(lambda: told(logs, failed))
    assert await is_shown(sidecar.address, before)
    assert await connect(sidecar.address, caller.credentials()).embed() == [1, 1, 1]
    renewed = server.renew()
    await until(lambda: is_shown(sidecar.address, renewed))
    (log,) = told(logs, failed)
    assert str(server.pair.key) in log["reason"]
    assert "KEY_VALUES_MISMATCH" in log["reason"]


def told(logs: list[Any], wanted: dict[str, str]) -> list[Any]:
    return [log for log in logs if wanted.items() <= log.items()]


async def test_callers_of_another_authority_are_let_in_when_its_certificate_comes(
    start: Start,
    mutual_tls: dict[str, Any],
    connect: Connect,
    server: Party,
    caller: Party,
    unknown_callers: dict[str, Party],
    other_authority: Any,
) -> None:
    sidecar = await start(tls=mutual_tls)
    kept = connect(sidecar.address, caller.credentials())
    await kept.embed()
    stranger = unknown_callers["of an authority that is not known"]
    await connect(sidecar.address, stranger.credentials()).failure()
    server.trust(other_authority)

    async def is_let_in() -> bool:
        try:
            await connect(sidecar.address, stranger.credentials()).embed()
        except grpc.aio.AioRpcError:
            return False
        return True

    await until(is_let_in)
    assert (await connect(sidecar.address, caller.credentials()).failure())[0] is UNAVAILABLE
    # What is open stays open.
    assert await kept.embed() == [1, 1, 1]


async def test_the_unix_socket_is_not_encrypted(
    start: Start, mutual_tls: dict[str, Any], connect: Connect, tmp_path: Path
) -> None:
    socket = f"unix:{tmp_path}/s"
    await start(tls=mutual_tls, server={"socket": f"{tmp_path}/s"})
    assert await connect(socket).embed() == [1, 1, 1]
