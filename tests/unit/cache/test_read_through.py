from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.cache.accounts import Account
from sidecar.cache.codec import Codec, Value, encode_vector, pack
from sidecar.cache.generations import Generations, NamespaceState
from sidecar.cache.hot import HotTier
from sidecar.cache.items import Answer, CacheMode, NotCachedError, Policy, Product, Tier, Want
from sidecar.cache.local_generations import LocalGenerations
from sidecar.cache.read_through import ReadThrough

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from sidecar.cache.items import Check

TAG = b"t" * 16


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Memory:
    """A lower tier without a server, for tests of what the path does with it."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}
        self.lookups: list[list[bytes]] = []

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.lookups.append(list(keys))
        await asyncio.sleep(0)
        return [self.data.get(key) for key in keys]

    def put(self, key: bytes, value: bytes, expires_ms: int, *, replace: bool) -> None:
        if replace or key not in self.data:
            self.data[key] = value

    def delete(self, keys: Sequence[bytes]) -> None:
        for key in keys:
            self.data.pop(key, None)


class Model:
    """A loader that works when it is told to, so that a test decides who comes first."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.sources: list[Any] = []
        self.futures: list[asyncio.Future[Any]] = []
        self.at_once = at_once
        self.refuse: Exception | None = None
        self.runs = 0
        # What its products are beside their values.
        self.made: dict[str, Any] = {}

    def submit(self, sources: Sequence[Any]) -> list[asyncio.Future[Any]]:
        if self.refuse is not None:
            raise self.refuse
        self.sources += sources
        futures = [asyncio.get_running_loop().create_future() for _ in sources]
        self.futures += futures
        if self.at_once:
            self.work()
        return futures

    def work(self) -> None:
        for source, future in zip(self.sources, self.futures, strict=True):
            if not future.done():
                self.runs += 1
                future.set_result((source, self.runs))

    def product(self, result: tuple[Any, int]) -> Product:
        source, run = result
        if isinstance(source, Exception):
            raise source
        vector = np.array([hash(source) % 1000, run], np.float32)
        value = Value(encode_vector(vector, Codec.FLOAT32), Codec.FLOAT32, 2, run, False)
        return Product(value, **self.made)


class Rig:
    def __init__(self, warm: Memory | None = None, disk: Memory | None = None) -> None:
        self.clock = Clock()
        self.hot: HotTier[Any] = HotTier(2**24, self.clock)
        self.store = LocalGenerations(None)
        self.generations = Generations(self.store)
        self.warm = Memory() if warm is None else warm
        self.cache = ReadThrough(
            self.hot, self.generations, disk=disk, warm=self.warm, ttl_jitter=0, clock=self.clock
        )
        self.model = Model()
        self.account = Account("kind", "n", "model")

    def policy(self, mode: CacheMode = CacheMode.DEFAULT, tags: tuple[bytes, ...] = ()) -> Policy:
        return Policy(mode, tags, self.account)

    async def state(self) -> NamespaceState:
        return await self.generations.state("n")

    async def fetch(
        self,
        names: Iterable[str],
        mode: CacheMode = CacheMode.DEFAULT,
        tags: tuple[bytes, ...] = (),
        ttl: float | None = None,
        check: Check | None = None,
    ) -> list[Answer | Exception]:
        wants = [Want(name.encode(), b"", name, ttl, check) for name in names]
        policy = self.policy(mode, tags)
        return await self.cache.fetch(await self.state(), wants, policy, self.model)

    async def tiers(self, names: Iterable[str], **options: Any) -> list[Tier | type]:
        results = await self.fetch(names, **options)
        return [r.tier if isinstance(r, Answer) else type(r) for r in results]


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    await rig.cache.close()
    rig.store.close()


async def test_each_tier_answers_and_fills_the_ones_above_it(rig: Rig) -> None:
    assert await rig.tiers("a") == [Tier.COMPUTED]
    assert await rig.tiers("a") == [Tier.HOT]
    rig.hot.clear()
    assert await rig.tiers("a") == [Tier.WARM]
    assert await rig.tiers("a") == [Tier.HOT]
    assert rig.model.runs == 1


