"""Events of outside producers, on a real Redis stream: each is applied at least once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import redis
import structlog

from sidecar.cache import events
from sidecar.cache.events import MAX_ATTEMPTS, Event, EventConsumer
from sidecar.cache.generations import InvalidationNotSharedError
from sidecar.dev_redis import DevRedis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from sidecar.cache.warm import WarmTier

    Start = Callable[..., Awaitable["Running"]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

STREAM, GROUP = "test:events", "sidecars"


class Running:
    """A consumer that runs, and what it has applied."""

    def __init__(self, warm: WarmTier, **options: Any) -> None:
        self.applied: list[Event] = []
        self.error: Exception | None = None
        self.holds = asyncio.Event()
        self.holds.set()
        self.begun: list[Event] = []
        self.consumer = EventConsumer(warm, "test", self.apply, **options)
        self.task = asyncio.create_task(self.consumer.run())

    @property
    def ids(self) -> list[str]:
        return [name for event in self.applied for name in event.ids]

    async def apply(self, event: Event) -> None:
        self.begun.append(event)
        await self.holds.wait()
        if self.error is not None:
            raise self.error
        self.applied.append(event)

    async def die(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at what others left at once, and takes it over soon."""
    for name in ("_RETRY_SECONDS", "_CLAIM_SECONDS", "_CLEAN_SECONDS"):
        monkeypatch.setattr(events, name, 0.02)
    monkeypatch.setattr(events, "_ABANDONED_SECONDS", 0.2)


@pytest.fixture
async def start(
    open_warm: Callable[..., Awaitable[WarmTier]],
) -> AsyncIterator[Callable[..., Awaitable[Running]]]:
    running: list[Running] = []

    async def start_consumer(server: DevRedis, **options: Any) -> Running:
        running.append(Running(await open_warm(server.url), **options))
        return running[-1]

    yield start_consumer
    for each in running:
        await each.die()


@pytest.fixture
def client(redis_server: DevRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.url) as opened:
        yield opened


def publish(client: redis.Redis, *names: object, **fields: str) -> list[bytes]:
    return [client.xadd(STREAM, {"type": "updated", "id": str(name)} | fields) for name in names]


def pending(client: redis.Redis) -> int:
    return client.xpending(STREAM, GROUP)["pending"]


async def test_events_are_applied_in_order_and_finished(
    start: Start, redis_server: DevRedis, client: redis.Redis, eventually: Eventually
) -> None:
    one = await start(redis_server)
    publish(client, *range(250))
    await eventually(lambda: one.consumer.counters.applied == 250)
    assert one.ids == [str(name) for name in range(250)]
    await eventually(lambda: pending(client) == 0)
    assert one.applied[0] == Event("updated", "default", "default", ("0",), ())


async def test_events_from_before_the_first_sidecar_are_applied(
    start: Start, redis_server: DevRedis, client: redis.Redis, eventually: Eventually
) -> None:
    publish(client, *range(3))
    one = await start(redis_server)
    await eventually(lambda: one.ids == ["0", "1", "2"])


async def test_of_several_sidecars_one_applies_an_event(
    start: Start, redis_server: DevRedis, client: redis.Redis, eventually: Eventually
) -> None:
    several = [await start(redis_server) for _ in range(3)]
    for number in range(30):
        publish(client, number)
        await asyncio.sleep(0)
    await eventually(lambda: sum(len(each.ids) for each in several) == 30)
    await eventually(lambda: pending(client) == 0)
    assert sorted(int(name) for each in several for name in each.ids) == list(range(30))


async def test_a_sidecar_that_starts_again_applies_only_what_is_new(
    start: Start, redis_server: DevRedis, client: redis.Redis, eventually: Eventually
) -> None:
    one = await start(redis_server)
    publish(client, "before")
    await eventually(lambda: one.ids == ["before"] and pending(client) == 0)
    await one.die()
    publish(client, "meanwhile")
    two = await start(redis_server)
    await eventually(lambda: two.ids == ["meanwhile"])


