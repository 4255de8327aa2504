"""What probes see of a sidecar from its first moment to its last."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    Launch = Callable[..., Any]
    Probe = Callable[[str], Any]

HANG_GUARD = 60.0


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def probe(port: int) -> AsyncIterator[Probe]:
    """Asks a path; the status, or None if nobody listens."""
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=connector) as http:

        async def ask(path: str) -> int | None:
            try:
                async with http.get(path) as response:
                    return response.status
            except aiohttp.ClientConnectionError:
                return None

        yield ask


@pytest.fixture
def slow_encoder() -> Iterator[socket.socket]:
    """An encoder that takes connections and says nothing: a sidecar waits for it at start-up."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


async def until(probe: Probe, path: str, status: int | None) -> None:
    """Waits until a path is answered so."""
    async with asyncio.timeout(HANG_GUARD):
        while await probe(path) != status:
            await asyncio.sleep(0.01)


async def test_a_sidecar_that_starts_is_alive_but_not_ready(
    launch: Launch, port: int, probe: Probe, slow_encoder: socket.socket
) -> None:
    process = launch(
        server_metrics_address=f"127.0.0.1:{port}",
        model_packs="tiny",
        encoder_target=f"127.0.0.1:{slow_encoder.getsockname()[1]}",
        encoder_timeout="60s",
    )
    await until(probe, "/livez", 200)
    assert await probe("/readyz") == 503
    assert await probe("/metrics") == 200
    assert not any(event["event"] == "serving" for event in process.events)
    slow_encoder.close()
    await until(probe, "/readyz", 200)
    # Whoever is ready takes calls.
    (address,) = process.wait_until_it_serves()
    async with grpc.aio.insecure_channel(address) as channel:
        await asyncio.wait_for(channel.channel_ready(), HANG_GUARD)


async def test_a_sidecar_that_drains_is_alive_but_not_ready_while_it_takes_calls(
    launch: Launch, port: int, probe: Probe, client_of: Callable[[str], Any]
) -> None:
    process = launch(server_metrics_address=f"127.0.0.1:{port}", server_drain_delay="1h")
    (address,) = await asyncio.to_thread(process.wait_until_it_serves)
    sidecar = client_of(address)
    await sidecar.embed("before")
    assert await probe("/readyz") == 200
    process.terminate()
    await until(probe, "/readyz", 503)
    assert await sidecar.tiers("before", "while it drains") == ["HOT", "COMPUTED"]
    assert await probe("/livez") == 200
    assert await probe("/metrics") == 200


async def test_a_sidecar_that_has_ended_does_not_answer(
    launch: Launch, port: int, probe: Probe
) -> None:
    process = launch(server_metrics_address=f"127.0.0.1:{port}")
    await until(probe, "/readyz", 200)
    process.terminate()
    await until(probe, "/livez", None)
    assert await asyncio.to_thread(process.wait) == 0
    assert process.events[-1]["event"] == "stopped"


async def test_an_application_that_cannot_start_leaves_no_listener(
    launch: Launch, port: int, probe: Probe
) -> None:
    process = launch(server_metrics_address=f"127.0.0.1:{port}", model_packs="/nowhere/model")
    assert await asyncio.to_thread(process.wait) == 1
    assert await probe("/livez") is None
