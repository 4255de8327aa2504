from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.models.places import Places
from sidecar.models.prefixes import Prefixes
from sidecar.models.types import ModelUnavailableError


def enter(places: Places, n_bytes: int) -> tuple[asyncio.Task[bool], asyncio.Future[Any]]:
    unwanted: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    return asyncio.create_task(places.enter(n_bytes, unwanted)), unwanted


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_no_more_than_so_many_enter_at_once() -> None:
    places = Places(2, Prefixes(1000))
    tasks = [enter(places, 1)[0] for _ in range(3)]
    await settle()
    assert [task.done() for task in tasks] == [True, True, False]
    assert places.taken == 2
    places.leave(1)
    assert await tasks[2]


async def test_who_needs_much_memory_is_not_overtaken_by_those_who_need_little() -> None:
    prefixes = Prefixes(1000)
    places = Places(10, prefixes)
    first, much, little = (enter(places, size)[0] for size in (600, 700, 100))
    await settle()
    assert [task.done() for task in (first, much, little)] == [True, False, False]
    places.leave(600)
    assert await much
    assert await little
    assert prefixes.report(1).bytes == 800


async def test_who_gives_up_waiting_makes_way_for_those_behind() -> None:
    prefixes = Prefixes(1000)
    places = Places(10, prefixes)
    _first, (much, gives_up), (little, _) = (enter(places, size) for size in (600, 700, 100))
    await settle()
    gives_up.cancel()
    assert not await much
    assert await little
    assert (places.taken, prefixes.report(1).bytes) == (2, 700)


async def test_who_gave_up_before_does_not_enter() -> None:
    places = Places(1, Prefixes(1000))
    first, _ = enter(places, 1)
    waiting, gives_up = enter(places, 1)
    await first
    gives_up.cancel()
    places.leave(1)
    assert not await waiting
    assert places.taken == 0


async def test_closing_sends_away_those_who_wait_and_those_who_come() -> None:
    places = Places(1, Prefixes(1000))
    first, waiting = enter(places, 1)[0], enter(places, 1)[0]
    await settle()
    places.close()
    assert await first
    for task in (waiting, enter(places, 1)[0]):
        with pytest.raises(ModelUnavailableError, match="shutting down"):
            await task
    places.leave(1)
    assert places.taken == 0
