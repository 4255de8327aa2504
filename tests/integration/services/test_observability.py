"""Health, reflection, counters and metrics."""

from __future__ import annotations

import asyncio
import socket
import urllib.request
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import cache_pb2, common_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from sidecar.cache.disk import DiskLockedError
from sidecar.transport.listening import ListenError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

    Sidecar = Any
    Start = Callable[..., Awaitable[Any]]

HANG_GUARD = 30.0
SERVICES = (
    "embercache.v1.CacheService",
    "embercache.v1.EmbedService",
    "embercache.v1.GenerateService",
    "embercache.v1.SearchService",
)
SERVER = {"address": "127.0.0.1:0", "drain_delay": 0}


async def reflect(sidecar: Sidecar, **request: Any) -> Any:
    stub = reflection_pb2_grpc.ServerReflectionStub(sidecar.channel)
    asked = reflection_pb2.ServerReflectionRequest(**request)
    async for answer in stub.ServerReflectionInfo(iter([asked]), timeout=HANG_GUARD):
        return answer
    raise AssertionError("no answer")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def scrape(port: int) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """The samples of the metrics page, by name and labels."""

    def read() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=HANG_GUARD) as page:
            text: str = page.read().decode()
        return text

    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(await asyncio.to_thread(read))
        for sample in family.samples
    }


@pytest.mark.parametrize("name", ["", *SERVICES])
async def test_each_service_and_the_whole_are_reported_as_serving(name: str, start: Start) -> None:
    sidecar = await start()
    stub = health_pb2_grpc.HealthStub(sidecar.channel)
    request = health_pb2.HealthCheckRequest(service=name)
    state = await stub.Check(request, timeout=HANG_GUARD)
    assert state.status == health_pb2.HealthCheckResponse.SERVING


async def test_health_knows_no_service_that_does_not_exist(start: Start) -> None:
    sidecar = await start()
    stub = health_pb2_grpc.HealthStub(sidecar.channel)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.Check(health_pb2.HealthCheckRequest(service="x"), timeout=HANG_GUARD)
    assert error.value.code() == grpc.StatusCode.NOT_FOUND


