"""The host ``[::]``: all addresses of the machine, of both families."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from sidecar.transport.listening import ListenError, socket_of_every_address
from sidecar.transport.status import StatusListener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

BOTH = ["127.0.0.1", "[::1]"]


def skip_without_ipv6(host: str) -> None:
    if ":" not in host:
        return
    try:
        with socket.create_server((host.strip("[]"), 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("this machine has no IPv6")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """That of a status listener on all addresses."""
    found = free_port()
    listener = StatusListener(f"[::]:{found}", CollectorRegistry())
    await listener.start()
    yield found
    await listener.close()


@pytest.mark.parametrize("host", BOTH)
async def test_probes_and_metrics_are_reached_at_addresses_of_both_families(
    port: int, host: str
) -> None:
    skip_without_ipv6(host)
    async with aiohttp.request("GET", f"http://{host}:{port}/livez") as response:
        assert response.status == 200


@pytest.mark.parametrize("host", BOTH)
async def test_the_openai_api_is_reached_at_addresses_of_both_families(
    open_front: Callable[..., Awaitable[Any]], host: str
) -> None:
    skip_without_ipv6(host)
    front = await open_front(openai_address="[::]:0", insecure=True)
    port = front.url.rpartition(":")[2].partition("/")[0]
    async with aiohttp.request("GET", f"http://{host}:{port}/v1/models") as response:
        assert response.status == 200


async def test_a_port_that_another_process_has_on_ipv4_alone_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listener = StatusListener(f"[::]:{port}", CollectorRegistry())
        with pytest.raises(ListenError, match=r"cannot serve metrics on \[::\]:\d+ \(Address alr"):
            await listener.start()


async def test_without_ipv6_in_the_kernel_the_addresses_of_ipv4_are_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    listening = socket_of_every_address("::", 0)
    assert listening is not None
    with listening:
        assert listening.family == socket.AF_INET
        with socket.create_connection(("127.0.0.1", listening.getsockname()[1])):
            pass


@pytest.mark.parametrize("host", ["0.0.0.0", "::1", "localhost", "127.0.0.1"])  # noqa: S104
def test_other_hosts_mean_what_they_say(host: str) -> None:
    assert socket_of_every_address(host, 0) is None