async def test_what_is_malformed_is_finished_counted_and_logged_without_its_content(
    start: Start, redis_server: DevRedis, client: redis.Redis, eventually: Eventually
) -> None:
    with structlog.testing.capture_logs() as logs:
        one = await start(redis_server)
        client.xadd(STREAM, {"type": "renamed", "id": "secret"})
        client.xadd(STREAM, {"type": "updated", "id": "secret", "namespace": "secret!"})
        client.xadd(STREAM, {"type": "updated", b"\xff": "secret"})
        publish(client, "good")
        await eventually(lambda: one.ids == ["good"])
        await eventually(lambda: pending(client) == 0)
    assert one.consumer.counters.malformed == 3
    assert len([log for log in logs if log["event"] == "malformed event"]) == 3
    assert "secret" not in str(logs)


async def test_an_event_that_others_could_not_be_told_of_is_applied_until_they_were(
    start: Start, redis_server: DevRedis, client: redis.Redis, eventually: Eventually
) -> None:
    one = await start(redis_server)
    one.error = InvalidationNotSharedError("Redis is down")
    publish(client, "a", "b")
    await eventually(lambda: one.consumer.counters.retried > 2 * MAX_ATTEMPTS)
    assert pending(client) == 2
    one.error = None
    await eventually(lambda: one.ids == ["a", "b"])
    await eventually(lambda: pending(client) == 0)


async def test_an_event_that_always_fails_does_not_hold_up_the_others_for_ever(
    start: Start, redis_server: DevRedis, client: redis.Redis, eventually: Eventually
) -> None:
    with structlog.testing.capture_logs() as logs:
        one = await start(redis_server)
        one.error = ValueError("about secret")
        publish(client, "secret")
        await eventually(lambda: one.consumer.counters.dropped == 1)
        one.error = None
        publish(client, "b")
        await eventually(lambda: one.ids == ["b"])
    await eventually(lambda: pending(client) == 0)
    assert one.consumer.counters.retried == MAX_ATTEMPTS - 1
    assert "secret" not in str(logs)


async def test_what_a_sidecar_left_when_it_died_is_taken_over(
    start: Start, redis_server: DevRedis, client: redis.Redis, eventually: Eventually
) -> None:
    one = await start(redis_server)
    one.holds.clear()
    publish(client, "a", "b")
    await eventually(lambda: one.begun)
    await one.die()
    assert pending(client) == 2
    two = await start(redis_server)
    publish(client, "c")
    await eventually(lambda: sorted(two.ids) == ["a", "b", "c"])
    await eventually(lambda: pending(client) == 0)


async def test_nothing_is_taken_over_while_nothing_is_left(
    start: Start, own_redis: DevRedis, eventually: Eventually
) -> None:
    """Every sidecar of a fleet looks all the time, so looking must be cheap."""
    with redis.Redis.from_url(own_redis.url) as client:

        def calls() -> dict[str, int]:
            stats = client.info("commandstats")
            return {name: each["calls"] for name, each in stats.items()}

        one = await start(own_redis)
        publish(client, "a")
        await eventually(lambda: one.ids == ["a"] and not pending(client))
        client.config_resetstat()
        await eventually(lambda: calls().get("cmdstat_xpending", 0) >= 5)
        assert "cmdstat_xautoclaim" not in calls()
        # One read for each look, which waits until the next is due.
        assert calls()["cmdstat_xreadgroup"] <= calls()["cmdstat_xpending"] + 2


async def test_the_age_of_what_is_not_finished_is_known(
    start: Start,
    redis_server: DevRedis,
    client: redis.Redis,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "_ABANDONED_SECONDS", 1000)
    one = await start(redis_server)
    one.holds.clear()
    client.xadd(STREAM, {"type": "updated", "id": "old"}, id="400000-0")
    await eventually(lambda: one.begun)
    await one.die()
    two = await start(redis_server, clock=lambda: 1000.0)
    await eventually(lambda: two.consumer.counters.pending_age == 600)
    client.xack(STREAM, GROUP, "400000-0")
    await eventually(lambda: two.consumer.counters.pending_age == 0)


