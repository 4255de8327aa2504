"""Redis may evict or lose what it holds of a namespace: nothing old is valid again by that."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.cache.generations import (
    Generations,
    NamespaceState,
    StoreUnavailableError,
    kind_scope,
    model_scope,
)
from sidecar.cache.namespace_state import WHOLE_NAMESPACE
from sidecar.cache.redis_generations import MOST_AHEAD_US, TAG_FIELD, RedisGenerations

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sidecar.cache.follower import InvalidationFollower
    from sidecar.cache.warm import WarmTier
    from sidecar.dev_redis import DevRedis

    First = Callable[[Generations], Awaitable[object]]

HANG_GUARD = 20.0
TAG, OTHER = b"t" * 16, b"o" * 16
HASH, SCOPES, STREAM = (
    "test:{state}:namespace:n",
    "test:{state}:scopes:n",
    "test:{state}:invalidations",
)
KINDS = ("search", "embed")

LOST = {
    "hash": ["DEL", HASH],
    "scopes": ["DEL", SCOPES],
    "both": ["DEL", HASH, SCOPES],
    "everything": ["FLUSHALL"],
}


async def resolve(generations: Generations) -> None:
    await generations.resolve(await generations.state("n"), [TAG, OTHER])


FIRST: dict[str, First] = {
    "a newcomer": lambda generations: Generations(generations._store).state("n"),
    "synchronise": lambda generations: generations.synchronise(),
    "resolve": resolve,
    "tags": lambda generations: generations.invalidate_tags("n", [OTHER]),
    "announce": lambda generations: generations.announce("n", OTHER, b"change"),
    "kind": lambda generations: generations.invalidate_scope("n", kind_scope("other")),
    "model": lambda generations: generations.invalidate_scope("n", model_scope("other", "v")),
    "namespace": lambda generations: generations.invalidate_namespace("n"),
}


class Entries:
    """What was computed in the course of a test, and under what."""

    def __init__(self) -> None:
        self.epochs: dict[str, set[int]] = {kind: set() for kind in KINDS}
        self.tags: dict[bytes, set[int]] = {TAG: set(), OTHER: set()}

    async def add(self, generations: Generations) -> None:
        state = await generations.state("n")
        await generations.resolve(state, [TAG, OTHER])
        for kind in KINDS:
            self.epochs[kind].add(state.epoch_of(kind, "m", "v"))
        for tag, seen in self.tags.items():
            seen.add(state.generation(tag) or 0)

    def valid(self, state: NamespaceState) -> list[object]:
        """The kinds and tags of which something old is valid."""
        kinds = [k for k in KINDS if state.epoch_of(k, "m", "v") in self.epochs[k]]
        tags = [tag for tag, seen in self.tags.items() if state.generation(tag) in seen]
        return [*kinds, *tags]


@pytest.mark.parametrize("first", FIRST.values(), ids=FIRST.keys())
@pytest.mark.parametrize("lost", LOST.values(), ids=LOST.keys())
async def test_when_state_is_lost_nothing_old_is_valid_whoever_comes_first(
    lost: list[str],
    first: First,
    redis_server: DevRedis,
    open_warm: Callable[..., Awaitable[WarmTier]],
) -> None:
    warm = await open_warm(redis_server.url)
    store = RedisGenerations(warm, "test")
    knowing, stale = Generations(store), Generations(store)
    entries = Entries()
    await entries.add(stale)
    await knowing.invalidate_tags("n", [TAG, OTHER])
    await knowing.invalidate_namespace("n")
    await entries.add(knowing)
    for kind in KINDS:
        await knowing.invalidate_scope("n", kind_scope(kind))
    await entries.add(knowing)
    await warm.run(lambda redis: redis.execute_command(*lost))
    # Who did not hear of the last invalidations knows the least.
    await first(stale)
    for generations in (stale, Generations(store), knowing, stale):
        await generations.synchronise()
        state = await generations.state("n")
        await generations.resolve(state, [TAG, OTHER])
        # Tags outlive the loss of the scopes, but are in keys with another epoch.
        left = [
            what for what in entries.valid(state) if what in KINDS or lost is not LOST["scopes"]
        ]
        assert left == []
        assert None not in (state.generation(TAG), state.generation(OTHER))
    assert (await knowing.state("n")).epoch == (await stale.state("n")).epoch


async def test_a_sidecar_that_uses_a_lost_namespace_sets_it_up_anew_without_waiting(
    redis_server: DevRedis, open_warm: Callable[..., Awaitable[WarmTier]]
) -> None:
    warm = await open_warm(redis_server.url)
    generations = Generations(RedisGenerations(warm, "test"))
    state = await generations.state("n")
    epoch = state.epoch
    await warm.run(lambda redis: redis.delete(HASH))
    # What this call computes has the old epoch in its key and is not kept; the next one's is.
    await generations.resolve(state, [TAG])
    assert state.generation(TAG) is None
    assert state.epoch > epoch
    await generations.resolve(state, [TAG])
    assert state.generation(TAG) == state.base


async def test_a_state_that_is_not_lost_is_read_and_no_more(
    own_redis: DevRedis, open_warm: Callable[..., Awaitable[WarmTier]]
) -> None:
    """Every sidecar of a fleet compares all the time, so comparing must be cheap."""
    warm = await open_warm(own_redis.url)
    generations = Generations(RedisGenerations(warm, "test"))
    await generations.invalidate_scope("n", b"kind:search")
    await warm.run(lambda redis: redis.config_resetstat())
    for _ in range(3):
        await generations.synchronise()
    stats = await warm.run(lambda redis: redis.info("commandstats"))
    asked = {name: each["calls"] for name, each in stats.items() if name != "cmdstat_info"}
    del asked["cmdstat_config|resetstat"]
    assert asked == {"cmdstat_eval": 3, "cmdstat_hmget": 3, "cmdstat_hgetall": 3}


async def test_a_bump_makes_no_second_round_trip(
    redis_server: DevRedis, open_warm: Callable[..., Awaitable[WarmTier]]
) -> None:
    warm = await open_warm(redis_server.url)
    generations = Generations(RedisGenerations(warm, "test"))
    await generations.state("n")
    await warm.run(lambda redis: redis.config_resetstat())
    await generations.invalidate_tags("n", [TAG])
    await generations.invalidate_namespace("n")
    stats = await warm.run(lambda redis: redis.info("commandstats"))
    assert stats["cmdstat_eval"]["calls"] == 2


@pytest.mark.parametrize("first", FIRST.values(), ids=FIRST.keys())
async def test_epochs_do_not_go_back_even_if_redis_clock_is_behind(
    first: First, redis_server: DevRedis, open_warm: Callable[..., Awaitable[WarmTier]]
) -> None:
    """As it may be after a failover to another machine."""
    warm = await open_warm(redis_server.url)
    store = RedisGenerations(warm, "test")
    generations = Generations(store)
    state = await generations.state("n")
    state.raise_scope(WHOLE_NAMESPACE, state.epoch + 3_600_000_000)
    epoch = state.epoch
    await warm.run(lambda redis: redis.delete(HASH))
    await first(generations)
    await generations.synchronise()
    assert state.epoch >= epoch
    assert (await Generations(store).state("n")).epoch == state.epoch


async def test_who_compares_a_lost_epoch_with_its_own_moves_both(
    redis_server: DevRedis, open_warm: Callable[..., Awaitable[WarmTier]]
) -> None:
    warm = await open_warm(redis_server.url)
    generations = Generations(RedisGenerations(warm, "test"))
    state = await generations.state("n")
    state.raise_scope(WHOLE_NAMESPACE, state.epoch + 3_600_000_000)
    epoch = state.epoch
    await warm.run(lambda redis: redis.delete(HASH))
    await generations.synchronise()
    assert state.epoch > epoch


@pytest.mark.parametrize("scope", [WHOLE_NAMESPACE, kind_scope("search")], ids=["all", "kind"])
async def test_an_invalidation_is_one_even_if_redis_clock_is_behind(
    scope: bytes, redis_server: DevRedis, open_warm: Callable[..., Awaitable[WarmTier]]
) -> None:
    generations = Generations(RedisGenerations(await open_warm(redis_server.url), "test"))
    state = await generations.state("n")
    state.raise_scope(WHOLE_NAMESPACE, state.epoch + 3_600_000_000)
    before = state.epoch_of("search", "m", "v")
    await generations.invalidate_scope("n", scope)
    assert state.epoch_of("search", "m", "v") > before


async def test_the_loss_of_the_scopes_shows_also_after_too_many_tags(
    redis_server: DevRedis,
    open_warm: Callable[..., Awaitable[WarmTier]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sidecar.cache.redis_generations.MAX_STORED_TAGS", 5)
    warm = await open_warm(redis_server.url)
    generations = Generations(RedisGenerations(warm, "test"))
    await generations.invalidate_scope("n", kind_scope("search"))
    state = await generations.state("n")
    base = state.base
    for number in range(10):
        await generations.invalidate_tags("n", [b"%016d" % number])
    assert state.base != base
    await warm.run(lambda redis: redis.delete(SCOPES))
    late = await Generations(RedisGenerations(warm, "test")).state("n")
    assert late.epoch > state.epoch_of("search", "m", "v")


async def forge(warm: WarmTier, number: int) -> None:
    """Writes a number in place of all that Redis has, and into the stream."""

    async def write(client: Any) -> None:
        for key in (HASH, SCOPES):
            for field in await client.hkeys(key):
                await client.hset(key, field, number)
                event: Any = {"n": "n", "f": field, "g": number}
                await client.xadd(STREAM, event)

    await warm.run(write)


FORGED = {
    "beyond what Lua can count": 2**62,
    "far ahead": time.time_ns() // 1000 + 20 * MOST_AHEAD_US,
    "as far ahead as is believed": time.time_ns() // 1000 + MOST_AHEAD_US // 2,
}


@pytest.mark.threat("Who writes to Redis forges an invalidation")
@pytest.mark.parametrize("number", FORGED.values(), ids=FORGED.keys())
@pytest.mark.parametrize("what", ["tags", "namespace", "kind"])
async def test_after_a_forged_number_invalidations_take_effect_everywhere(
    what: str,
    number: int,
    redis_server: DevRedis,
    open_warm: Callable[..., Awaitable[WarmTier]],
    follow: Callable[..., Awaitable[InvalidationFollower]],
) -> None:
    warm = await open_warm(redis_server.url)
    store = RedisGenerations(warm, "test")
    one, two = Generations(store), Generations(store)
    for each in (one, two):
        await follow(redis_server.url, each)
    await one.invalidate_tags("n", [TAG, OTHER])
    await one.invalidate_scope("n", kind_scope("search"))
    for each in (one, two):
        await resolve(each)
    await forge(warm, number)
    entries = Entries()
    for each in (one, two):
        await entries.add(each)
    if what == "tags":
        await one.invalidate_tags("n", [TAG, OTHER])
    elif what == "namespace":
        await one.invalidate_namespace("n")
    else:
        await one.invalidate_scope("n", kind_scope("search"))
    gone = {"tags": {TAG, OTHER}, "namespace": set(KINDS), "kind": {"search"}}[what]
    for each in (one, two):
        state = await each.state("n")
        async with asyncio.timeout(HANG_GUARD):
            while gone & set(entries.valid(state)) or state.generation(TAG) is None:
                await asyncio.sleep(0.005)
                await resolve(each)
    first, second = await one.state("n"), await two.state("n")
    async with asyncio.timeout(HANG_GUARD):
        while first.newest != second.newest:
            await asyncio.sleep(0.005)


async def test_a_sidecar_starts_though_somebody_wrote_into_the_stream(
    redis_server: DevRedis,
    open_warm: Callable[..., Awaitable[WarmTier]],
    follow: Callable[..., Awaitable[InvalidationFollower]],
    tmp_path: Path,
) -> None:
    warm = await open_warm(redis_server.url)
    file = tmp_path / "position"
    first: Any = {"n": ""}
    forged: Any = {"n": "n", "f": "epoch", "g": 2**62}
    file.write_bytes(await warm.run(lambda client: client.xadd(STREAM, first)))
    await warm.run(lambda client: client.xadd(STREAM, forged))
    generations = Generations(RedisGenerations(warm, "test"))
    await generations.state("n")
    follower = await follow(redis_server.url, generations, file=file)
    async with asyncio.timeout(HANG_GUARD):
        while not follower._connected:
            await asyncio.sleep(0.005)


async def test_an_invalidation_fails_while_redis_clock_is_far_behind(
    redis_server: DevRedis, open_warm: Callable[..., Awaitable[WarmTier]]
) -> None:
    store = RedisGenerations(await open_warm(redis_server.url), "test")
    ahead = time.time_ns() // 1000 + 2 * MOST_AHEAD_US
    with pytest.raises(StoreUnavailableError):
        await store.bump_scope("n", b"", ahead)


@pytest.mark.threat("Who writes to Redis forges an invalidation")
async def test_a_tag_forged_in_the_stream_alone_can_be_invalidated(
    redis_server: DevRedis,
    open_warm: Callable[..., Awaitable[WarmTier]],
    follow: Callable[..., Awaitable[InvalidationFollower]],
) -> None:
    warm = await open_warm(redis_server.url)
    one = Generations(RedisGenerations(warm, "test"))
    await follow(redis_server.url, one)
    await resolve(one)
    state = await one.state("n")
    number = time.time_ns() // 1000 + MOST_AHEAD_US // 2
    event: Any = {"n": "n", "f": TAG_FIELD + TAG.hex().encode(), "g": number}
    await warm.run(lambda client: client.xadd(STREAM, event))
    async with asyncio.timeout(HANG_GUARD):
        while state.generation(TAG) != number:
            await asyncio.sleep(0.005)
    await one.invalidate_tags("n", [TAG])
    assert state.generation(TAG) != number
