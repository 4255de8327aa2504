"""Requests that are no reviews, too many, too large or too slow: all are answered or ended."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import ssl
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from sidecar.injector.metrics import InjectorMetrics
from sidecar.injector.review import Reviewer
from sidecar.injector.server import Bounds, Webhook
from sidecar.injector.settings import InjectorSettings
from sidecar.transport.certificate import ServerCertificate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from bench.certificates import Authority, MountedPair
    from bench.injector_process import InjectorProcess

HANG_GUARD = 60.0
MIB = 2**20


@pytest.fixture
async def connect(
    injector: InjectorProcess, authority: Authority
) -> AsyncIterator[Callable[..., Any]]:
    """Opens bare TLS connections, to the injector unless a port is given; all are closed."""
    context = ssl.create_default_context(cadata=authority.pem.decode())
    writers: list[asyncio.StreamWriter] = []

    async def open_one(
        port: int = injector.port,
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        plain.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(
            sock=plain, ssl=context, server_hostname="127.0.0.1"
        )
        writers.append(writer)
        return reader, writer

    yield open_one
    for writer in writers:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def head(length: int, *more: str) -> bytes:
    lines = ["POST /mutate HTTP/1.1", "Host: injector", "Content-Type: application/json"]
    return "\r\n".join([*lines, f"Content-Length: {length}", *more, "", ""]).encode()


NO_REVIEWS: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "the body is not JSON"),
    "nothing": (b"", "the body is not JSON"),
    "no text": (b"\xff\xfe\xfd", "the body is not JSON"),
    "a number that JSON lacks": (b'{"kind": NaN}', "the body is not JSON"),
    "a number without end": (b"9" * 10_000, "the body is not JSON"),
    "a list": (b"[]", "send an object of the kind AdmissionReview"),
    "another kind": (b'{"kind": "Pod"}', "send an object of the kind AdmissionReview"),
    "an old version": (
        b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1beta1", "request": {}}',
        "only admission.k8s.io/v1 is understood",
    ),
    "no request": (
        b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1"}',
        "the review has no request with a uid",
    ),
    "no uid": (
        b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": {}}',
        "the review has no request with a uid",
    ),
    "nested without end": (b"[" * 200_000, "the JSON is nested too deeply"),
}


@pytest.mark.parametrize(("body", "reason"), NO_REVIEWS.values(), ids=NO_REVIEWS)
async def test_refused_is(body: bytes, reason: str, caller: Any) -> None:
    before = await caller.metric('embercache_injector_requests_total{outcome="bad_request"}')
    answer = await caller.post(body)
    assert answer.status == 400
    assert reason in answer.text
    after = await caller.metric('embercache_injector_requests_total{outcome="bad_request"}')
    assert after - before == 1


async def test_a_pod_nested_as_deeply_as_can_be_parsed_is_answered(
    caller: Any, make_pod: Callable[..., Any], make_review: Callable[..., Any]
) -> None:
    pod = make_pod()
    text = json.dumps(make_review(pod))
    for depth in (100, 400, 900, 940, 960):
        nested = text.replace('"web"', "[" * depth + "]" * depth, 1)
        answer = await caller.post(nested.encode())
        assert answer.status == 400 or answer.response["allowed"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/vnd.kubernetes.protobuf"])
async def test_other_content_is_refused(content_type: str, caller: Any) -> None:
    answer = await caller.post(b"{}", content_type=content_type)
    assert (answer.status, answer.text) == (415, "send application/json, not compressed\n")


async def test_compressed_content_is_refused_before_it_is_unpacked(
    connect: Callable[..., Any],
) -> None:
    reader, writer = await connect()
    bomb = gzip.compress(b" " * 64 * MIB)
    writer.write(head(len(bomb), "Content-Encoding: gzip") + bomb)
    assert await reader.readline() == b"HTTP/1.1 415 Unsupported Media Type\r\n"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/mutate", 405), ("POST", "/", 404), ("GET", "/", 404)]
)
async def test_other_methods_and_paths_are_refused(
    method: str, path: str, status: int, connect: Callable[..., Any]
) -> None:
    reader, writer = await connect()
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: injector\r\n\r\n".encode())
    assert (await reader.readline()).split()[1] == str(status).encode()


async def test_what_is_no_http_is_refused_and_not_quoted_in_the_log(
    connect: Callable[..., Any], injector: InjectorProcess
) -> None:
    reader, writer = await connect()
    writer.write(b"not-to-be-quoted \x01\r\n\r\n")
    assert (await reader.readline()).split()[1] == b"400"
    assert "not-to-be-quoted" not in injector.log


async def test_the_largest_review_that_the_api_server_may_send_is_answered(
    caller: Any, make_pod: Callable[..., Any], make_review: Callable[..., Any]
) -> None:
    pod = make_pod()
    pod["spec"]["containers"][0]["args"] = ["x" * (3 * MIB)]
    assert (await caller.review(make_review(pod))).patch


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_larger_one_is_refused_without_being_kept(
    chunked: bool, connect: Callable[..., Any]
) -> None:
    reader, writer = await connect()
    if chunked:
        lines = head(0, "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
        writer.write(lines + b"500000\r\n" + b" " * 5 * MIB)
    else:
        writer.write(head(5 * MIB))
    assert await reader.readline() == b"HTTP/1.1 413 Request Entity Too Large\r\n"


async def test_hundreds_at_once_are_all_answered_each_with_its_own_answer(
    caller: Any, make_pod: Callable[..., Any], make_review: Callable[..., Any]
) -> None:
    count = 300
    reviews = [
        make_review(make_pod(model=f"pack-{number}"), uid=f"uid-{number}")
        for number in range(count)
    ]
    answers = await asyncio.gather(*(caller.review(review) for review in reviews))
    for number, answer in enumerate(answers):
        assert answer.response["uid"] == f"uid-{number}"
        assert f'"pack-{number}"' in json.dumps(answer.patch)


async def test_large_ones_at_once_are_all_answered(
    caller: Any, make_pod: Callable[..., Any], make_review: Callable[..., Any]
) -> None:
    pod = make_pod()
    pod["spec"]["containers"][0]["args"] = ["x" * (2 * MIB)]
    review = make_review(pod)
    answers = await asyncio.gather(*(caller.review(review) for _ in range(40)))
    assert all(answer.patch for answer in answers)


async def test_clients_that_hang_hold_up_nobody(
    caller: Any,
    connect: Callable[..., Any],
    make_pod: Callable[..., Any],
    make_review: Callable[..., Any],
) -> None:
    partial = [
        b"",
        b"POST /mutate HTT",
        head(1000),
        head(1000) + b'{"kind": ',
        head(3 * MIB) + b" " * MIB,
    ]
    for sent in partial * 20:
        _, writer = await connect()
        writer.write(sent)
        await writer.drain()
    for _ in range(20):
        assert (await caller.review(make_review(make_pod()))).patch


async def test_a_pod_that_would_keep_others_waiting_passes_without_sidecar(
    caller: Any, make_pod: Callable[..., Any], make_review: Callable[..., Any]
) -> None:
    crowded, wordy = make_pod(), make_pod()
    crowded["spec"]["containers"] = [{"name": f"c{number}"} for number in range(50_000)]
    wordy["metadata"]["annotations"]["embercache.io/containers"] = "app," * 100_000
    reasons = {
        "it has more than 500 containers": crowded,
        "its labels and annotations have more than 262144 characters": wordy,
    }
    for reason, pod in reasons.items():
        response = (await caller.review(make_review(pod))).response
        assert response["allowed"]
        assert response["warnings"] == [f"no Embercache sidecar was added: {reason}"]


class Tight(NamedTuple):
    port: int
    metrics: InjectorMetrics

    def requests(self, outcome: str) -> float | None:
        labels = {"outcome": outcome}
        name = "embercache_injector_requests_total"
        return self.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
async def tight(pair: MountedPair) -> AsyncIterator[Tight]:
    """A webhook with little patience and room for three connections."""
    metrics = InjectorMetrics()
    reviewer = Reviewer(InjectorSettings(), own_namespace="", native=lambda: True)
    bounds = Bounds(
        connections=3,
        handshake_seconds=0.1,
        body_seconds=0.5,
        answer_seconds=0.1,
        linger_seconds=0.1,
    )
    webhook = Webhook(reviewer, metrics, bounds)
    certificate = ServerCertificate(pair.certificate, pair.key, metrics.certificate)
    yield Tight(await webhook.start("127.0.0.1", 0, certificate.context("webhook")), metrics)
    await webhook.stop()


async def ended(reader: asyncio.StreamReader) -> bool:
    """Waits for the end of a connection."""
    async with asyncio.timeout(HANG_GUARD):
        with contextlib.suppress(ConnectionError):
            await reader.read()
    return True


async def test_a_body_that_does_not_come_is_given_up(
    tight: Tight, connect: Callable[..., Any]
) -> None:
    reader, writer = await connect(tight.port)
    writer.write(head(1000) + b"{")
    assert await reader.readline() == b"HTTP/1.1 408 Request Timeout\r\n"
    assert await ended(reader)


async def test_who_never_ends_a_handshake_is_sent_away(tight: Tight) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", tight.port)
    assert await ended(reader)
    writer.close()


async def test_who_does_not_take_the_answer_is_sent_away(
    tight: Tight,
    connect: Callable[..., Any],
    make_pod: Callable[..., Any],
    make_review: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    reader, writer = await connect(tight.port)
    pod = make_pod()
    pod["spec"]["containers"] = [{"name": f"c{number}"} for number in range(500)]
    body = json.dumps(make_review(pod)).encode()
    writer.transport.pause_reading()
    # So many answers that no buffers hold them.
    count = 200
    writer.write((head(len(body)) + body) * count)
    await eventually(lambda: tight.requests("failed"))
    writer.transport.resume_reading()
    received = b""
    async with asyncio.timeout(HANG_GUARD):
        with contextlib.suppress(ConnectionError):
            while more := await reader.read(MIB):
                received += more
    assert 0 < received.count(b"HTTP/1.1 200 OK") < count


async def test_the_oldest_idle_connection_makes_room_for_a_new_one(
    tight: Tight, connect: Callable[..., Any]
) -> None:
    opened = [await connect(tight.port) for _ in range(4)]
    assert await ended(opened[0][0])
    for reader, writer in opened[1:]:
        writer.write(head(2) + b"{}")
        assert await reader.readline() == b"HTTP/1.1 400 Bad Request\r\n"
