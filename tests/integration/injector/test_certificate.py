"""The certificate is replaced while the webhook serves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from bench.injector_process import InjectorProcess
from sidecar.files_in_use import FilesError
from sidecar.injector.metrics import InjectorMetrics
from sidecar.transport.certificate import ServerCertificate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from bench.certificates import Authority, MountedPair

HANG_GUARD = 60.0
EXPIRY = "embercache_injector_certificate_expiry_timestamp_seconds"
RELOADS = "embercache_injector_certificate_reloads_total"
FAILURES = "embercache_injector_certificate_failures_total"


@pytest.fixture
def process(tmp_path: Path, pair: MountedPair) -> Iterator[InjectorProcess]:
    with InjectorProcess(tmp_path, pair, drain_delay="0s") as started:
        yield started


@pytest.fixture
def own_caller(calling: Callable[[InjectorProcess], Any], process: InjectorProcess) -> Any:
    return calling(process)


async def shown_by(process: InjectorProcess, server_name: str | None = None) -> int:
    """The serial number of the certificate that a new connection is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection(
        "127.0.0.1", process.port, ssl=context, server_hostname=server_name or ""
    )
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    await end(writer)
    return x509.load_der_x509_certificate(der).serial_number


async def end(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


def serial(certificate: bytes) -> int:
    return x509.load_pem_x509_certificate(certificate).serial_number


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(HANG_GUARD):
        while not await condition():
            await asyncio.sleep(0.02)


async def test_a_new_certificate_is_shown_to_new_connections_with_and_without_server_name(
    authority: Authority, pair: MountedPair, process: InjectorProcess
) -> None:
    first = await shown_by(process)
    certificate, key = authority.issue()
    pair.put(certificate, key)
    await until(lambda: is_shown(process, serial(certificate)))
    assert await shown_by(process, "localhost") == serial(certificate) != first


async def is_shown(process: InjectorProcess, expected: int) -> bool:
    return await shown_by(process) == expected


async def test_the_expiry_of_the_certificate_in_use_is_a_metric(
    authority: Authority, pair: MountedPair, own_caller: Any
) -> None:
    for days in (2, 5):
        certificate, key = authority.issue(days=days)
        pair.put(certificate, key)
        end = x509.load_pem_x509_certificate(certificate).not_valid_after_utc.timestamp()
        await until(lambda end=end: metric_is(own_caller, EXPIRY, end))
    assert await own_caller.metric(RELOADS) == 2
    assert await own_caller.metric(FAILURES) == 0


async def metric_is(caller: Any, name: str, value: float) -> bool:
    return await caller.metric(name) == value


async def test_no_request_fails_while_certificates_are_replaced_under_load(
    authority: Authority,
    pair: MountedPair,
    process: InjectorProcess,
    own_caller: Any,
    make_pod: Callable[..., Any],
    make_review: Callable[..., Any],
) -> None:
    review = make_review(make_pod())
    ended = asyncio.Event()
    answered = 0

    async def over_kept_connections() -> None:
        nonlocal answered
        while not ended.is_set():
            assert (await own_caller.review(review)).patch
            answered += 1

    async def over_new_connections() -> None:
        nonlocal answered
        context = ssl.create_default_context(cadata=authority.pem.decode())
        body = json.dumps(review).encode()
        lines = ["POST /mutate HTTP/1.1", "Host: injector", "Content-Type: application/json"]
        lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
        while not ended.is_set():
            reader, writer = await asyncio.open_connection("127.0.0.1", process.port, ssl=context)
            writer.write("\r\n".join(lines).encode() + body)
            assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
            await end(writer)
            answered += 1

    async with asyncio.TaskGroup() as load:
        for work in (over_kept_connections, over_new_connections) * 3:
            load.create_task(work())
        for reloads in range(1, 4):
            before = answered
            pair.put(*authority.issue())
            await until(lambda count=reloads: metric_is(own_caller, RELOADS, count))
            assert answered > before
        ended.set()


def broken_pairs(authority: Authority) -> dict[str, tuple[bytes, bytes]]:
    certificate, key = authority.issue()
    return {
        "of two pairs": (certificate, authority.issue()[1]),
        "without certificate": (b"", key),
        "cut off": (certificate[:200], key),
        "no PEM": (b"\xff\x00", b"\xff\x00"),
        "without key": (certificate, b""),
    }


async def test_a_broken_pair_leaves_the_one_before_in_use_and_is_told_once(
    authority: Authority, pair: MountedPair, process: InjectorProcess, own_caller: Any
) -> None:
    first = await shown_by(process)
    for count, broken in enumerate(broken_pairs(authority).values(), start=1):
        pair.put(*broken)
        await until(lambda count=count: metric_is(own_caller, FAILURES, count))
        assert await shown_by(process) == first
    told = [event for event in process.events if event["level"] == "error"]
    assert len(told) == len(broken_pairs(authority))
    assert all(str(pair.certificate) in event["reason"] for event in told)
    assert await own_caller.metric(RELOADS) == 0
    certificate, key = authority.issue()
    pair.put(certificate, key)
    await until(lambda: is_shown(process, serial(certificate)))


async def test_files_that_go_and_come_back_do_no_harm(
    authority: Authority, pair: MountedPair, process: InjectorProcess, own_caller: Any
) -> None:
    first = await shown_by(process)
    pair.key.unlink()
    await until(lambda: metric_is(own_caller, FAILURES, 1))
    assert await shown_by(process) == first
    certificate, key = authority.issue()
    pair.put(certificate, key)
    await until(lambda: is_shown(process, serial(certificate)))


async def test_a_certificate_that_has_ended_is_still_shown_and_told_by_the_metric(
    authority: Authority, pair: MountedPair, process: InjectorProcess, own_caller: Any
) -> None:
    certificate, key = authority.issue(days=-1)
    pair.put(certificate, key)
    await until(lambda: is_shown(process, serial(certificate)))
    assert await own_caller.metric(EXPIRY) < datetime.now(UTC).timestamp()


def test_versions_of_tls_before_1_2_are_not_spoken(pair: MountedPair) -> None:
    certificate = ServerCertificate(pair.certificate, pair.key, InjectorMetrics().certificate)
    assert certificate.context("webhook").minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_key_with_a_password_is_refused_and_not_asked_for(
    authority: Authority, pair: MountedPair
) -> None:
    certificate, key = authority.issue()
    locked = serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    pair.put(certificate, locked)
    with pytest.raises(FilesError, match=f"{pair.certificate} with {pair.key}"):
        ServerCertificate(pair.certificate, pair.key, InjectorMetrics().certificate)


def test_a_pair_that_is_replaced_while_it_is_read_is_read_again(
    authority: Authority, pair: MountedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    later, load = authority.issue(days=9), ssl.SSLContext.load_cert_chain

    def load_after_change(context: ssl.SSLContext, *files: Path, **options: Any) -> None:
        monkeypatch.undo()
        pair.put(*later)
        load(context, *files, **options)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", load_after_change)
    metrics = InjectorMetrics()
    ServerCertificate(pair.certificate, pair.key, metrics.certificate)
    end = x509.load_pem_x509_certificate(later[0]).not_valid_after_utc.timestamp()
    assert metrics.registry.get_sample_value(EXPIRY) == end