async def test_a_group_that_was_lost_is_made_again_and_nothing_new_is_missed(
    start: Start, redis_server: DevRedis, client: redis.Redis, eventually: Eventually
) -> None:
    one = await start(redis_server)
    for number in range(3):
        client.flushall()
        publish(client, number)
        await eventually(lambda number=number: str(number) in one.ids)


async def test_consumption_goes_on_after_an_outage(
    start: Start, tmp_path: Path, eventually: Eventually
) -> None:
    with DevRedis(data_folder=tmp_path / "redis") as server:
        one = await start(server)
        with redis.Redis.from_url(server.url) as client:
            publish(client, "before")
            await eventually(lambda: one.ids == ["before"])
        server.kill()
        await asyncio.sleep(0.05)
        server.start()
        with redis.Redis.from_url(server.url) as client:
            publish(client, "after")
            await eventually(lambda: "after" in one.ids)
            await eventually(lambda: pending(client) == 0)


async def test_an_outage_is_logged_once(
    start: Start, own_redis: DevRedis, eventually: Eventually
) -> None:
    with structlog.testing.capture_logs() as logs:
        one = await start(own_redis)
        await eventually(lambda: any(log["event"] == "events are followed" for log in logs))
        own_redis.kill()
        await asyncio.sleep(0.3)
        own_redis.start()
        with redis.Redis.from_url(own_redis.url) as client:
            publish(client, "after")
            await eventually(lambda: one.ids == ["after"])
    ours = [log["event"] for log in logs if log["event"].startswith("events are")]
    assert ours == ["events are followed", "events are not followed", "events are followed"]


async def test_an_event_that_was_trimmed_before_it_was_applied_is_counted(
    start: Start, redis_server: DevRedis, client: redis.Redis, eventually: Eventually
) -> None:
    one = await start(redis_server)
    one.holds.clear()
    publish(client, "a", "b")
    await eventually(lambda: one.begun)
    await one.die()
    client.xtrim(STREAM, maxlen=0, approximate=False)
    two = await start(redis_server)
    await eventually(lambda: two.consumer.counters.lost == 2)
    publish(client, "c")
    await eventually(lambda: two.ids == ["c"])
    await eventually(lambda: pending(client) == 0)


async def test_its_own_events_that_were_trimmed_are_counted_as_well(
    start: Start, redis_server: DevRedis, client: redis.Redis, eventually: Eventually
) -> None:
    one = await start(redis_server)
    one.error = InvalidationNotSharedError("Redis is down")
    publish(client, "a", "b")
    await eventually(lambda: one.consumer.counters.retried)
    client.xtrim(STREAM, maxlen=0, approximate=False)
    await eventually(lambda: one.consumer.counters.lost == 2)


async def test_what_was_applied_is_removed_when_the_stream_is_long(
    start: Start,
    redis_server: DevRedis,
    client: redis.Redis,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "STREAM_LENGTH", 100)
    one = await start(redis_server)
    publish(client, *range(500))
    await eventually(lambda: one.consumer.counters.applied == 500)
    await eventually(lambda: client.xlen(STREAM) <= 200)


async def test_nothing_is_removed_that_was_not_applied(
    start: Start,
    redis_server: DevRedis,
    client: redis.Redis,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "STREAM_LENGTH", 10)
    one = await start(redis_server)
    one.holds.clear()
    publish(client, *range(1000))
    await eventually(lambda: one.begun)
    await one.die()
    two = await start(redis_server)
    await eventually(lambda: len(two.ids) == 1000)
    assert two.consumer.counters.lost == 0


async def test_sidecars_that_are_gone_are_forgotten(
    start: Start,
    redis_server: DevRedis,
    client: redis.Redis,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "_GONE_SECONDS", 0.5)
    for _ in range(3):
        one = await start(redis_server)
        publish(client, "a")
        await eventually(lambda one=one: one.ids == ["a"])
        await one.die()
    await start(redis_server)
    await eventually(lambda: len(client.xinfo_consumers(STREAM, GROUP)) == 1)
