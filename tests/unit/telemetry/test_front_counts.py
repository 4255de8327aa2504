"""What a front door counted on its own, as metrics."""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from sidecar.telemetry import front_counts
from sidecar.telemetry.front_counts import FrontCounts
from sidecar.telemetry.metrics import BUCKETS, CallMetrics

if TYPE_CHECKING:
    import pytest

PATH = "/embercache.v1.EmbedService/Embed"


def for_ever() -> float:
    return math.inf


def test_its_durations_are_added_to_those_of_python() -> None:
    registry = CollectorRegistry()
    metrics = CallMetrics(registry)
    metrics.duration("Embed").observe(BUCKETS[0] * 2)
    taken = [([1] * (len(BUCKETS) + 1), 7.0), ([0, 0, 2, *[0] * (len(BUCKETS) - 2)], 0.5)]
    front: Any = SimpleNamespace(durations=lambda path: taken.pop(0) if path == PATH else None)
    counts = FrontCounts(front, {PATH: "Embed"}, metrics, [], 1.0, for_ever)
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
    registry.register(FrontCounts(front, {}, CallMetrics(registry), [], 1.0, for_ever))
    assert registry.get_sample_value("embercache_front_connections") == 3
    assert registry.get_sample_value("embercache_front_failed_handshakes_total") == 4


async def test_the_front_door_hears_again_and_again_that_the_event_loop_runs() -> None:
    heard: asyncio.Queue[float] = asyncio.Queue()
    front: Any = SimpleNamespace(trust=heard.put_nowait)
    running = asyncio.create_task(
        FrontCounts(front, {}, CallMetrics(CollectorRegistry()), [], 0.01, for_ever).run()
    )
    async with asyncio.timeout(30):
        assert [await heard.get() for _ in range(3)] == [0.01] * 3
    running.cancel()
    await asyncio.wait({running})


async def test_it_answers_no_longer_than_what_is_known_may_be_believed() -> None:
    believed = iter([5.0, 0.004, 0.0])
    heard: asyncio.Queue[float] = asyncio.Queue()
    front: Any = SimpleNamespace(trust=heard.put_nowait)
    metrics = CallMetrics(CollectorRegistry())
    running = asyncio.create_task(
        FrontCounts(front, {}, metrics, [], 0.01, lambda: next(believed, 5.0)).run()
    )
    async with asyncio.timeout(30):
        assert [await heard.get() for _ in range(4)] == [0.01, 0.004, 0.0, 0.01]
    running.cancel()
    await asyncio.wait({running})


async def test_the_front_door_hears_it_also_if_counting_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(front_counts, "_SETTLE_SECONDS", 0)
    failed: asyncio.Queue[None] = asyncio.Queue()
    heard: asyncio.Queue[float] = asyncio.Queue()

    def settle() -> None:
        failed.put_nowait(None)
        raise RuntimeError("a number is odd")

    front: Any = SimpleNamespace(trust=heard.put_nowait)
    responses: Any = SimpleNamespace(settle=settle)
    metrics = CallMetrics(CollectorRegistry())
    with capture_logs() as logs:
        running = asyncio.create_task(
            FrontCounts(front, {}, metrics, [responses], 0.01, for_ever).run()
        )
        async with asyncio.timeout(30):
            await failed.get()
            await failed.get()
            while not heard.empty():
                heard.get_nowait()
            assert await heard.get() == 0.01
        running.cancel()
        await asyncio.wait({running})
    assert logs[0]["log_level"] == "error"
