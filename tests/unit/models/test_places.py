from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from sidecar.demand import Demand, act_for
from sidecar.models.places import MAX_OVERTAKEN, Left, Place, Places
from sidecar.models.prefix_store import BlockLayout
from sidecar.models.prefixes import Prefixes
from sidecar.models.types import ModelUnavailableError, TooLateError


def enter(places: Places, n_bytes: int) -> tuple[asyncio.Task[Place | None], asyncio.Future[Any]]:
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
    places.leave(Place(1))
    assert await tasks[2]


async def test_who_needs_little_memory_does_not_wait_for_those_who_need_much() -> None:
    prefixes = Prefixes(1000)
    places = Places(3, prefixes)
    sizes = (600, 700, 800, 100, 100, 100)
    first, much, more, *little = (enter(places, size)[0] for size in sizes)
    assert await first
    assert await little[0]
    assert await little[1]
    # Now there is no place for the third of them, and those before it come first.
    places.leave(Place(600))
    assert await much
    assert not little[2].done()
    places.leave(Place(700))
    places.leave(Place(100))
    assert await more
    assert await little[2]


async def test_who_waits_for_memory_is_overtaken_a_bounded_number_of_times() -> None:
    prefixes = Prefixes(1000)
    places = Places(10, prefixes)
    _first, much = enter(places, 600)[0], enter(places, 700)[0]
    await settle()
    for _ in range(MAX_OVERTAKEN):
        assert await enter(places, 100)[0]
        places.leave(Place(100))
    little = enter(places, 100)[0]
    await settle()
    assert not much.done()
    assert not little.done()
    places.leave(Place(600))
    assert await much
    assert await little
    assert prefixes.report(1).bytes == 800


async def test_who_waits_for_a_place_is_not_overtaken() -> None:
    places = Places(1, Prefixes(1000))
    first, much, little = (enter(places, size)[0] for size in (100, 900, 100))
    assert await first
    places.leave(Place(100))
    assert await much
    assert not little.done()
    places.leave(Place(900))
    assert await little


async def test_who_gives_up_waiting_makes_way_for_those_behind() -> None:
    prefixes = Prefixes(1000)
    places = Places(10, prefixes)
    _first, (much, gives_up) = enter(places, 600), enter(places, 700)
    await settle()
    for _ in range(MAX_OVERTAKEN):
        assert await enter(places, 100)[0]
        places.leave(Place(100))
    little, _ = enter(places, 100)
    gives_up.cancel()
    assert not await much
    assert await little
    assert prefixes.report(1).bytes == 700


async def test_nothing_is_kept_of_who_gave_up_while_all_places_are_taken() -> None:
    places = Places(1, Prefixes(1000))
    assert await enter(places, 1)[0]
    waiting = [enter(places, 1) for _ in range(50)]
    await settle()
    for task, gives_up in waiting:
        gives_up.cancel()
        assert await task is None
    assert not places._waiting


async def test_who_waits_for_memory_enters_when_blocks_of_a_prompt_are_let_go() -> None:
    prefixes = Prefixes(10_000)
    places = Places(2, prefixes)
    prefixes.keep([b"key"], 0, [np.zeros((2, 1, 4, 8), np.float32)])
    lease = await prefixes.take([b"key"], BlockLayout((2, 1, 4, 8), np.dtype(np.float32)), 0)
    waiting, _ = enter(places, 10_000)
    await settle()
    assert not waiting.done()
    lease.release()
    assert await waiting


async def test_who_waits_for_memory_enters_when_a_reservation_beside_the_places_ends() -> None:
    prefixes = Prefixes(1000)
    places = Places(2, prefixes)
    assert prefixes.reserve(300)
    waiting, _ = enter(places, 800)
    await settle()
    assert not waiting.done()
    prefixes.free(300)
    assert await waiting


async def test_who_gave_up_before_does_not_enter() -> None:
    places = Places(1, Prefixes(1000))
    first, _ = enter(places, 1)
    waiting, gives_up = enter(places, 1)
    await first
    gives_up.cancel()
    places.leave(Place(1))
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
    places.leave(Place(1))
    assert places.taken == 0


async def left_behind(places: Places, n_bytes: int) -> Left:
    """Leaves a place of which others may use the memory."""
    place = await enter(places, n_bytes)[0]
    assert place is not None
    state: Any = object()
    place.left = left = Left(state, (), ())
    places.leave(place)
    return left