async def test_a_batch_asks_a_lower_tier_once_for_what_is_missing(rig: Rig) -> None:
    await rig.fetch("ab")
    rig.warm.lookups.clear()
    assert await rig.tiers("abcd") == [Tier.HOT, Tier.HOT, Tier.COMPUTED, Tier.COMPUTED]
    assert rig.warm.lookups == [[b"c", b"d"]]


async def test_an_item_that_stands_twice_in_a_batch_is_computed_once(rig: Rig) -> None:
    results = await rig.tiers("aba")
    assert results == [Tier.COMPUTED, Tier.COMPUTED, Tier.COALESCED]
    assert rig.model.runs == 2


async def test_calls_at_the_same_time_share_one_lookup_and_one_computation(rig: Rig) -> None:
    results = await asyncio.gather(*(rig.tiers("a") for _ in range(50)))
    assert sorted(result[0].value for result in results) == ["coalesced"] * 49 + ["computed"]
    assert (rig.model.runs, len(rig.warm.lookups)) == (1, 1)


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def test_a_caller_that_goes_away_neither_fails_nor_delays_the_others(rig: Rig) -> None:
    rig.model.at_once = False
    leader = asyncio.create_task(rig.fetch("a"))
    await until(lambda: rig.model.sources)
    follower = asyncio.create_task(rig.fetch("a"))
    await asyncio.sleep(0)
    leader.cancel()
    await asyncio.wait({leader})
    rig.model.work()
    (answer,) = await follower
    assert isinstance(answer, Answer)
    assert rig.model.runs == 1


async def test_when_the_last_caller_goes_the_computation_is_cancelled(rig: Rig) -> None:
    rig.model.at_once = False
    callers = [asyncio.create_task(rig.fetch("a")) for _ in range(3)]
    await until(lambda: rig.model.futures)
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    assert rig.model.futures[0].cancelled()
    rig.model.at_once = True
    assert await rig.tiers("a") == [Tier.COMPUTED]


async def test_an_error_reaches_every_caller_and_the_next_call_tries_again(rig: Rig) -> None:
    rig.model.refuse = RuntimeError("full")
    results = await asyncio.gather(*(rig.tiers("a") for _ in range(3)))
    assert results == [[RuntimeError]] * 3
    rig.model.refuse = None
    assert await rig.tiers("a") == [Tier.COMPUTED]


async def test_an_item_that_fails_does_not_fail_its_batch_mates(rig: Rig) -> None:
    state = await rig.state()
    sources = ["a", ValueError("bad"), "c"]
    wants = [Want(str(s).encode(), b"", s, None) for s in sources]
    policy = rig.policy()
    results = await rig.cache.fetch(state, wants, policy, rig.model)
    assert [type(result) for result in results] == [Answer, ValueError, Answer]
    assert set(rig.warm.data) == {b"a", b"c"}


@pytest.mark.parametrize(
    ("mode", "tiers", "runs", "stored"),
    [
        (CacheMode.DEFAULT, [Tier.HOT, Tier.COMPUTED], 2, {b"a", b"b"}),
        (CacheMode.REFRESH, [Tier.COMPUTED, Tier.COMPUTED], 3, {b"a", b"b"}),
        (CacheMode.BYPASS, [Tier.COMPUTED, Tier.COMPUTED], 3, {b"a"}),
        (CacheMode.NO_STORE, [Tier.HOT, Tier.COMPUTED], 2, {b"a"}),
        (CacheMode.ONLY_IF_CACHED, [Tier.HOT, NotCachedError], 1, {b"a"}),
    ],
)
async def test_a_mode_decides_what_is_read_computed_and_stored(
    rig: Rig, mode: CacheMode, tiers: list[Any], runs: int, stored: set[bytes]
) -> None:
    await rig.fetch("a")
    assert await rig.tiers("ab", mode=mode) == tiers
    assert rig.model.runs == runs
    assert set(rig.warm.data) == stored
    assert (rig.hot.get(b"b") is not None) == (b"b" in stored)


