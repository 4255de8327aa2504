"""What a front door counted on its own, as metrics."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry

from sidecar.telemetry.front_counts import FrontCounts
from sidecar.telemetry.metrics import BUCKETS, CallMetrics

PATH = "/embercache.v1.EmbedService/Embed"


def test_its_durations_are_added_to_those_of_python() -> None:
    registry = CollectorRegistry()
    metrics = CallMetrics(registry)
    metrics.duration("Embed").observe(BUCKETS[0] * 2)
    taken = [([1] * (len(BUCKETS) + 1), 7.0), ([0, 0, 2, *[0] * (len(BUCKETS) - 2)], 0.5)]
    front: Any = SimpleNamespace(durations=lambda path: taken.pop(0) if path == PATH else None)
    counts = FrontCounts(front, {PATH: "Embed"}, metrics, [], 1.0)
    counts.settle()
    counts.settle()
    embed = {"method": "Embed"}
    value = registry.get_sample_value
    assert value("embercache_call_seconds_count", embed) == len(BUCKETS) + 1 + 2 + 1
    assert value("embercache_call_seconds_sum", embed) == 7.5 + BUCKETS[0] * 2
    assert value("embercache_call_seconds_bucket", embed | {"le": str(BUCKETS[0])}) == 1
    assert value("embercache_call_seconds_bucket", embed | {"le": str(BUCKETS[1])}) == 3
    assert value("embercache_call_seconds_bucket", embed | {"le": str(BUCKETS[2])}) == 6


def test_its_connections_are_metrics() -> None:
    registry = CollectorRegistry()
    front: Any = SimpleNamespace(connections=3, failed_handshakes=4)
    registry.register(FrontCounts(front, {}, CallMetrics(registry), [], 1.0))
    assert registry.get_sample_value("embercache_front_connections") == 3
    assert registry.get_sample_value("embercache_front_failed_handshakes_total") == 4


async def test_the_front_door_hears_again_and_again_that_the_event_loop_runs() -> None:
    heard: asyncio.Queue[float] = asyncio.Queue()
    front: Any = SimpleNamespace(trust=heard.put_nowait)
    running = asyncio.create_task(
        FrontCounts(front, {}, CallMetrics(CollectorRegistry()), [], 0.01).run()
    )
    async with asyncio.timeout(30):
        assert [await heard.get() for _ in range(3)] == [0.01] * 3
    running.cancel()
    await asyncio.wait({running})
