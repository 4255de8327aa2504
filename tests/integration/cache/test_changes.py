"""Changes that travel with a generation: who has them all can tell what a cached result missed."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest
import redis

from sidecar.cache.change_log import MAX_CHANGE_BYTES
from sidecar.cache.generations import Generations, InvalidationNotSharedError
from sidecar.cache.redis_generations import RedisGenerations

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.cache.warm import WarmTier
    from sidecar.dev_redis import DevRedis

    Breakable = Any
    OpenWarm = Callable[..., Awaitable[WarmTier]]
    Follow = Callable[..., Awaitable[Any]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

TAG, OTHER = b"t" * 16, b"o" * 16
STREAM = "test:{state}:invalidations"


async def now(generations: Generations, tag: bytes = TAG) -> int:
    """The generation that an entry would carry now."""
    state = await generations.state("n")
    await generations.resolve(state, [tag])
    generation = state.generation(tag)
    assert generation is not None
    return generation


async def test_the_changes_since_a_generation_are_told_in_order(store: Breakable) -> None:
    generations = Generations(store)
    state = await generations.state("n")
    seen = [await now(generations)]
    for change in (b"one", b"two", b"three"):
        await generations.announce("n", TAG, change)
        await generations.announce("n", OTHER, b"elsewhere")
        seen.append(await now(generations))
    told = [state.changes_since(TAG, generation) for generation in seen]
    assert told == [[b"one", b"two", b"three"], [b"two", b"three"], [b"three"], []]


async def test_an_announcement_invalidates_the_tag(store: Breakable) -> None:
    generations = Generations(store)
    state = await generations.state("n")
    tags, stamp = [(TAG, await now(generations))], state.stamp
    await generations.announce("n", TAG, b"change")
    assert not state.is_current(tags)
    assert state.stamp != stamp


@pytest.mark.parametrize("change", [b"", bytes(MAX_CHANGE_BYTES + 1)], ids=["empty", "too large"])
async def test_a_change_that_is_not_told_concerns_everything(
    store: Breakable, change: bytes
) -> None:
    generations = Generations(store)
    state = await generations.state("n")
    before = await now(generations)
    await generations.announce("n", TAG, change)
    assert state.changes_since(TAG, before) is None
    between = await now(generations)
    await generations.announce("n", TAG, bytes(MAX_CHANGE_BYTES))
    assert state.changes_since(TAG, before) is None
    assert state.changes_since(TAG, between) == [bytes(MAX_CHANGE_BYTES)]


async def test_a_plain_invalidation_concerns_everything(store: Breakable) -> None:
    generations = Generations(store)
    state = await generations.state("n")
    before = await now(generations)
    await generations.announce("n", TAG, b"one")
    await generations.invalidate_tags("n", [TAG])
    after = await now(generations)
    await generations.announce("n", TAG, b"two")
    assert state.changes_since(TAG, before) is None
    assert state.changes_since(TAG, after) == [b"two"]


async def test_after_the_store_has_forgotten_its_tags_nothing_before_is_known(
    store: Breakable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("redis_generations", "local_generations"):
        monkeypatch.setattr(f"sidecar.cache.{module}.MAX_STORED_TAGS", 20)
    generations = Generations(store)
    state = await generations.state("n")
    before = await now(generations)
    await generations.announce("n", TAG, b"one")
    for number in range(25):
        await generations.invalidate_tags("n", [b"%016d" % number])
    await generations.announce("n", TAG, b"two")
    await now(generations)
    assert state.changes_since(TAG, before) is None


async def test_what_the_store_did_not_take_is_in_force_here_and_shared_as_an_unknown_change(
    store: Breakable,
) -> None:
    one, two = Generations(store), Generations(store)
    state = await one.state("n")
    before = await now(one)
    assert await now(two) == before
    store.down = True
    with pytest.raises(InvalidationNotSharedError):
        await one.announce("n", TAG, b"change")
    assert not state.is_current([(TAG, before)])
    assert state.changes_since(TAG, before) is None
    store.down = False
    await one.synchronise()
    assert await now(one) == await now(Generations(store)) != before
    assert state.changes_since(TAG, before) is None


async def test_every_sidecar_is_told(
    redis_server: DevRedis, open_warm: OpenWarm, follow: Follow, eventually: Eventually
) -> None:
    store = RedisGenerations(await open_warm(redis_server.url), "test")
    one, two = Generations(store), Generations(store)
    await follow(redis_server.url, two)
    there = await two.state("n")
    before = await now(two)
    await one.announce("n", TAG, b"one \x00 \xff")
    await one.announce("n", TAG, b"two")
    await eventually(lambda: there.changes_since(TAG, before) == [b"one \x00 \xff", b"two"])
    late = Generations(store)
    await follow(redis_server.url, late)
    assert (await late.state("n")).changes_since(TAG, before) is None
    await now(late)
    assert (await late.state("n")).changes_since(TAG, before) is None


async def test_who_was_away_catches_up_on_changes(
    redis_server: DevRedis, open_warm: OpenWarm, follow: Follow, eventually: Eventually
) -> None:
    """Also when all tags became unknown meanwhile."""
    store = RedisGenerations(await open_warm(redis_server.url), "test")
    one, two = Generations(store), Generations(store)
    state, before = await two.state("n"), await now(two)
    # It has heard of this generation, and reads the rest later.
    follower = await follow(redis_server.url, two)
    two.forget_tags()
    await one.announce("n", TAG, b"one")
    await one.announce("n", TAG, b"two")
    await eventually(lambda: follower._position == last(redis_server))
    assert state.changes_since(TAG, before) is None
    await now(two)
    assert state.changes_since(TAG, before) == [b"one", b"two"]


def last(server: DevRedis) -> bytes:
    with redis.Redis.from_url(server.url) as client:
        position: bytes = client.xrevrange(STREAM, count=1)[0][0]
        return position


async def test_large_changes_shorten_the_stream_rather_than_fill_redis(
    redis_server: DevRedis, open_warm: OpenWarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.cache.redis_generations.STREAM_CHANGES_BYTES", 80 * 1000)
    warm = await open_warm(redis_server.url)
    generations = Generations(RedisGenerations(warm, "test"))
    for _ in range(300):
        await generations.announce("n", TAG, bytes(1000))
    length = await warm.run(lambda client: client.xlen(STREAM))
    assert 80 <= length <= 90
    # Small ones leave it as it is.
    for _ in range(100):
        await generations.announce("n", TAG, b"small")
    assert await warm.run(lambda client: client.xlen(STREAM)) == length + 100


class Racing:
    """A store whose replies come late and out of order, as those of several connections do."""

    def __init__(self, store: RedisGenerations, chance: random.Random) -> None:
        self._store = store
        self._chance = chance

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)

        async def late(*arguments: Any) -> Any:
            reply = await call(*arguments)
            await asyncio.sleep(self._chance.choice([0, 0, 0.001, 0.003]))
            return reply

        return late


@pytest.mark.parametrize("seed", range(3))
async def test_when_two_announce_at_once_both_have_each_change_once_and_in_redis_order(
    seed: int, redis_server: DevRedis, open_warm: OpenWarm, follow: Follow, eventually: Eventually
) -> None:
    chance = random.Random(seed)
    warm = await open_warm(redis_server.url)
    sidecars = []
    for _ in range(2):
        store = Racing(RedisGenerations(await open_warm(redis_server.url), "test"), chance)
        sidecars.append(Generations(store))
        await follow(redis_server.url, sidecars[-1])
    start = await now(sidecars[0])
    assert await now(sidecars[1]) == start
    states = [await sidecar.state("n") for sidecar in sidecars]
    seen: list[list[list[bytes]]] = [[], []]

    async def announce(number: int) -> None:
        for step in range(25):
            sidecar = chance.randrange(2)
            await sidecars[sidecar].announce("n", TAG, b"%d.%d" % (number, step))
            for state, told in zip(states, seen, strict=True):
                if chance.random() < 0.3:
                    told.append(state.changes_since(TAG, start) or [])

    await asyncio.gather(*map(announce, range(8)))
    entries = await warm.run(lambda client: client.xrange(STREAM))
    order = [fields[b"c"] for _, fields in entries if b"c" in fields]
    assert len(order) == 200
    for state, told in zip(states, seen, strict=True):
        await eventually(lambda state=state: state.changes_since(TAG, start) == order)
        assert all(changes == order[: len(changes)] for changes in told)
        # They were not all None: some were told while it went on.
        assert any(told)
        assert state.generation(TAG) == max(int(f[b"g"]) for _, f in entries if b"c" in f)
