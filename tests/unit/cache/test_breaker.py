"""When the circuit breaker lets calls through, and when it asks whether the service is back."""

from __future__ import annotations

import asyncio

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cache.breaker import Breaker, BreakerState, open_breakers


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return make(clock)


def make(clock: Clock, draw: float = 0.0) -> Breaker:
    return Breaker(
        "service",
        failures=3,
        first_seconds=1.0,
        longest_seconds=8.0,
        clock=clock,
        rng=lambda: draw,
    )


def open_it(breaker: Breaker) -> None:
    for _ in range(3):
        breaker.failed("broken")


def probe(breaker: Breaker, clock: Clock, *, succeeded: bool) -> None:
    clock.now += breaker.retry_in
    assert breaker.begin_probe()
    breaker.end_probe(succeeded=succeeded)


def test_lets_calls_through_at_first(breaker: Breaker) -> None:
    assert breaker.closed


def test_opens_after_so_many_failures_in_a_row(breaker: Breaker) -> None:
    breaker.failed("broken")
    breaker.failed("broken")
    assert breaker.closed
    breaker.failed("broken")
    assert breaker.state is BreakerState.OPEN


def test_a_success_in_between_starts_the_count_anew(breaker: Breaker) -> None:
    for _ in range(5):
        breaker.failed("broken")
        breaker.failed("broken")
        breaker.succeeded()
    assert breaker.closed


def test_tripping_opens_at_once(breaker: Breaker) -> None:
    breaker.trip("gone")
    assert breaker.state is BreakerState.OPEN


def test_no_probe_while_closed(breaker: Breaker) -> None:
    assert not breaker.begin_probe()


def test_no_probe_before_the_back_off_is_over(breaker: Breaker, clock: Clock) -> None:
    open_it(breaker)
    clock.now += 0.999
    assert not breaker.begin_probe()
    clock.now += 0.001
    assert breaker.begin_probe()


def test_only_one_probe_at_a_time(breaker: Breaker, clock: Clock) -> None:
    open_it(breaker)
    clock.now += 1
    assert breaker.begin_probe()
    assert breaker.state is BreakerState.HALF_OPEN
    assert not breaker.begin_probe()
    assert not breaker.closed


def test_closes_when_the_probe_succeeds_and_counts_from_zero(
    breaker: Breaker, clock: Clock
) -> None:
    open_it(breaker)
    probe(breaker, clock, succeeded=True)
    assert breaker.closed
    breaker.failed("broken")
    breaker.failed("broken")
    assert breaker.closed


def test_each_failed_probe_doubles_the_back_off_up_to_the_longest(
    breaker: Breaker, clock: Clock
) -> None:
    open_it(breaker)
    waits = []
    for _ in range(6):
        waits.append(breaker.retry_in)
        probe(breaker, clock, succeeded=False)
    assert waits == [1, 2, 4, 8, 8, 8]


def test_the_back_off_is_short_again_after_a_recovery_that_lasted(
    breaker: Breaker, clock: Clock
) -> None:
    open_it(breaker)
    probe(breaker, clock, succeeded=False)
    probe(breaker, clock, succeeded=False)
    probe(breaker, clock, succeeded=True)
    breaker.succeeded()
    clock.now += 8.1
    open_it(breaker)
    assert breaker.retry_in == 1


def test_a_service_that_answers_only_probes_is_left_alone_for_longer_and_longer(
    breaker: Breaker, clock: Clock
) -> None:
    waits = []
    for _ in range(5):
        open_it(breaker)
        waits.append(breaker.retry_in)
        probe(breaker, clock, succeeded=True)
    assert waits == [1, 2, 4, 8, 8]


def test_a_service_whose_calls_all_time_out_is_left_alone_for_longer_although_that_takes_long(
    breaker: Breaker, clock: Clock
) -> None:
    waits = []
    for _ in range(5):
        open_it(breaker)
        waits.append(breaker.retry_in)
        probe(breaker, clock, succeeded=True)
        clock.now += 60
    assert waits == [1, 2, 4, 8, 8]


def test_of_several_breakers_of_one_name_it_is_told_whether_any_is_open() -> None:
    one, other = Breaker("shared by two"), Breaker("shared by two")
    assert open_breakers()[one.name] is False
    other.trip("gone")
    assert open_breakers()[one.name] is True


@given(draw=st.floats(0, 1, exclude_max=True), failed_probes=st.integers(0, 10))
def test_chance_takes_at_most_half_of_the_back_off(draw: float, failed_probes: int) -> None:
    clock = Clock()
    breaker = make(clock, draw)
    open_it(breaker)
    for _ in range(failed_probes):
        probe(breaker, clock, succeeded=False)
    full = min(1.0 * 2**failed_probes, 8.0)
    assert breaker.retry_in == pytest.approx(full * (1 - draw / 2))


def test_calls_that_began_before_it_opened_do_not_close_it(breaker: Breaker, clock: Clock) -> None:
    open_it(breaker)
    breaker.succeeded()
    assert not breaker.closed
    clock.now += 1
    assert breaker.begin_probe()
    breaker.succeeded()
    assert not breaker.closed


def test_calls_that_began_before_it_opened_do_not_lengthen_the_back_off(
    breaker: Breaker, clock: Clock
) -> None:
    open_it(breaker)
    clock.now += 0.5
    for _ in range(10):
        breaker.failed("late")
    assert breaker.retry_in == 0.5


def test_logs_when_it_opens_and_closes_and_not_in_between(breaker: Breaker, clock: Clock) -> None:
    with structlog.testing.capture_logs() as logs:
        for _ in range(10):
            breaker.failed("ConnectionError")
        for _ in range(5):
            probe(breaker, clock, succeeded=False)
        probe(breaker, clock, succeeded=True)
        breaker.succeeded()
    assert [(log["log_level"], log["event"]) for log in logs] == [
        ("warning", "circuit breaker opened"),
        ("info", "circuit breaker closed"),
    ]
    assert logs[0]["reason"] == "ConnectionError"


async def test_recovery_probes_until_one_succeeds() -> None:
    breaker = Breaker("service", first_seconds=0.001, longest_seconds=0.002)
    breaker.trip("gone")
    answers = iter([False, False, True])
    states = []

    async def ask() -> bool:
        states.append(breaker.state)
        return next(answers)

    async with asyncio.timeout(10):
        await breaker.recover(ask)
    assert breaker.closed
    assert states == [BreakerState.HALF_OPEN] * 3


async def test_recovery_goes_on_after_a_probe_that_raised() -> None:
    breaker = Breaker("service", first_seconds=0.001, longest_seconds=0.002)
    breaker.trip("gone")
    calls = 0

    async def ask() -> bool:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise LookupError
        return True

    with structlog.testing.capture_logs() as logs:
        async with asyncio.timeout(10):
            await breaker.recover(ask)
    assert breaker.closed
    assert "probe failed unexpectedly" in [log["event"] for log in logs]
