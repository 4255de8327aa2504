"""Redis may evict or lose what it holds of a namespace: nothing old is valid again by that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.cache.generations import Generations, NamespaceState, kind_scope, model_scope
from sidecar.cache.redis_generations import RedisGenerations

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.cache.warm import WarmTier
    from sidecar.dev_redis import DevRedis

    First = Callable[[Generations], Awaitable[object]]

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
