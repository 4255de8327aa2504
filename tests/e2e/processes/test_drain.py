"""SIGTERM: no call fails, what was computed is stored, the process ends well."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import common_pb2, embed_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

    Process = Any
    Sidecar = Any
    Launch = Callable[..., Process]
    View = Callable[[DevRedis], Any]
    Start = Callable[..., Awaitable[Any]]

HANG_GUARD = 30.0
CACHED = {"mode": common_pb2.CACHE_MODE_ONLY_IF_CACHED}
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def watch(sidecar: Sidecar) -> AsyncIterator[int]:
    """The states that the health service tells of."""
    stub = health_pb2_grpc.HealthStub(sidecar.channel)
    call = stub.Watch(health_pb2.HealthCheckRequest(), timeout=HANG_GUARD)
    try:
        async for state in call:
            yield state.status
    finally:
        call.cancel()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_no_call_in_progress_fails_and_health_says_no_first(
    number: signal.Signals, launch: Launch, client_of: Callable[[str], Sidecar]
) -> None:
    process = launch(server_drain_delay="1s")
    (address,) = process.wait_until_it_serves()
    sidecar = client_of(address)
    leaving = asyncio.Event()
    answered = asyncio.Event()

    async def call(worker: int) -> int:
        """Calls until it is told that the sidecar is leaving, as a load balancer would."""
        turn = 0
        while not leaving.is_set():
            (embedding,) = (await sidecar.embed(f"{worker} {turn}")).embeddings
            assert not embedding.error.code
            turn += 1
            answered.set()
        return turn

    workers = [asyncio.create_task(call(worker)) for worker in range(20)]
    await answered.wait()
    states = watch(sidecar)
    assert await anext(states) == SERVING
    process.popen.send_signal(number)
    assert await anext(states) == NOT_SERVING
    leaving.set()
    await states.aclose()
    assert sum(await asyncio.gather(*workers)) > 0
    assert await asyncio.to_thread(process.wait) == 0
    assert [event["event"] for event in process.events][-2:] == ["draining", "stopped"]
    assert not [event for event in process.events if event["level"] in ("error", "critical")]


async def test_calls_that_are_being_computed_are_answered(start: Start, held_model: Any) -> None:
    sidecar = await start()
    calls = [asyncio.create_task(sidecar.embed(f"text {number}")) for number in range(10)]
    async with asyncio.timeout(HANG_GUARD):
        while sum(held_model.sizes) + (await sidecar.stats()).models[0].queued < len(calls):
            pass
    stub = health_pb2_grpc.HealthStub(sidecar.channel)
    states = watch(sidecar)
    assert await anext(states) == SERVING
    stopping = asyncio.create_task(sidecar.stop())
    assert await anext(states) == NOT_SERVING
    await states.aclose()
    assert not any(call.done() for call in calls)
    held_model.let_go()
    for call in calls:
        assert (await call).embeddings[0].vector
    await stopping
    with pytest.raises((grpc.aio.AioRpcError, grpc.aio.UsageError)):
        await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)


async def test_what_was_computed_last_reaches_redis(
    launch: Launch,
    client_of: Callable[[str], Sidecar],
    redis_server: DevRedis,
    view: View,
    tmp_path: Path,
) -> None:
    flags = {
        "environment": {"EMBERCACHE_REDIS_URL": redis_server.url},
        "redis_timeout": "5s",
        "disk_folder": tmp_path / "disk",
    }
    process = launch(**flags)
    (address,) = process.wait_until_it_serves()
    sidecar = client_of(address)
    texts = [f"text {number}" for number in range(3000)]
    await sidecar.embed(*texts)
    process.terminate()
    assert await asyncio.to_thread(process.wait) == 0
    assert len(view(redis_server).entries()) == 3000
    # And the disk: another sidecar finds everything there.
    process = launch(**flags)
    (address,) = process.wait_until_it_serves()
    assert await client_of(address).tiers(*texts) == ["DISK"] * 3000


async def test_an_open_stream_does_not_hold_the_end_up_for_longer_than_its_time(
    launch: Launch, client_of: Callable[[str], Sidecar]
) -> None:
    process = launch(server_drain_timeout="200ms")
    (address,) = process.wait_until_it_serves()
    sidecar = client_of(address)
    call = sidecar.embeds.EmbedStream(timeout=HANG_GUARD)
    await call.write(embed_pb2.EmbedStreamRequest(request=sidecar.request("a text")))
    assert (await call.read()).response.embeddings
    process.terminate()
    assert await asyncio.to_thread(process.wait) == 0
    assert await call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


async def test_who_watches_its_health_does_not_hold_the_end_up(
    launch: Launch, client_of: Callable[[str], Sidecar]
) -> None:
    process = launch(server_drain_timeout="600s")
    (address,) = process.wait_until_it_serves()
    states = watch(client_of(address))
    assert await anext(states) == SERVING
    process.terminate()
    assert [state async for state in states] == [NOT_SERVING]
    assert await asyncio.to_thread(process.wait) == 0


async def test_a_second_signal_ends_it_at_once(
    launch: Launch, client_of: Callable[[str], Sidecar]
) -> None:
    process = launch(server_drain_delay="60s")
    (address,) = process.wait_until_it_serves()
    states = watch(client_of(address))
    assert await anext(states) == SERVING
    process.terminate()
    assert await anext(states) == NOT_SERVING
    process.terminate()
    assert await asyncio.to_thread(process.wait) == -signal.SIGTERM


async def test_a_killed_sidecar_leaves_nothing_that_its_successor_stumbles_over(
    launch: Launch, client_of: Callable[[str], Sidecar], tmp_path: Path
) -> None:
    flags = {"server_socket": tmp_path / "s", "disk_folder": tmp_path / "disk"}
    for turn in range(2):
        process = launch(**flags)
        addresses = process.wait_until_it_serves()
        sidecar = client_of(addresses[-1])
        assert sidecar.address == f"unix:{tmp_path / 's'}"
        if turn == 0:
            await sidecar.embed("a text")
        async with asyncio.timeout(HANG_GUARD):
            while await sidecar.tiers("a text", **CACHED) != ["DISK"]:
                await sidecar.flush(common_pb2.TIER_HOT)
        process.popen.kill()
        await asyncio.to_thread(process.wait)