async def test_refresh_replaces_what_every_tier_holds(rig: Rig) -> None:
    await rig.fetch("a")
    (fresh,) = await rig.fetch("a", CacheMode.REFRESH)
    (hot,) = await rig.fetch("a")
    rig.hot.clear()
    (warm,) = await rig.fetch("a")
    assert isinstance(fresh, Answer)
    assert isinstance(hot, Answer)
    assert isinstance(warm, Answer)
    assert fresh.entry == hot.entry == warm.entry


async def test_a_caller_that_stores_makes_a_flight_store_that_began_without(rig: Rig) -> None:
    rig.model.at_once = False
    first = asyncio.create_task(rig.fetch("a", CacheMode.NO_STORE))
    await until(lambda: rig.model.sources)
    second = asyncio.create_task(rig.fetch("a"))
    await asyncio.sleep(0)
    rig.model.work()
    await asyncio.gather(first, second)
    assert b"a" in rig.warm.data


async def test_an_entry_expires_in_every_tier(rig: Rig) -> None:
    await rig.fetch("a", ttl=10)
    rig.clock.now += 9
    assert await rig.tiers("a") == [Tier.HOT]
    rig.hot.clear()
    assert await rig.tiers("a") == [Tier.WARM]
    rig.clock.now += 1
    assert await rig.tiers("a") == [Tier.COMPUTED]
    rig.hot.clear()
    assert await rig.tiers("a") == [Tier.WARM]


async def test_a_corrupt_value_is_a_miss_and_is_counted_and_replaced(rig: Rig) -> None:
    await rig.fetch("a")
    rig.hot.clear()
    rig.warm.data[b"a"] = b"rubbish"
    assert await rig.tiers("a") == [Tier.COMPUTED]
    assert rig.cache.counters.corrupt[Tier.WARM] == 1
    rig.hot.clear()
    assert await rig.tiers("a") == [Tier.WARM]


async def test_an_entry_found_in_the_warm_tier_is_promoted_to_disk() -> None:
    warm, disk = Memory(), Memory()
    rig = Rig(warm, disk)
    await rig.fetch("a")
    rig.hot.clear()
    disk.data.clear()
    assert await rig.tiers("a") == [Tier.WARM]
    assert disk.data == warm.data
    rig.hot.clear()
    assert await rig.tiers("a") == [Tier.DISK]
    rig.store.close()


async def test_invalidating_a_tag_orphans_what_carries_it_in_every_tier(rig: Rig) -> None:
    await rig.fetch("a", tags=(TAG,))
    await rig.fetch("b")
    await rig.generations.invalidate_tags("n", [TAG])
    assert await rig.tiers("ab") == [Tier.COMPUTED, Tier.HOT]
    rig.hot.clear()
    assert await rig.tiers("ab") == [Tier.WARM, Tier.WARM]


async def test_an_invalidation_while_the_model_works_keeps_its_result_from_being_stored(
    rig: Rig,
) -> None:
    rig.model.at_once = False
    call = asyncio.create_task(rig.fetch("a", tags=(TAG,)))
    await until(lambda: rig.model.sources)
    await rig.generations.invalidate_tags("n", [TAG])
    rig.model.work()
    await call
    assert len(rig.hot) == 0
    assert rig.warm.data == {}


async def test_a_removal_while_the_model_works_keeps_its_result_from_being_stored(
    rig: Rig,
) -> None:
    rig.model.at_once = False
    call = asyncio.create_task(rig.fetch("a"))
    await until(lambda: rig.model.sources)
    rig.cache.remove([b"a"])
    rig.model.work()
    await call
    assert len(rig.hot) == 0
    assert rig.warm.data == {}


async def test_content_that_changed_under_a_key_is_computed_again(rig: Rig) -> None:
    state, policy = await rig.state(), rig.policy()

    async def fetch(*contents: str) -> list[Tier]:
        wants = [Want(b"id", c.encode() * 16, c, None) for c in contents]
        results = await rig.cache.fetch(state, wants, policy, rig.model)
        return [r.tier for r in results if isinstance(r, Answer)]

    assert await fetch("x") == [Tier.COMPUTED]
    assert await fetch("x") == [Tier.HOT]
    assert await fetch("y") == [Tier.COMPUTED]
    rig.hot.clear()
    assert await fetch("y") == [Tier.WARM]
    assert await fetch("x") == [Tier.COMPUTED]