async def test_who_needs_about_as_much_gets_the_memory_that_the_last_one_left() -> None:
    prefixes = Prefixes(1000)
    places = Places(2, prefixes)
    left = await left_behind(places, 200)
    assert (places.taken, prefixes.report(1).bytes) == (0, 200)
    place = await enter(places, 100)[0]
    assert place is not None
    assert (place.left, place.n_bytes, prefixes.report(1).bytes) == (left, 200, 200)
    other = await enter(places, 100)[0]
    assert other is not None
    assert (other.left, prefixes.report(1).bytes) == (None, 300)


@pytest.mark.parametrize("n_bytes", [99, 201])
async def test_memory_that_does_not_fit_is_not_used(n_bytes: int) -> None:
    prefixes = Prefixes(1000)
    places = Places(2, prefixes)
    await left_behind(places, 200)
    place = await enter(places, n_bytes)[0]
    assert place is not None
    assert (place.left, prefixes.report(1).bytes) == (None, 200 + n_bytes)


async def test_what_was_left_stays_where_that_would_not_be_enough() -> None:
    prefixes = Prefixes(1000)
    places = Places(3, prefixes)
    assert await enter(places, 500)[0]
    left = await left_behind(places, 200)
    much, _ = enter(places, 900)
    await settle()
    assert not much.done()
    place = await enter(places, 200)[0]
    assert place is not None
    assert place.left is left


async def test_what_was_left_makes_way_for_who_needs_more() -> None:
    prefixes = Prefixes(1000)
    places = Places(2, prefixes)
    await left_behind(places, 200)
    assert (await enter(places, 900)[0]) is not None
    assert prefixes.report(1).bytes == 900


async def test_only_one_is_left_and_only_if_it_is_small() -> None:
    prefixes = Prefixes(1000)
    places = Places(3, prefixes)
    await left_behind(places, 200)
    await left_behind(places, 50)
    assert prefixes.report(1).bytes == 50
    await left_behind(places, 251)
    assert prefixes.report(1).bytes == 0
    await left_behind(places, 250)
    places.clear()
    assert prefixes.report(1).bytes == 0


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def busy(clock: Clock) -> Places:
    """One place, which is taken; of late, those who waited got theirs every two seconds."""
    places = Places(1, Prefixes(1000), clock)
    waiting = [enter(places, 1)[0] for _ in range(3)]
    for task in waiting:
        await task
        clock.now += 2
        if task is not waiting[-1]:
            places.leave(Place(1))
    return places


def on_behalf_of(seconds: float, clock: Clock) -> Demand:
    """Whoever asks from now on waits so long."""
    who = Demand(deadline=clock.now + seconds)
    act_for(who)
    return who


async def test_who_would_have_gone_before_it_is_his_turn_is_refused() -> None:
    clock = Clock()
    places = await busy(clock)
    on_behalf_of(5, clock)
    places.refuse_if_late(1)
    with pytest.raises(TooLateError) as error:
        places.refuse_if_late(2)
    assert str(error.value) == (
        "the generation would begin in 6 s, and the call's deadline is in 5 s: try again later, or"
        " give the call more time"
    )
    assert error.value.retry_after == 1


async def test_who_waits_for_ever_is_not_refused() -> None:
    (await busy(Clock())).refuse_if_late(1000)


async def test_nobody_is_refused_while_a_place_is_free() -> None:
    clock = Clock()
    places = await busy(clock)
    places.leave(Place(1))
    on_behalf_of(0.001, clock)
    places.refuse_if_late(0)


async def test_one_long_stay_does_not_make_refusals_go_on() -> None:
    clock = Clock()
    places = Places(1, Prefixes(1000), clock)
    first, second = enter(places, 1)[0], enter(places, 1)[0]
    third = enter(places, 1)[0]
    assert await first
    places.leave(Place(1))
    assert await second
    clock.now += 120
    places.leave(Place(1))
    assert await third
    on_behalf_of(60, clock)
    with pytest.raises(TooLateError):
        places.refuse_if_late(1)
    # From now on all stay for a second, with one who waits.
    for _ in range(10):
        places.refuse_if_late(0)
        waiting = enter(places, 1)[0]
        await settle()
        clock.now += 1
        places.leave(Place(1))
        assert await waiting
        on_behalf_of(60, clock)
    places.refuse_if_late(1)


async def test_who_waited_past_his_deadline_is_sent_away() -> None:
    clock = Clock()
    places = await busy(clock)
    on_behalf_of(1, clock)
    late = enter(places, 1)[0]
    joined = on_behalf_of(1, clock)
    wanted = enter(places, 1)[0]
    await settle()
    joined.join(Demand(deadline=clock.now + 10))
    clock.now += 1
    places.leave(Place(1))
    assert await wanted
    with pytest.raises(TooLateError, match="deadline passed"):
        await late
    assert places.taken == 1
