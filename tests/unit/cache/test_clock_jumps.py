"""The wall clock of a machine is set forward and back: what has a lifetime still ends.

The rule: an entry is served for no longer than its lifetime and how far the clock was set back
since it was made. What is in memory does not mind the wall clock at all.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.cache.accounts import Account
from sidecar.cache.codec import (
    MOST_SKEW_SECONDS,
    Codec,
    Entry,
    Value,
    decode_vector,
    encode_vector,
    pack,
)
from sidecar.cache.generations import Generations
from sidecar.cache.hot import HotTier
from sidecar.cache.items import Answer, CacheMode, Policy, Product, Tier, Want
from sidecar.cache.local_generations import LocalGenerations
from sidecar.cache.read_through import ReadThrough
from sidecar.cache.semantic import SemanticIndex

if TYPE_CHECKING:
    from collections.abc import Sequence

HOUR = 3600.0
TTL = 600.0
KEY = b"key"


class Memory:
    """A lower tier that keeps what it is given."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.data.get(key) for key in keys]

    def put(self, key: bytes, value: bytes, expires_ms: int, *, replace: bool) -> None:
        if replace or key not in self.data:
            self.data[key] = value

    def delete(self, keys: Sequence[bytes]) -> None:
        for key in keys:
            self.data.pop(key, None)


class Machine:
    """A cache on a machine whose wall clock is ``ahead`` of the time; its vectors tell the time."""

    def __init__(self, *, hot: bool = True) -> None:
        self.now, self.ahead = 1_000_000.0, 0.0
        self.lower = Memory()
        self.cache = ReadThrough(
            HotTier[Any](2**20 if hot else 0, lambda: self.now),
            Generations(LocalGenerations(None)),
            disk=None,
            warm=self.lower,
            ttl_jitter=0,
            clock=self.wall,
        )
        self._account = Account("kind", "n", "model")

    def wall(self) -> float:
        return self.now + self.ahead

    def submit(self, sources: Sequence[Any]) -> list[asyncio.Future[float]]:
        futures = [asyncio.get_running_loop().create_future() for _ in sources]
        for future in futures:
            future.set_result(self.now)
        return futures

    def product(self, made: float) -> Product:
        # As a float32 the time has no seconds.
        vector = np.array([made // 1000, made % 1000], np.float32)
        return Product(Value(encode_vector(vector, Codec.FLOAT32), Codec.FLOAT32, 2, 1, False))

    async def ask(self, ttl: float | None = TTL) -> tuple[Tier, float]:
        """What answers, and how old that is."""
        state = await self.cache._generations.state("n")
        policy = Policy(CacheMode.DEFAULT, (), self._account)
        (answer,) = await self.cache.fetch(state, [Want(KEY, b"", "text", ttl)], policy, self)
        assert isinstance(answer, Answer)
        value = answer.entry.value
        thousands, rest = decode_vector(value.payload, value.codec)
        return answer.tier, self.now - (float(thousands) * 1000 + float(rest))


STEPS = st.lists(
    st.tuples(st.sampled_from(["wait", "set"]), st.floats(-10 * HOUR, 10 * HOUR)), max_size=12
)


@settings(max_examples=30)
@given(STEPS, st.booleans())
async def test_nothing_outlives_its_lifetime_by_more_than_the_clock_was_set_back(
    steps: list[tuple[str, float]], hot: bool
) -> None:
    machine = Machine(hot=hot)
    # How far the clock was ahead, and when, from each setting on.
    offsets = [(machine.now, 0.0)]
    for what, seconds in steps:
        if what == "wait":
            machine.now += round(abs(seconds) / 20)
        else:
            machine.ahead = seconds
            offsets.append((machine.now, seconds))
        _, age = await machine.ask()
        made = machine.now - age
        # It may have been set several times at that moment.
        then = [ahead for when, ahead in offsets if when < made][-1:]
        then += [ahead for when, ahead in offsets if when == made]
        since = then + [ahead for when, ahead in offsets if when > made]
        assert age < TTL + max(then) - min(since) + 0.001


async def test_what_is_in_memory_does_not_mind_the_clock() -> None:
    machine = Machine()
    await machine.ask()
    machine.lower.data.clear()
    for machine.ahead in (5 * HOUR, -5 * HOUR, 0):
        assert await machine.ask() == (Tier.HOT, 0)
    machine.now += TTL - 1
    machine.ahead = -5 * HOUR
    assert (await machine.ask())[0] is Tier.HOT
    machine.now += 1
    assert (await machine.ask())[0] is Tier.COMPUTED


async def test_an_entry_from_the_future_is_computed_anew_and_replaced() -> None:
    machine = Machine(hot=False)
    machine.ahead = 10 * 365 * 24 * HOUR
    await machine.ask()
    machine.ahead = 0
    assert (await machine.ask())[0] is Tier.COMPUTED
    assert (await machine.ask())[0] is Tier.WARM
    machine.now += TTL
    assert (await machine.ask())[0] is Tier.COMPUTED


async def test_clocks_that_are_a_little_apart_do_no_harm() -> None:
    machine = Machine(hot=False)
    machine.ahead = MOST_SKEW_SECONDS
    await machine.ask()
    machine.ahead = 0
    assert (await machine.ask())[0] is Tier.WARM


async def test_what_lives_for_ever_does_so_whatever_the_clock_says() -> None:
    machine = Machine(hot=False)
    await machine.ask(ttl=None)
    for machine.ahead in (100 * HOUR, -100 * HOUR):
        assert (await machine.ask(ttl=None))[0] is Tier.WARM


async def test_a_copy_in_memory_of_an_entry_from_the_future_is_not_made() -> None:
    machine = Machine()
    now_ms = int(machine.now * 1000)
    value = machine.product(machine.now).value
    future = Entry(value, now_ms + 10**12, now_ms + 2 * 10**12)
    machine.lower.data[KEY] = pack(future, KEY)
    assert (await machine.ask())[0] is Tier.COMPUTED


def test_vectors_of_semantic_answers_end_with_their_entries() -> None:
    now = 1_000_000.0
    index = SemanticIndex(10, lambda: now)
    vector = np.ones(4, np.float32)
    index.add(b"scope", vector, b"key", int((now + TTL) * 1000))
    now -= 5 * HOUR
    # Its entry is looked up, and is not served.
    assert [match.key for match in index.nearest(b"scope", vector)] == [b"key"]
    now += 5 * HOUR + TTL
    assert index.nearest(b"scope", vector) == []
    assert len(index) == 0
