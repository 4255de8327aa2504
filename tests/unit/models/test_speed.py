from __future__ import annotations

import pytest

from sidecar.models.speed import Departures, Speed


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_nothing_is_known_until_enough_was_measured() -> None:
    speed = Speed()
    speed.measured(1, 0.06, while_others_waited=True)
    assert speed.per_second is None
    speed.measured(1, 0.06, while_others_waited=True)
    assert speed.per_second == pytest.approx(1 / 0.06)


def test_it_follows_what_was_measured_last() -> None:
    speed = Speed()
    for _ in range(100):
        speed.measured(1, 0.1, while_others_waited=True)
    assert speed.per_second == pytest.approx(10)
    for _ in range(100):
        speed.measured(1, 0.4, while_others_waited=True)
    assert speed.per_second == pytest.approx(2.5, rel=0.01)


def test_small_runs_with_nothing_behind_them_do_not_make_it_seem_slow() -> None:
    speed = Speed()
    for _ in range(10):
        speed.measured(1, 0.1, while_others_waited=True)
    for _ in range(1000):
        speed.measured(0.04, 0.01, while_others_waited=False)
    assert speed.per_second == pytest.approx(10)


def test_a_small_run_that_takes_far_too_long_tells_that_it_has_become_slower() -> None:
    speed = Speed()
    for _ in range(10):
        speed.measured(1, 0.1, while_others_waited=True)
    for _ in range(5):
        speed.measured(0.1, 1, while_others_waited=False)
    assert speed.per_second is not None
    assert 0.1 <= speed.per_second <= 0.3


def test_with_nothing_known_a_small_run_tells_nothing() -> None:
    speed = Speed()
    for _ in range(100):
        speed.measured(0.1, 1, while_others_waited=False)
    assert speed.per_second is None


def test_a_fast_run_with_nothing_behind_it_tells_that_it_has_become_faster() -> None:
    speed = Speed()
    for _ in range(10):
        speed.measured(1, 1, while_others_waited=True)
    for _ in range(100):
        speed.measured(1, 0.1, while_others_waited=False)
    assert speed.per_second == pytest.approx(10, rel=0.02)


def test_those_who_leave_tell_how_fast_others_get_their_places(clock: Clock) -> None:
    departures = Departures(clock)
    for _ in range(5):
        departures.left(others_wait=True)
        clock.now += 0.5
    assert departures.per_second == pytest.approx(2)


def test_a_time_in_which_nobody_waited_tells_nothing(clock: Clock) -> None:
    departures = Departures(clock)
    departures.left(others_wait=False)
    clock.now += 1000
    departures.left(others_wait=True)
    clock.now += 0.5
    departures.left(others_wait=True)
    assert departures.per_second == pytest.approx(2)


def test_one_who_stayed_long_counts_as_one_of_several(clock: Clock) -> None:
    departures = Departures(clock)
    departures.left(others_wait=True)
    for seconds in (*[1] * 20, 120):
        clock.now += seconds
        departures.left(others_wait=True)
    assert departures.per_second == pytest.approx(1 / 16, rel=0.1)


def test_how_fast_places_were_left_is_forgotten_after_a_while(clock: Clock) -> None:
    departures = Departures(clock)
    departures.left(others_wait=True)
    clock.now += 20
    departures.left(others_wait=False)
    clock.now += 159
    assert departures.per_second == pytest.approx(1 / 20)
    clock.now += 2
    assert departures.per_second is None
    departures.left(others_wait=True)
    clock.now += 0.5
    departures.left(others_wait=True)
    assert departures.per_second == pytest.approx(2)
