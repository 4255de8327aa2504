"""Two sidecars share the vectors of cached queries over a real Redis."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from sidecar.cache import semantic_follower
from sidecar.cache.codec import Codec, encode_vector
from sidecar.cache.semantic import SemanticIndex
from sidecar.cache.semantic_follower import SemanticFollower

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sidecar.cache.warm import WarmTier
    from sidecar.dev_redis import DevRedis

    OpenWarm = Callable[..., Awaitable[WarmTier]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]
    Open = Callable[..., Awaitable["Side"]]

SCOPE = b"s" * 16
STREAM = "test:{state}:semantic"
VECTORS = np.random.default_rng(0).standard_normal((300, 384)).astype(np.float32)


class Side:
    """What one sidecar has of it."""

    def __init__(self, warm: WarmTier, messages: int) -> None:
        self.warm = warm
        self.index = SemanticIndex(10_000, time.time)
        self.follower = SemanticFollower(warm, "test", self.index, messages)
        self.task: asyncio.Task[None] | None = None

    def run(self) -> None:
        self.task = asyncio.create_task(self.follower.run())

    def add(self, number: int, expires_ms: int = 0) -> None:
        entry = (SCOPE, VECTORS[number], b"key-%d" % number, expires_ms)
        self.index.add(*entry)
        self.follower.announce(*entry)

    def knows(self, *numbers: int) -> bool:
        return all(self.match(number) for number in numbers)

    def match(self, number: int) -> float | None:
        """The similarity at which the index finds this vector, if it does."""
        for match in self.index.nearest(SCOPE, VECTORS[number], 1):
            if match.key == b"key-%d" % number:
                return match.similarity
        return None

    async def redis(self, *command: Any) -> Any:
        return await self.warm.run(lambda redis: redis.execute_command(*command))


@pytest.fixture
async def open_side(open_warm: OpenWarm) -> AsyncIterator[Open]:
    sides: list[Side] = []

    async def open_one(redis: DevRedis, *, run: bool = True, messages: int = 1000) -> Side:
        side = Side(await open_warm(redis.url), messages)
        sides.append(side)
        if run:
            side.run()
        return side

    yield open_one
    for side in sides:
        if side.task is not None:
            side.task.cancel()
            await asyncio.wait({side.task})


async def test_what_one_adds_the_other_finds(
    redis_server: DevRedis, open_side: Open, eventually: Eventually
) -> None:
    one, two = await open_side(redis_server), await open_side(redis_server)
    one.add(0)
    two.add(1)
    await eventually(lambda: two.knows(0, 1) and one.knows(0, 1))


async def test_similarity_differs_by_less_than_the_quantisation_allows(
    redis_server: DevRedis, open_side: Open, eventually: Eventually
) -> None:
    one, two = await open_side(redis_server), await open_side(redis_server)
    for number in range(100):
        one.add(number)
    await eventually(lambda: len(two.index) == 100)
    for number in range(100):
        assert two.match(number) == pytest.approx(one.match(number), abs=3e-4)


async def test_an_entry_expires_at_the_other_too(
    redis_server: DevRedis, open_side: Open, eventually: Eventually
) -> None:
    one, two = await open_side(redis_server), await open_side(redis_server)
    one.add(0, expires_ms=int((time.time() - 1) * 1000))
    one.add(1, expires_ms=int((time.time() + 0.2) * 1000))
    one.add(2, expires_ms=int((time.time() + 3600) * 1000))
    await eventually(lambda: two.follower.counters.received == 3)
    assert two.knows(2)
    assert not two.knows(0)
    await eventually(lambda: not two.knows(1))


async def test_its_own_messages_do_not_come_back(
    redis_server: DevRedis, open_side: Open, eventually: Eventually
) -> None:
    one, two = await open_side(redis_server), await open_side(redis_server)
    one.add(0)
    one.index.remove(b"key-0")
    two.add(1)
    await eventually(lambda: one.knows(1))
    assert not one.knows(0)
    assert one.follower.counters.received == 1


async def test_one_that_starts_later_reads_all_there_is(
    redis_server: DevRedis, open_side: Open, eventually: Eventually
) -> None:
    one = await open_side(redis_server)
    for number in range(300):
        one.add(number)
    await eventually(lambda: one.follower.counters.sent == 300)
    late = await open_side(redis_server)
    await eventually(lambda: late.knows(*range(300)))


async def test_the_stream_is_bounded_and_a_message_is_small(
    redis_server: DevRedis, open_side: Open, eventually: Eventually
) -> None:
    one = await open_side(redis_server, messages=500)
    for number in range(2000):
        one.add(number % 300)
        await asyncio.sleep(0)
    await eventually(lambda: one.follower.counters.sent == 2000)
    length = await one.redis("XLEN", STREAM)
    assert 500 <= length < 700
    assert await one.redis("MEMORY", "USAGE", STREAM) / length < 700


async def test_malformed_messages_are_skipped_and_counted(
    redis_server: DevRedis, open_side: Open, eventually: Eventually
) -> None:
    one, two = await open_side(redis_server), await open_side(redis_server)
    good = {"s": SCOPE, "k": b"k", "e": 0, "v": encode_vector(VECTORS[5], Codec.INT8)}
    bad: list[dict[str, Any]] = [
        {"hello": "world"},
        *({name: value for name, value in good.items() if name != left} for left in good),
        *(good | {"e": value} for value in ("soon", -1, 2**63, "9" * 5000)),
        *(good | {"v": value} for value in (b"", b"\0\0\0", b"\0\0\x80\x3f")),
        *(good | {"v": scale + b"abc"} for scale in (b"\0\0\xc0\x7f", b"\0\0\x80\x7f")),
    ]
    for fields in bad:
        await one.redis("XADD", STREAM, "*", *(part for pair in fields.items() for part in pair))
    one.add(0)
    await eventually(lambda: two.knows(0))
    assert two.follower.counters.malformed == len(bad)
    assert len(two.index) == 1


async def test_they_go_on_after_an_outage_without_losing_what_they_had(
    own_redis: DevRedis, open_side: Open, eventually: Eventually
) -> None:
    one, two = await open_side(own_redis), await open_side(own_redis)
    one.add(0)
    await eventually(lambda: two.knows(0))
    for number in (1, 2):
        own_redis.kill()
        await eventually(lambda: "down" == one.warm.state == two.warm.state)
        own_redis.start()
        await eventually(lambda: "up" == one.warm.state == two.warm.state)
        one.add(number)
        await eventually(lambda number=number: two.knows(number))
    assert two.knows(0, 1, 2)


async def test_one_that_starts_during_an_outage_joins_after_it(
    own_redis: DevRedis, open_side: Open, eventually: Eventually
) -> None:
    own_redis.kill()
    one, two = await open_side(own_redis), await open_side(own_redis)
    assert one.warm.state == "down"
    own_redis.start()
    await eventually(lambda: "up" == one.warm.state == two.warm.state)
    one.add(0)
    await eventually(lambda: two.knows(0))


async def test_what_cannot_be_sent_is_dropped_and_counted(
    own_redis: DevRedis, open_side: Open, eventually: Eventually
) -> None:
    one = await open_side(own_redis)
    own_redis.kill()
    await eventually(lambda: one.warm.state == "down")
    one.add(0)
    assert one.knows(0)
    assert one.follower.counters.dropped == 1


async def test_a_refusal_of_redis_is_counted_and_survived(
    redis_server: DevRedis, open_side: Open, eventually: Eventually
) -> None:
    one, two = await open_side(redis_server), await open_side(redis_server)
    await one.redis("SET", STREAM, "not a stream")
    one.add(0)
    await eventually(lambda: one.follower.counters.dropped == 1)
    await one.redis("DEL", STREAM)
    one.add(1)
    await eventually(lambda: two.knows(1))


async def test_what_waits_to_be_sent_is_bounded(
    redis_server: DevRedis, open_side: Open, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    monkeypatch.setattr(semantic_follower, "MAX_QUEUED", 10)
    one = await open_side(redis_server, run=False)
    for number in range(25):
        one.add(number)
    assert one.follower.counters.dropped == 15
    one.run()
    await eventually(lambda: one.follower.counters.sent == 10)


async def test_a_stream_that_begins_anew_behind_our_place_is_read_from_its_beginning(
    own_redis: DevRedis, open_side: Open, eventually: Eventually
) -> None:
    one, two = await open_side(own_redis), await open_side(own_redis)
    # As of a Redis whose clock was far ahead.
    await one.redis("XADD", STREAM, "9999999999999-0", "n", "")
    await eventually(lambda: two.follower.counters.malformed == 1)
    own_redis.kill()
    await eventually(lambda: "down" == one.warm.state == two.warm.state)
    own_redis.start()
    await eventually(lambda: "up" == one.warm.state == two.warm.state)
    one.add(0)
    await eventually(lambda: two.knows(0))
