"""The listener for probes and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector

from sidecar.transport import status as status_module
from sidecar.transport.listening import ListenError
from sidecar.transport.status import StatusListener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from prometheus_client.metrics_core import Metric

HANG_GUARD = 30.0
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Gauge("embercache_test", "A gauge.", registry=registry).set(7)
    return registry


@pytest.fixture
async def listener(registry: CollectorRegistry) -> AsyncIterator[StatusListener]:
    listener = StatusListener(free_address(), registry)
    await listener.start()
    yield listener
    await listener.close()


@pytest.fixture
async def http(listener: StatusListener) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://{listener.address}") as session:
        yield session


async def connect(
    listener: StatusListener,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = listener.address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def status(http: aiohttp.ClientSession, path: str, method: str = "GET") -> int:
    async with http.request(method, path) as response:
        return response.status


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_it_lives_while_the_loop_turns(http: aiohttp.ClientSession, method: str) -> None:
    assert await status(http, "/livez", method) == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_it_is_ready_while_calls_are_taken(
    http: aiohttp.ClientSession, listener: StatusListener, method: str
) -> None:
    assert await status(http, "/readyz", method) == 503
    listener.is_ready = lambda: True
    assert await status(http, "/readyz", method) == 200
    listener.is_ready = lambda: False
    assert await status(http, "/readyz", method) == 503
    assert await status(http, "/livez", method) == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_no_proxy_keeps_what_a_probe_was_told(http: aiohttp.ClientSession, path: str) -> None:
    async with http.get(path) as response:
        assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/", "/metrics/", "/livez/more", "/favicon.ico"])
async def test_there_is_nothing_elsewhere(http: aiohttp.ClientSession, path: str) -> None:
    assert await status(http, path) == 404


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_it_takes_no_other_method(http: aiohttp.ClientSession, path: str) -> None:
    async with http.post(path) as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET,HEAD"


async def test_metrics_are_text_unless_asked_otherwise(http: aiohttp.ClientSession) -> None:
    async with http.get("/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        (family,) = parse_text(await response.text())
    assert (family.name, family.samples[0].value) == ("embercache_test", 7)


async def test_metrics_are_openmetrics_if_asked(http: aiohttp.ClientSession) -> None:
    async with http.get("/metrics", headers={"Accept": OPENMETRICS}) as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        (family,) = parse_openmetrics(await response.text())
    assert (family.name, family.samples[0].value) == ("embercache_test", 7)


@pytest.mark.parametrize(
    "accepted",
    [
        "application/openmetrics-text;version=1.0.0;q=0,text/plain",
        "application/openmetrics-text;version=rubbish",
    ],
)
async def test_metrics_are_text_if_openmetrics_cannot_be_meant(
    accepted: str, http: aiohttp.ClientSession
) -> None:
    async with http.get("/metrics", headers={"Accept": accepted}) as response:
        assert response.headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("deflate, gzip", "gzip"),
        ("gzip;q=0.5", "gzip"),
        ("identity", None),
        ("br", None),
        ("gzip;q=0, identity", None),
        ("gzip; q=0.00", None),
    ],
)
async def test_metrics_are_compressed_if_asked(
    accepted: str, encoding: str | None, http: aiohttp.ClientSession
) -> None:
    async with http.get("/metrics", headers={"Accept-Encoding": accepted}) as response:
        assert response.headers.get("Content-Encoding") == encoding
        assert "embercache_test 7.0" in await response.text()


async def test_the_head_of_metrics_is_that_of_the_page(http: aiohttp.ClientSession) -> None:
    async with http.get("/metrics", headers={"Accept-Encoding": "identity"}) as whole:
        size = len(await whole.read())
    async with http.head("/metrics", headers={"Accept-Encoding": "identity"}) as head:
        assert head.headers["Content-Length"] == str(size)
        assert await head.read() == b""


class Slow(Collector):
    """Metrics that take until they are allowed; notes the thread."""

    def __init__(self) -> None:
        self.began, self.go_on = threading.Event(), threading.Event()
        self.thread: int | None = None

    def collect(self) -> Iterator[Metric]:
        self.thread = threading.get_ident()
        self.began.set()
        assert self.go_on.wait(30)
        yield GaugeMetricFamily("embercache_slow", "Slow.", 1)


async def test_the_loop_turns_while_a_page_of_metrics_is_written(
    http: aiohttp.ClientSession,
    listener: StatusListener,
    registry: CollectorRegistry,
    eventually: Any,
) -> None:
    slow = Slow()
    registry.register(slow)
    read_on: list[int] = []
    listener.before_metrics = lambda: read_on.append(threading.get_ident())
    page = asyncio.create_task(status(http, "/metrics"))
    await eventually(slow.began.is_set)
    assert await status(http, "/livez") == 200
    slow.go_on.set()
    assert await page == 200
    # What changes in the loop is read there.
    assert read_on == [threading.get_ident()]
    assert slow.thread != threading.get_ident()


async def test_who_asks_while_a_page_of_metrics_is_written_gets_that_one(
    http: aiohttp.ClientSession,
    listener: StatusListener,
    registry: CollectorRegistry,
    eventually: Any,
) -> None:
    slow = Slow()
    registry.register(slow)
    pages: list[int] = []
    listener.before_metrics = lambda: pages.append(1)
    first = asyncio.create_task(status(http, "/metrics"))
    await eventually(slow.began.is_set)
    others = [asyncio.create_task(status(http, "/metrics")) for _ in range(8)]
    await eventually(lambda: len(listener._busy) == 9)
    slow.go_on.set()
    assert await asyncio.gather(first, *others) == [200] * 9
    assert len(pages) == 1
    assert await status(http, "/metrics") == 200
    assert len(pages) == 2


@pytest.mark.parametrize("sent", [b"", b"GET /livez HTTP/1.1\r\nHost: x"])
async def test_a_connection_without_a_whole_request_is_ended(
    sent: bytes, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_module, "IDLE_SECONDS", 0.01)
    listener = StatusListener("127.0.0.1:0", registry)
    await listener.start()
    reader, writer = await connect(listener)
    writer.write(sent)
    async with asyncio.timeout(HANG_GUARD):
        assert await reader.read() == b""
    writer.close()
    await listener.close()


async def test_the_oldest_idle_connection_makes_room_for_a_new_one(
    http: aiohttp.ClientSession, listener: StatusListener
) -> None:
    idle = [await connect(listener) for _ in range(status_module.MOST_CONNECTIONS)]
    assert await status(http, "/livez") == 200
    async with asyncio.timeout(HANG_GUARD):
        with contextlib.suppress(ConnectionResetError):
            assert await idle[0][0].read() == b""
    assert not idle[1][0].at_eof()
    for _, writer in idle:
        writer.close()


@pytest.mark.parametrize("path", ["/livez", "/metrics"])
@pytest.mark.parametrize("headers", [{"Host": "rebound.example"}, {"Origin": "http://127.0.0.1"}])
async def test_pages_of_browsers_are_refused(
    path: str, headers: dict[str, str], http: aiohttp.ClientSession
) -> None:
    async with http.get(path, headers=headers) as response:
        assert response.status == 403


async def test_a_listener_that_other_machines_reach_is_called_by_any_name(
    registry: CollectorRegistry,
) -> None:
    listener = StatusListener("[::]:0", registry)
    await listener.start()
    address = f"http://127.0.0.1:{listener.address.rpartition(':')[2]}/livez"
    name = {"Host": "pool.ns.svc"}
    async with aiohttp.ClientSession() as http, http.get(address, headers=name) as response:
        assert response.status == 200
    await listener.close()


async def test_the_port_that_was_bound_is_told(registry: CollectorRegistry) -> None:
    listener = StatusListener("127.0.0.1:0", registry)
    await listener.start()
    async with aiohttp.ClientSession(f"http://{listener.address}") as http:
        assert await status(http, "/livez") == 200
    await listener.close()


@pytest.mark.parametrize("host", ["a" * 64, "a..b"])
async def test_what_can_be_no_name_of_a_host_is_refused(
    host: str, registry: CollectorRegistry
) -> None:
    with pytest.raises(ListenError, match=r"\(that is no name of a host\): set server"):
        await StatusListener(f"{host}:9000", registry).start()


async def test_what_is_no_http_is_refused(listener: StatusListener) -> None:
    reader, writer = await connect(listener)
    writer.write(b"\x00\x01 rubbish\r\n\r\n")
    assert b"400" in await reader.readline()
    writer.close()


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "[::1]:{port}", "localhost:{port}"])
async def test_it_listens_on_names_and_both_families(
    address: str, registry: CollectorRegistry
) -> None:
    address = address.format(port=free_address().rpartition(":")[2])
    listener = StatusListener(address, registry)
    await listener.start()
    async with aiohttp.ClientSession(f"http://{address}") as http:
        assert await status(http, "/livez") == 200
    await listener.close()


async def test_an_address_that_is_taken_is_named_with_what_to_do(
    listener: StatusListener, registry: CollectorRegistry
) -> None:
    reason = rf"cannot serve metrics on {listener.address} \(Address already in use\): set server"
    with pytest.raises(ListenError, match=reason):
        await StatusListener(listener.address, registry).start()


async def test_a_host_that_does_not_exist_is_named(registry: CollectorRegistry) -> None:
    with pytest.raises(ListenError, match=r"cannot serve metrics on nowhere.invalid:1 \(\w"):
        await StatusListener("nowhere.invalid:1", registry).start()