async def test_the_first_writer_wins(rig: Rig) -> None:
    other = Rig(rig.warm)
    (first,) = await rig.fetch("a")
    assert isinstance(first, Answer)
    warm = dict(rig.warm.data)
    # The other one computed at the same time, and comes second.
    other.warm = Memory()
    rig.warm.put(b"a", pack(first.entry, b"a")[:-1] + b"?", 0, replace=False)
    assert rig.warm.data == warm
    other.store.close()


async def test_of_the_lifetimes_of_those_who_wait_the_shortest_counts(rig: Rig) -> None:
    rig.model.at_once = False
    calls = [
        asyncio.create_task(rig.fetch("a", mode=mode, ttl=ttl))
        for mode, ttl in [
            (CacheMode.NO_STORE, 1.0),
            (CacheMode.DEFAULT, None),
            (CacheMode.DEFAULT, 50.0),
            (CacheMode.DEFAULT, 20.0),
            (CacheMode.DEFAULT, 30.0),
        ]
    ]
    await until(lambda: rig.model.sources)
    rig.model.work()
    await asyncio.gather(*calls)
    rig.clock.now += 19
    assert await rig.tiers("a") == [Tier.HOT]
    rig.clock.now += 1
    rig.model.at_once = True
    assert await rig.tiers("a") == [Tier.COMPUTED]


NAMES = st.sampled_from("abcd")
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("fetch"),
            st.lists(NAMES, min_size=1, max_size=4),
            st.sampled_from(CacheMode),
            st.sampled_from([(), (TAG,), (TAG, b"u" * 16)]),
        ),
        st.tuples(st.just("tag"), st.sampled_from([TAG, b"u" * 16])),
        st.tuples(st.just("epoch")),
        st.tuples(st.just("flush")),
        st.tuples(st.just("tick"), st.integers(1, 40)),
        st.tuples(st.just("corrupt"), NAMES),
    ),
    max_size=25,
)


@settings(deadline=None)
@given(STEPS)
async def test_no_answer_is_ever_of_another_item_expired_or_invalidated(steps: list[Any]) -> None:
    """Whatever happens in whatever order: an answer is right, or it is computed."""
    rig = Rig()
    state = await rig.state()
    # By key: the first run of the model whose result may answer, and the tags it carries.
    known: dict[bytes, tuple[int, set[bytes]]] = {}
    for step in steps:
        match step:
            case ("fetch", names, mode, tags):
                marks = b"".join(tags)
                wants = [
                    Want(b"%d%s%s" % (state.epoch, n.encode(), marks), b"", n, 60) for n in names
                ]
                results = await rig.cache.fetch(state, wants, rig.policy(mode, tags), rig.model)
                assert len(results) == len(names)
                for want, result in zip(wants, results, strict=True):
                    if isinstance(result, Exception):
                        assert mode is CacheMode.ONLY_IF_CACHED
                        continue
                    vector = np.frombuffer(result.entry.value.payload, np.float32)
                    assert vector[0] == hash(want.source) % 1000
                    age = rig.clock.now * 1000 - result.entry.created_ms
                    assert 0 <= age < 60_000
                    if result.tier in (Tier.HOT, Tier.DISK, Tier.WARM):
                        assert result.entry.value.tokens >= known[want.key][0]
                    elif mode.stores:
                        known[want.key] = (result.entry.value.tokens, set(tags))
            case ("tag", tag):
                await rig.generations.invalidate_tags("n", [tag])
                for key, (_, tags) in list(known.items()):
                    if tag in tags:
                        known[key] = (rig.model.runs + 1, tags)
            case ("epoch",):
                await rig.generations.invalidate_namespace("n")
            case ("flush",):
                rig.hot.clear()
            case ("tick", seconds):
                rig.clock.now += seconds
            case ("corrupt", name):
                key = b"%d%s" % (state.epoch, name.encode())
                if key in rig.warm.data:
                    rig.warm.data[key] = rig.warm.data[key][:-1] + b"\x01\x02"
    await rig.cache.close()
    rig.store.close()