async def test_a_sidecar_is_healthy_while_redis_is_down(start: Start, own_redis: DevRedis) -> None:
    own_redis.kill()
    sidecar = await start(redis=own_redis)
    stub = health_pb2_grpc.HealthStub(sidecar.channel)
    state = await stub.Check(health_pb2.HealthCheckRequest(), timeout=HANG_GUARD)
    assert state.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_lists_every_service(start: Start) -> None:
    sidecar = await start()
    answer = await reflect(sidecar, list_services="")
    names = {service.name for service in answer.list_services_response.service}
    assert names == {
        *SERVICES,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


@pytest.mark.parametrize("symbol", [*SERVICES, "embercache.v1.EmbedRequest"])
async def test_reflection_describes_the_contract(symbol: str, start: Start) -> None:
    sidecar = await start()
    answer = await reflect(sidecar, file_containing_symbol=symbol)
    assert answer.file_descriptor_response.file_descriptor_proto


async def test_the_counters_tell_what_happened(start: Start, tmp_path: Path) -> None:
    sidecar = await start(disk=tmp_path / "disk", hot={"max_bytes": 10_000_000})
    await sidecar.embed("one", "two", "one")
    await sidecar.embed("one", "two", "\N{SKULL AND CROSSBONES}")
    await sidecar.on_disk(2)
    await sidecar.flush(common_pb2.TIER_HOT)
    for _ in range(3):
        await sidecar.embed("one")
    stats = await sidecar.stats()
    assert await sidecar.answered() == {
        "COMPUTED": 2,
        "COALESCED": 1,
        "HOT": 4,
        "DISK": 1,
        "WARM": 0,
    }
    assert stats.version
    assert stats.uptime_seconds > 0
    assert stats.response_hits == 1
    assert stats.items_failed == 1
    (model,) = stats.models
    # It has read the text that has no vector, too.
    assert (model.name, model.computed, model.tokens) == ("tiny", 2, 7)
    assert model.batches >= 2
    hot, disk, *_ = stats.tiers
    assert (hot.tier, hot.entries, hot.capacity_bytes) == (common_pb2.TIER_HOT, 2, 10_000_000)
    assert hot.bytes > 0
    assert (disk.tier, disk.entries) == (common_pb2.TIER_DISK, 2)
    assert 0 < disk.bytes < disk.capacity_bytes


async def test_metrics_agree_with_the_counters(start: Start, redis_server: DevRedis) -> None:
    port = free_port()
    sidecar = await start(
        redis=redis_server, server=SERVER | {"metrics_address": f"127.0.0.1:{port}"}
    )
    for _ in range(3):
        await sidecar.embed("one", "two", "\N{SKULL AND CROSSBONES}")
    for _ in range(3):
        await sidecar.embed("one")
    with pytest.raises(grpc.aio.AioRpcError):
        await sidecar.embed()
    samples = await scrape(port)
    stats = await sidecar.stats()

    def metric(name: str, **labels: str) -> float:
        return samples["embercache_" + name, frozenset(labels.items())]

    for tier in stats.tiers:
        name = common_pb2.Tier.Name(tier.tier).removeprefix("TIER_").lower()
        assert metric("items_answered_total", tier=name) == tier.answered
    assert metric("items_answered_total", tier="hot") == 4 + 3
    assert metric("response_hits_total") == stats.response_hits == 2
    assert metric("items_failed_total") == stats.items_failed == 3
    (model,) = stats.models
    assert metric("model_inputs_total", model="tiny") == model.computed == 2
    assert metric("model_batches_total", model="tiny") == model.batches
    assert metric("model_tokens_total", model="tiny") == model.tokens
    assert metric("model_queued", model="tiny") == 0
    assert metric("entries", tier="hot") == stats.tiers[0].entries
    assert metric("bytes", tier="hot") == stats.tiers[0].bytes
    assert metric("redis_up") == 1
    assert metric("call_seconds_count", method="Embed") == 6
    assert metric("calls_failed_total", method="Embed", code="INVALID_ARGUMENT") == 1
    assert any(name == "process_cpu_seconds_total" for name, _ in samples)


async def test_metrics_say_when_redis_is_down(start: Start, own_redis: DevRedis) -> None:
    own_redis.kill()
    port = free_port()
    server = SERVER | {"metrics_address": f"127.0.0.1:{port}"}
    sidecar = await start(redis=own_redis, server=server)
    await sidecar.embed("a text")
    samples = await scrape(port)
    assert samples["embercache_redis_up", frozenset()] == 0
    assert samples["embercache_redis_skipped_total", frozenset()] >= 1


async def test_a_port_of_metrics_that_is_taken_is_named(start: Start) -> None:
    port = free_port()
    server = SERVER | {"metrics_address": f"127.0.0.1:{port}"}
    await start(server=server)
    with pytest.raises(ListenError, match=f"{port} .*: set server.metrics_address"):
        await start(server=server)


async def test_an_address_that_is_taken_is_named(start: Start) -> None:
    sidecar = await start()
    with pytest.raises(ListenError, match=f"cannot listen on {sidecar.address}"):
        await start(server={"address": sidecar.address})
    assert await sidecar.tiers("a text") == ["COMPUTED"]


async def test_a_folder_of_the_disk_tier_that_is_taken_is_named(
    start: Start, tmp_path: Path
) -> None:
    sidecar = await start(disk=tmp_path / "disk")
    with pytest.raises(DiskLockedError, match="give every sidecar a folder of its own"):
        await start(disk=tmp_path / "disk")
    assert await sidecar.tiers("a text") == ["COMPUTED"]


async def test_counters_can_be_asked_for_in_bytes_that_hold_nothing(start: Start) -> None:
    sidecar = await start()
    raw = sidecar.channel.unary_unary("/embercache.v1.CacheService/Stats")
    answer = cache_pb2.StatsResponse.FromString(await raw(b"", timeout=HANG_GUARD))
    assert [model.name for model in answer.models] == ["tiny"]
