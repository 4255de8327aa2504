"""Redis down, frozen, slow to return or lying: callers go on, and an outage is no miss."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
import structlog

from sidecar.cache.breaker import Breaker
from sidecar.cache.warm import WarmUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from sidecar.cache.warm import WarmTier
    from sidecar.dev_redis import DevRedis

    OpenWarm = Callable[..., Awaitable[WarmTier]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]


async def use(warm: WarmTier, stop: asyncio.Event, worker: int) -> int:
    """Reads and writes until told to stop; returns how many wrong values it saw."""
    wrong = 0
    turn = 0
    while not stop.is_set():
        keys = [b"%d-%d" % (worker, (turn + i) % 50) for i in range(3)]
        for key in keys:
            warm.put(key, b"value of " + key, 0, replace=False)
        values = await warm.get_many(keys)
        wrong += sum(v not in (None, b"value of " + k) for k, v in zip(keys, values, strict=True))
        turn += 1
        await asyncio.sleep(0)
    return wrong


@contextlib.asynccontextmanager
async def load(warm: WarmTier) -> AsyncIterator[None]:
    """Callers at work meanwhile; none of them may fail or see a wrong value."""
    stop = asyncio.Event()
    workers = [asyncio.create_task(use(warm, stop, worker)) for worker in range(8)]
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(20):
            assert sum(await asyncio.gather(*workers)) == 0


@contextlib.asynccontextmanager
async def swallowing(redis: DevRedis, path: Path, word: bytes) -> AsyncIterator[None]:
    """A way to Redis on which lookups that name ``word`` are lost."""

    async def pass_on(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lost: bytes | None
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(2**20):
                if lost is None or b"MGET" not in data or lost not in data:
                    writer.write(data)
                    await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_unix_connection(redis.url.removeprefix("unix://"))
        await asyncio.gather(pass_on(reader, requests, word), pass_on(answers, writer, None))

    async with await asyncio.start_unix_server(serve, path, limit=2**20):
        yield


async def test_callers_outlive_a_crash_and_a_restart_of_redis(
    own_redis: DevRedis, open_warm: OpenWarm, eventually: Eventually
) -> None:
    warm = await open_warm(own_redis.url)
    async with load(warm):
        for _ in range(3):
            found = warm.counters.found
            await eventually(lambda found=found: warm.counters.found > found)
            own_redis.kill()
            await eventually(lambda: warm.state == "down")
            skipped = warm.counters.skipped
            await eventually(lambda skipped=skipped: warm.counters.skipped > skipped)
            own_redis.start()
            await eventually(lambda: warm.state == "up")
    assert warm.counters.errors > 0
    assert warm.counters.writes_dropped > 0


async def test_callers_outlive_a_freeze_and_get_no_stale_replies_after_it(
    own_redis: DevRedis, open_warm: OpenWarm, eventually: Eventually
) -> None:
    warm = await open_warm(own_redis.url, timeout=0.05, probe_timeout=0.1)
    async with load(warm):
        for _ in range(3):
            own_redis.freeze()
            await eventually(lambda: warm.state == "down")
            own_redis.thaw()
            await eventually(lambda: warm.state == "up")
            found = warm.counters.found
            await eventually(lambda found=found: warm.counters.found > found)


async def test_a_lookup_ends_in_time_however_many_wait(
    own_redis: DevRedis, open_warm: OpenWarm
) -> None:
    patient = Breaker("redis", failures=10_000)
    warm = await open_warm(own_redis.url, timeout=0.2, breaker=patient)
    own_redis.freeze()
    many = [b"key"] * 512
    # One after the other over the connections there are, they would take some 10 s.
    async with asyncio.timeout(5):
        got = await asyncio.gather(*(warm.get_many(many) for _ in range(400)))
    assert got == [[None] * 512] * 400
    own_redis.thaw()


async def test_one_late_chunk_of_a_large_lookup_costs_the_others_nothing(
    own_redis: DevRedis, open_warm: OpenWarm, tmp_path: Path
) -> None:
    path = tmp_path / "redis.sock"
    async with swallowing(own_redis, path, b"key 600 "):
        warm = await open_warm(f"unix://{path}", timeout=0.5)
        keys = [b"key %d " % i for i in range(1500)]
        for key in keys:
            warm.put(key, b"value of " + key, 0, replace=True)
        assert await warm.flush(20)
        late = range(512, 1024)
        assert await warm.get_many(keys) == [
            None if i in late else b"value of " + key for i, key in enumerate(keys)
        ]
        assert (warm.counters.lookups, warm.counters.errors) == (1500, 512)
        await warm.close()


@pytest.mark.parametrize(("failures", "late"), [(1, 1), (10_000, 3)])
async def test_a_large_lookup_does_not_wait_for_every_chunk_of_a_frozen_redis(
    failures: int, late: int, own_redis: DevRedis, open_warm: OpenWarm
) -> None:
    warm = await open_warm(
        own_redis.url, timeout=0.1, breaker=Breaker("redis", failures=failures, first_seconds=60)
    )
    own_redis.freeze()
    async with asyncio.timeout(20):
        assert await warm.get_many([b"key"] * 100_000) == [None] * 100_000
    counters = warm.counters
    # The chunk that follows at once when the breaker opens may be counted as sent.
    assert counters.errors in (late * 512, (late + 1) * 512)
    assert counters.errors + counters.skipped == 100_000
    own_redis.thaw()


async def test_failed_and_unsent_lookups_are_not_counted_as_misses(
    own_redis: DevRedis, open_warm: OpenWarm
) -> None:
    warm = await open_warm(own_redis.url)
    own_redis.kill()
    for _ in range(10):
        assert await warm.get_many([b"a", b"b"]) == [None, None]
    counters = warm.counters
    assert warm.state == "down"
    assert counters.lookups == counters.errors == 6
    assert counters.skipped == 14
    assert counters.found == 0


async def test_it_is_up_again_without_any_traffic(
    own_redis: DevRedis, open_warm: OpenWarm, eventually: Eventually
) -> None:
    warm = await open_warm(own_redis.url)
    own_redis.kill()
    while warm.state == "up":
        await warm.get_many([b"a"])
    own_redis.start()
    await eventually(lambda: warm.state == "up")
    warm.put(b"a", b"x", 0, replace=False)
    assert await warm.flush(10)
    assert await warm.get_many([b"a"]) == [b"x"]


async def test_a_redis_that_is_down_at_start_is_used_when_it_comes(
    own_redis: DevRedis, open_warm: OpenWarm, eventually: Eventually
) -> None:
    own_redis.kill()
    warm = await open_warm(own_redis.url)
    assert warm.state == "down"
    assert await warm.get_many([b"a"]) == [None]
    assert warm.counters.skipped == 1
    own_redis.start()
    await eventually(lambda: warm.state == "up")


async def test_a_redis_that_hangs_at_start_holds_nobody_up(
    own_redis: DevRedis, open_warm: OpenWarm, eventually: Eventually
) -> None:
    own_redis.freeze()
    async with asyncio.timeout(20):
        warm = await open_warm(own_redis.url, probe_timeout=0.05)
    assert warm.state == "down"
    own_redis.thaw()
    await eventually(lambda: warm.state == "up")


async def test_a_restart_between_two_calls_costs_no_error(
    own_redis: DevRedis, open_warm: OpenWarm
) -> None:
    warm = await open_warm(own_redis.url)
    await warm.get_many([b"a"])
    own_redis.kill()
    own_redis.start()
    # Whoever waits a moment has the end of the old connections noticed.
    for _ in range(20):
        await asyncio.sleep(0)
    await warm.get_many([b"a"])
    assert warm.counters.errors == 0


async def test_logs_an_outage_once_and_its_end_once(
    own_redis: DevRedis, open_warm: OpenWarm, eventually: Eventually
) -> None:
    warm = await open_warm(own_redis.url)
    with structlog.testing.capture_logs() as logs:
        own_redis.kill()
        for turn in range(100):
            warm.put(b"%d" % turn, b"x", 0, replace=False)
            await warm.get_many([b"a"])
        own_redis.start()
        await eventually(lambda: warm.state == "up")
    assert [log["event"] for log in logs] == ["circuit breaker opened", "circuit breaker closed"]


async def test_writes_are_dropped_and_counted_while_redis_is_down(
    own_redis: DevRedis, open_warm: OpenWarm
) -> None:
    warm = await open_warm(own_redis.url)
    own_redis.kill()
    while warm.state == "up":
        await warm.get_many([b"a"])
    for turn in range(10):
        warm.put(b"%d" % turn, b"x", 0, replace=False)
    warm.delete([b"a"])
    assert warm.counters.writes_dropped == 11
    assert await warm.flush(0)


async def test_writes_that_wait_are_dropped_when_redis_goes_down(
    own_redis: DevRedis, open_warm: OpenWarm, eventually: Eventually
) -> None:
    warm = await open_warm(own_redis.url, timeout=0.02)
    own_redis.freeze()
    for turn in range(200):
        warm.put(b"%d" % turn, b"x", 0, replace=False)
    while warm.state == "up":
        await warm.get_many([b"a"])
    # All but the batch that is on its way.
    assert warm.counters.writes_dropped == 200 - 64
    own_redis.thaw()
    assert await warm.flush(20)
    assert warm.counters.writes + warm.counters.writes_dropped == 200


async def test_operations_of_others_fail_loudly_when_redis_is_down(
    own_redis: DevRedis, open_warm: OpenWarm
) -> None:
    warm = await open_warm(own_redis.url)
    own_redis.kill()
    for _ in range(5):
        with pytest.raises(WarmUnavailableError):
            await warm.run(lambda redis: redis.ping())
    assert warm.state == "down"


async def test_operations_of_others_have_a_time_limit(
    own_redis: DevRedis, open_warm: OpenWarm
) -> None:
    warm = await open_warm(own_redis.url, timeout=0.02)
    async with asyncio.timeout(20):
        with pytest.raises(WarmUnavailableError, match="Timeout"):
            await warm.run(lambda redis: redis.blpop([b"never"], timeout=60))
        with pytest.raises(WarmUnavailableError, match="Timeout"):
            await warm.run(lambda redis: redis.blpop([b"never"], timeout=60), 0.03)
    # Longer than the tier's own limit.
    assert await warm.run(lambda redis: redis.blpop([b"never"], timeout=0.1), 10) is None


async def test_a_refused_command_is_an_error_and_no_outage(
    own_redis: DevRedis, open_warm: OpenWarm
) -> None:
    warm = await open_warm(own_redis.url)
    for _ in range(10):
        with pytest.raises(WarmUnavailableError) as refusal:
            await warm.run(lambda redis: redis.execute_command("NONSENSE", "a secret"))
        assert "secret" not in str(refusal.value)
    assert warm.state == "up"


LIES = {
    "a word": b"+OK\r\n",
    "a number": b":3\r\n",
    "too few values": b"*1\r\n$1\r\nx\r\n",
    "too many values": b"*3\r\n$1\r\nx\r\n$1\r\nx\r\n$1\r\nx\r\n",
    "no protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "half a reply": b"*2\r\n$5\r\nab",
    "an error": b"-ERR no\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("reply", LIES.values(), ids=LIES.keys())
async def test_a_redis_that_answers_nonsense_harms_nobody(
    reply: bytes, tmp_path: Path, open_warm: OpenWarm
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while request := await reader.read(65536):
                lie = b"MGET" in request
                writer.write(reply if lie else b"+PONG\r\n" * request.count(b"*"))
                await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(serve, tmp_path / "redis.sock"):
        warm = await open_warm(f"unix://{tmp_path}/redis.sock", timeout=0.1)
        assert warm.state == "up"
        for _ in range(5):
            async with asyncio.timeout(20):
                assert await warm.get_many([b"a", b"b"]) == [None, None]
        counters = warm.counters
        assert counters.found == 0
        assert counters.errors + counters.skipped == 10
        await warm.close()
