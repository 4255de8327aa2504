"""How fast work may go that nobody waits for."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.services.errors import CallError
from sidecar.services.pace import Pace, reports


class Time:
    """A clock that is put forward by sleeping."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def run_taking(pace: Pace, sizes: list[int], time: Time) -> list[float]:
    """When each batch could begin."""
    begun = []

    async def take() -> None:
        for items in sizes:
            await pace.take(items)
            begun.append(time.now)

    asyncio.run(take())
    return begun


@given(st.floats(0.1, 1000), st.lists(st.integers(1, 64), min_size=1, max_size=20))
def test_no_more_items_begin_than_the_rate_allows(rate: float, sizes: list[int]) -> None:
    time = Time()
    begun = run_taking(Pace(rate, time, time.sleep), sizes, time)
    for index, at in enumerate(begun):
        # All batches before this one have had their time.
        assert at - begun[0] >= sum(sizes[:index]) / rate * 0.999


def test_items_follow_one_another_at_the_rate_and_not_slower() -> None:
    time = Time()
    assert run_taking(Pace(10, time, time.sleep), [5, 5, 10, 1], time) == [100, 100.5, 101, 102]


def test_time_that_was_not_used_does_not_add_up() -> None:
    time = Time()
    pace = Pace(1, time, time.sleep)
    run_taking(pace, [1], time)
    time.now += 1000
    assert run_taking(pace, [1, 1, 1], time) == [1100, 1101, 1102]


def test_without_a_rate_nothing_waits() -> None:
    time = Time()
    assert run_taking(Pace(0, time, time.sleep), [1000, 1000], time) == [100, 100]


@pytest.mark.parametrize(("rate", "size"), [(0, 64), (0.2, 1), (7.9, 7), (64, 64), (1e6, 64)])
def test_a_batch_is_no_larger_than_what_a_second_allows(rate: float, size: int) -> None:
    assert Pace(rate).batch(64) == size


@pytest.mark.parametrize("rate", [-1.0, math.nan, math.inf])
def test_a_rate_that_makes_no_sense_is_refused(rate: float) -> None:
    with pytest.raises(CallError, match="per_second must be"):
        Pace(rate)


async def test_what_fails_again_and_again_is_tried_less_and_less_and_then_given_up() -> None:
    time = Time()
    pace = Pace(0, time, time.sleep)
    failures = 1
    while await pace.back_off(failures):
        failures += 1
    assert time.slept == sorted(time.slept)
    assert time.slept[0] == 0.1
    assert time.slept[-1] == 5
    assert 20 < sum(time.slept) < 60


async def test_there_is_a_report_at_the_end_at_least() -> None:
    async def work() -> None:
        done.append(b"done")

    done: list[bytes] = []
    task = asyncio.create_task(work())
    assert [report async for report in reports(task, lambda: b"".join(done))] == [b"done"]


async def test_what_the_work_raises_is_raised() -> None:
    async def work() -> None:
        raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        async for _ in reports(asyncio.create_task(work()), bytes):
            pass
