"""Redis killed, frozen, absent or lying: calls succeed all the same, and come back to it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from embercache.v1 import cache_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

    Sidecar = Any
    View = Callable[[DevRedis], Any]
    Start = Callable[..., Awaitable[Any]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

UP, DOWN, OFF = (
    cache_pb2.WarmState.STATE_UP,
    cache_pb2.WarmState.STATE_DOWN,
    cache_pb2.WarmState.STATE_OFF,
)


async def until_redis_is(sidecar: Sidecar, state: int) -> None:
    """Waits until the sidecar has noticed, which takes some calls."""
    async with asyncio.timeout(20):
        for number in itertools.count():
            if (await sidecar.stats()).warm.state == state:
                return
            await sidecar.embed(f"until {state} {number}")


async def becomes_warm(sidecar: Sidecar) -> None:
    """Waits until what is stored is found in Redis again.

    A Redis that is empty knows no epoch, so the namespace may get another one in between.
    """
    async with asyncio.timeout(20):
        while await sidecar.tiers("a text") != ["WARM"]:
            await asyncio.sleep(0.01)
            await sidecar.flush()


@contextlib.asynccontextmanager
async def load(sidecar: Sidecar) -> AsyncIterator[None]:
    """Callers at work meanwhile, with old texts and new: none may fail, none be told wrong."""
    stop = asyncio.Event()
    truth = {text: np.frombuffer((await sidecar.vectors(text))[0], "<f4") for text in "abcd"}

    async def call(worker: int) -> None:
        for turn in itertools.count():
            if stop.is_set():
                return
            texts = ["a", f"{worker} {turn}", "b", "c", f"{worker} {turn // 10}", "d"]
            response = await sidecar.embed(*texts)
            for text, embedding in zip(texts, response.embeddings, strict=True):
                assert not embedding.error.code
                vector = np.frombuffer(embedding.vector, "<f4")
                assert text not in truth or np.allclose(vector, truth[text], atol=1e-5)

    workers = [asyncio.create_task(call(worker)) for worker in range(8)]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*workers)


async def test_no_call_fails_while_redis_is_killed_and_comes_back(
    start: Start, own_redis: DevRedis
) -> None:
    sidecar = await start(redis=own_redis)
    async with load(sidecar):
        for _ in range(3):
            own_redis.kill()
            await until_redis_is(sidecar, DOWN)
            own_redis.start()
            await until_redis_is(sidecar, UP)


async def test_no_call_fails_while_redis_is_frozen_and_goes_on(
    start: Start, own_redis: DevRedis
) -> None:
    sidecar = await start(redis=own_redis, redis_timeout=0.05)
    async with load(sidecar):
        for _ in range(2):
            own_redis.freeze()
            await until_redis_is(sidecar, DOWN)
            own_redis.thaw()
            await until_redis_is(sidecar, UP)


async def test_what_was_stored_is_warm_again_when_redis_is_back(
    start: Start, own_redis: DevRedis
) -> None:
    sidecar = await start(redis=own_redis)
    own_redis.kill()
    await until_redis_is(sidecar, DOWN)
    assert await sidecar.tiers("during the outage") == ["COMPUTED"]
    own_redis.start()
    await until_redis_is(sidecar, UP)
    await becomes_warm(sidecar)


async def test_calls_keep_their_deadline_while_redis_is_frozen(
    start: Start, own_redis: DevRedis
) -> None:
    sidecar = await start(redis=own_redis, redis_timeout=0.05)
    await sidecar.embed("hot")
    own_redis.freeze()
    # Each deadline is far below the seconds for which Redis does not answer.
    for number in range(20):
        request = sidecar.request("hot", f"new {number}")
        response = await sidecar.embeds.Embed(request, timeout=5)
        assert all(e.vector for e in response.embeddings)
    warm = (await sidecar.stats()).warm
    assert warm.state == DOWN
    assert warm.errors > 0
    assert warm.skipped > 0
    own_redis.thaw()
    await until_redis_is(sidecar, UP)


async def test_a_namespace_that_is_new_during_an_outage_is_served(
    start: Start, own_redis: DevRedis
) -> None:
    sidecar = await start(redis=own_redis)
    own_redis.kill()
    await until_redis_is(sidecar, DOWN)
    assert await sidecar.tiers("a text", namespace="new") == ["COMPUTED"]
    assert await sidecar.tiers("a text", namespace="new") == ["HOT"]
    own_redis.start()
    await until_redis_is(sidecar, UP)
    # Others may have invalidated the namespace meanwhile, so it starts anew.
    async with asyncio.timeout(20):
        while await sidecar.tiers("a text", namespace="new") != ["COMPUTED"]:
            pass
        while await sidecar.tiers("a text", namespace="new") != ["HOT"]:
            pass


async def test_a_redis_that_is_absent_at_start_is_used_when_it_comes(
    start: Start, own_redis: DevRedis
) -> None:
    own_redis.kill()
    sidecar = await start(redis=own_redis)
    assert (await sidecar.stats()).warm.state == DOWN
    assert await sidecar.tiers("a text") == ["COMPUTED"]
    assert await sidecar.tiers("a text") == ["HOT"]
    own_redis.start()
    await until_redis_is(sidecar, UP)
    await becomes_warm(sidecar)


async def test_tagged_texts_are_answered_but_not_kept_while_their_tags_are_unknown(
    start: Start, own_redis: DevRedis
) -> None:
    sidecar = await start(redis=own_redis)
    await sidecar.embed("known", tags=["known"])
    own_redis.kill()
    await until_redis_is(sidecar, DOWN)
    assert await sidecar.tiers("known", tags=["known"]) == ["HOT"]
    # Whether the tag was invalidated since cannot be known, so nothing is built on it.
    for _ in range(2):
        assert await sidecar.tiers("a text", tags=["unknown"]) == ["COMPUTED"]


async def test_an_outage_is_no_miss(start: Start, own_redis: DevRedis) -> None:
    sidecar = await start(redis=own_redis)
    await sidecar.embed("a text")
    before = (await sidecar.stats()).warm
    assert (before.state, before.errors, before.skipped) == (UP, 0, 0)
    own_redis.kill()
    await until_redis_is(sidecar, DOWN)
    await sidecar.embed("another text")
    after = (await sidecar.stats()).warm
    assert after.errors > 0
    assert after.skipped > 0
    assert after.writes_dropped > 0


async def test_without_redis_its_state_is_off(start: Start) -> None:
    sidecar = await start()
    assert (await sidecar.stats()).warm.state == OFF


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: b"",
        lambda value: b"\x00" * len(value),
        lambda value: value[:-1],
        lambda value: value + b"\x00",
        lambda value: value[:-1] + bytes([value[-1] ^ 1]),
        lambda value: bytes([value[0] + 1]) + value[1:],
    ],
    ids=["empty", "zeros", "cut", "longer", "one bit", "another format"],
)
async def test_a_damaged_value_is_a_miss_is_counted_and_is_replaced(
    damage: Callable[[bytes], bytes],
    start: Start,
    redis_server: DevRedis,
    view: View,
    eventually: Eventually,
) -> None:
    seen = view(redis_server)
    sidecar = await start(redis=redis_server)
    vectors = await sidecar.vectors("a text")
    await eventually(seen.entries)
    (key,) = seen.entries()
    whole = seen.client.get(key)
    seen.client.set(key, damage(whole))
    await sidecar.flush()
    response = await sidecar.embed("a text")
    assert [e.vector for e in response.embeddings] == vectors
    assert (await sidecar.stats()).tiers[2].corrupt == 1
    assert await sidecar.computed() == 2
    # What replaced it is whole: as long, and good for the next one.
    await eventually(lambda: len(seen.client.get(key) or b"") == len(whole))
    await sidecar.flush()
    assert await sidecar.tiers("a text") == ["WARM"]
    assert (await sidecar.stats()).tiers[2].corrupt == 1


async def test_a_value_copied_to_another_key_is_a_miss(
    start: Start, redis_server: DevRedis, view: View, eventually: Eventually
) -> None:
    seen = view(redis_server)
    sidecar = await start(redis=redis_server)
    await sidecar.embed("one")
    await eventually(seen.entries)
    (one,) = seen.entries()
    (two_vector,) = await sidecar.vectors("two")
    await eventually(lambda: len(seen.entries()) == 2)
    (two,) = set(seen.entries()) - {one}
    seen.client.set(two, seen.client.get(one))
    await sidecar.flush()
    assert await sidecar.tiers("one", "two") == ["WARM", "COMPUTED"]
    assert await sidecar.vectors("two") == [two_vector]
    assert (await sidecar.stats()).tiers[2].corrupt == 1


async def test_a_key_of_another_kind_is_a_miss(
    start: Start, redis_server: DevRedis, view: View, eventually: Eventually
) -> None:
    seen = view(redis_server)
    sidecar = await start(redis=redis_server)
    await sidecar.embed("a text", "another")
    await eventually(lambda: len(seen.entries()) == 2)
    key = seen.entries()[0]
    seen.client.delete(key)
    seen.client.lpush(key, b"a list")
    await sidecar.flush()
    assert sorted(await sidecar.tiers("a text", "another")) == ["COMPUTED", "WARM"]


async def test_a_redis_that_is_full_is_read_and_no_call_fails(
    start: Start, own_redis: DevRedis, view: View, eventually: Eventually, tmp_path: Path
) -> None:
    seen = view(own_redis)
    sidecar = await start(redis=own_redis)
    await sidecar.embed("old")
    await eventually(seen.entries)
    seen.client.config_set("maxmemory", 1)
    assert await sidecar.tiers("new") == ["COMPUTED"]
    async with asyncio.timeout(20):
        while not (await sidecar.stats()).warm.writes_dropped:
            pass
    await sidecar.flush()
    assert await sidecar.tiers("old") == ["WARM"]
    assert (await sidecar.stats()).warm.state == UP
