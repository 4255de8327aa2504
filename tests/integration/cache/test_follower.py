"""What a follower of the stream does when it hears nothing, or misses something."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sidecar.cache.follower import InvalidationFollower
from sidecar.cache.generations import Generations
from sidecar.cache.local_generations import LocalGenerations
from sidecar.cache.redis_generations import RedisGenerations

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import pytest

    from sidecar.cache.generations import NamespaceState
    from sidecar.cache.warm import WarmTier
    from sidecar.dev_redis import DevRedis

    Follow = Callable[..., Awaitable[InvalidationFollower]]
    OpenWarm = Callable[..., Awaitable[WarmTier]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

TAG = b"t" * 16


class Silence:
    """A Redis that takes every command and answers none."""

    def __init__(self) -> None:
        self.asked = 0

    async def run(self, operation: object, seconds: float | None = None) -> Any:
        self.asked += 1
        await asyncio.Event().wait()


async def known(generations: Generations) -> NamespaceState:
    state = await generations.state("n")
    await generations.resolve(state, [TAG])
    assert state.generation(TAG) is not None
    return state


async def test_a_read_that_never_ends_keeps_nobody_from_forgetting(
    eventually: Eventually,
) -> None:
    """And from doing so again, for as long as it lasts."""
    generations, silence = Generations(LocalGenerations(None)), Silence()

    async def nothing() -> None:
        raise AssertionError("nothing was missed that is known of")

    async def settled() -> bool:
        return True

    follower = InvalidationFollower(
        silence,
        b"stream",
        generations,
        remove=lambda keys: None,
        lost=nothing,
        settle=settled,
        file=None,
        staleness=0.05,
    )
    running = asyncio.create_task(follower.run())
    for _ in range(3):
        state = await known(generations)
        stamp = state.stamp
        await eventually(lambda state=state: state.generation(TAG) is None)
        assert state.stamp != stamp
    assert silence.asked == 1
    running.cancel()
    await asyncio.wait({running})


async def test_a_stream_on_which_nothing_happens_is_contact(
    redis_server: DevRedis, open_warm: OpenWarm, follow: Follow, eventually: Eventually
) -> None:
    generations = Generations(RedisGenerations(await open_warm(redis_server.url), "test"))
    now = [0.0]
    # Reads wait for a fifth of the bound.
    follower = await follow(redis_server.url, generations, staleness=0.5, clock=lambda: now[0])
    state = await known(generations)
    generation = state.generation(TAG)
    for _ in range(5):
        now[0] += 0.2
        assert follower.heard_ago() > 0.1
        await eventually(lambda: follower.heard_ago() == 0)
    assert state.generation(TAG) == generation


async def test_a_stream_that_was_lost_while_connected_is_noticed(
    redis_server: DevRedis,
    open_warm: OpenWarm,
    follow: Follow,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sidecar.cache.follower.SYNCHRONISE_SECONDS", 0.05)
    warm = await open_warm(redis_server.url)
    generations = Generations(RedisGenerations(warm, "test"))
    state = await known(generations)
    losses = []

    async def lost() -> None:
        losses.append(1)

    await follow(redis_server.url, generations, lost=lost)
    count, epoch = len(losses), state.epoch
    await warm.run(lambda redis: redis.flushall())
    await eventually(lambda: len(losses) > count)
    await eventually(lambda: state.epoch > epoch)
    # And what comes now is heard of.
    other = Generations(RedisGenerations(warm, "test"))
    epoch = state.epoch
    await other.invalidate_namespace("n")
    await eventually(lambda: state.epoch > epoch)


async def test_what_redis_evicted_by_itself_is_set_up_anew_and_nothing_else_is_given_up(
    redis_server: DevRedis,
    open_warm: OpenWarm,
    follow: Follow,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sidecar.cache.follower.SYNCHRONISE_SECONDS", 0.05)
    warm = await open_warm(redis_server.url)
    generations = Generations(RedisGenerations(warm, "test"))
    state, other = await known(generations), await generations.state("m")
    losses = []

    async def lost() -> None:
        losses.append(1)

    await follow(redis_server.url, generations, lost=lost)
    count, epoch, elsewhere = len(losses), state.epoch, other.epoch
    await warm.run(lambda redis: redis.delete("test:{state}:namespace:n"))
    await eventually(lambda: state.epoch > epoch)
    assert other.epoch == elsewhere
    assert len(losses) == count


async def test_messages_of_another_release_are_passed_over(
    redis_server: DevRedis, open_warm: OpenWarm, follow: Follow, eventually: Eventually
) -> None:
    warm = await open_warm(redis_server.url)
    store = RedisGenerations(warm, "test")
    generations = Generations(store)
    await follow(redis_server.url, generations)
    state = await known(generations)
    for fields in ({"n": "n"}, {"n": "n", "f": "new", "g": "1"}, {"other": "x"}):
        await warm.run(lambda redis, fields=fields: redis.xadd(store.stream, fields))
    before = state.generation(TAG)
    await Generations(store).invalidate_tags("n", [TAG])
    await eventually(lambda: state.generation(TAG) != before)
