"""On whose behalf an item is computed that several calls wait for."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.cache.accounts import Account
from sidecar.cache.generations import Generations
from sidecar.cache.hot import HotTier
from sidecar.cache.items import CacheMode, Policy, Want
from sidecar.cache.local_generations import LocalGenerations
from sidecar.cache.read_through import ReadThrough
from sidecar.demand import Demand, Priority, demand, in_background, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


class Tier:
    """A lower tier that answers when the test lets it, that it holds nothing."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.answers = asyncio.Event()

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.asked.set()
        await self.answers.wait()
        return [None] * len(keys)

    def put(self, *_: object, **__: object) -> None:
        pass

    def delete(self, _: object) -> None:
        pass


class Model:
    """A loader that notes on whose behalf it is asked, and never answers."""

    def __init__(self) -> None:
        self.asked: list[Demand] = []
        self.futures: list[asyncio.Future[Any]] = []

    def submit(self, sources: Sequence[Any]) -> list[asyncio.Future[Any]]:
        self.asked.append(demand())
        self.futures = [asyncio.get_running_loop().create_future() for _ in sources]
        return self.futures

    def product(self, result: Any) -> Any:
        return result


class Rig:
    def __init__(self) -> None:
        self.tier, self.model = Tier(), Model()
        self.store = LocalGenerations(None)
        self.generations = Generations(self.store)
        self.cache = ReadThrough(
            HotTier(2**20, time.time), self.generations, disk=None, warm=self.tier, ttl_jitter=0
        )
        self.calls: list[asyncio.Task[Any]] = []

    async def call(
        self, *names: str, seconds: float | None = None, background: bool = False
    ) -> asyncio.Task[Any]:
        """Begins a call at second 0, which asks for one list of items after the other."""

        async def fetch() -> None:
            within(seconds, lambda: 0.0)
            if background:
                in_background()
            policy = Policy(CacheMode.DEFAULT, (), Account("kind", "shop", "model"))
            state = await self.generations.state("shop")
            for together in names:
                wants = [Want(name.encode(), b"", name, None) for name in together]
                await self.cache.fetch(state, wants, policy, self.model)

        self.calls.append(asyncio.create_task(fetch()))
        for _ in range(3):
            await asyncio.sleep(0)
        return self.calls[-1]

    async def submitted(self) -> Demand:
        self.tier.answers.set()
        async with asyncio.timeout(10):
            while not self.model.asked:
                await asyncio.sleep(0)
        return self.model.asked[0]


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    for call in rig.calls:
        call.cancel()
    await asyncio.wait(rig.calls)
    await rig.cache.close()
    rig.store.close()


async def test_an_item_is_computed_on_behalf_of_the_call_that_wants_it(rig: Rig) -> None:
    await rig.call("a", seconds=5)
    assert await rig.submitted() == Demand("shop", Priority.INTERACTIVE, 5.0)


async def test_who_joins_and_waits_longer_is_not_refused_because_the_first_waits_less(
    rig: Rig,
) -> None:
    await rig.call("a", seconds=0.1)
    await rig.tier.asked.wait()
    await rig.call("a", seconds=30)
    await rig.call("a", seconds=10)
    assert (await rig.submitted()).deadline == 30


async def test_who_joins_in_the_queue_keeps_an_item_wanted(rig: Rig) -> None:
    await rig.call("a", seconds=0.1)
    wanted = await rig.submitted()
    assert wanted.deadline == 0.1
    await rig.call("ab", seconds=30)
    assert wanted.deadline == 30


async def test_who_waits_for_what_the_background_began_makes_it_urgent(rig: Rig) -> None:
    await rig.call("ab", background=True)
    wanted = await rig.submitted()
    assert wanted.priority is Priority.BACKGROUND
    await rig.call("b", seconds=3)
    assert wanted.priority is Priority.INTERACTIVE


async def test_the_background_makes_nothing_less_urgent(rig: Rig) -> None:
    await rig.call("a", seconds=3)
    wanted = await rig.submitted()
    await rig.call("a", background=True)
    assert wanted.priority is Priority.INTERACTIVE


async def test_what_a_call_asks_for_next_is_on_its_own_behalf(rig: Rig) -> None:
    await rig.call("a", "b", seconds=1)
    first = await rig.submitted()
    await rig.call("a", seconds=30)
    rig.model.futures[0].set_exception(RuntimeError("failed"))
    while len(rig.model.asked) < 2:
        await asyncio.sleep(0)
    assert (first.deadline, rig.model.asked[1].deadline) == (30, 1)
