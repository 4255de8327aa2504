from __future__ import annotations

import pytest

from sidecar.models.prefix_bandwidth import RETRY_SECONDS, Bandwidth

MB = 10**6


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bandwidth(clock: Clock) -> Bandwidth:
    return Bandwidth(clock)


def test_the_first_load_is_tried_and_has_no_estimate(bandwidth: Bandwidth) -> None:
    assert bandwidth.bytes_per_second is None
    assert bandwidth.should_load(MB, 1e-9)


@pytest.mark.parametrize(("compute_seconds", "should"), [(0.011, True), (0.009, False), (0, True)])
def test_what_is_computed_faster_than_loaded_is_not_loaded(
    bandwidth: Bandwidth, compute_seconds: float, should: bool
) -> None:
    bandwidth.measured(100 * MB, 1.0)
    assert bandwidth.should_load(MB, compute_seconds) == should


def test_later_loads_count_for_more(bandwidth: Bandwidth) -> None:
    for _ in range(20):
        bandwidth.measured(100 * MB, 1.0)
    for _ in range(20):
        bandwidth.measured(10 * MB, 1.0)
    assert bandwidth.bytes_per_second == pytest.approx(10 * MB, rel=0.05)


def test_a_small_load_that_took_little_counts_for_little(bandwidth: Bandwidth) -> None:
    bandwidth.measured(100 * MB, 1.0)
    bandwidth.measured(1000, 0.001)
    assert bandwidth.bytes_per_second == pytest.approx(100 * MB, rel=0.01)


def test_a_load_that_was_given_up_lowers_the_estimate(bandwidth: Bandwidth) -> None:
    bandwidth.measured(100 * MB, 1.0)
    bandwidth.measured(0, 1.0)
    assert bandwidth.bytes_per_second == pytest.approx(100 * MB * 0.75 / 1.75)


def test_a_tier_that_was_too_slow_is_tried_once_in_a_while(
    bandwidth: Bandwidth, clock: Clock
) -> None:
    bandwidth.measured(1, 1.0)
    tries = 0
    for _ in range(100):
        clock.now += RETRY_SECONDS / 20
        tries += bandwidth.should_load(MB, 0.01)
    assert tries == 5


def test_what_is_measured_on_such_a_try_replaces_the_estimate(
    bandwidth: Bandwidth, clock: Clock
) -> None:
    for _ in range(20):
        bandwidth.measured(1, 100.0)
    clock.now += RETRY_SECONDS
    assert bandwidth.should_load(MB, 0.01)
    bandwidth.measured(200 * MB, 1.0)
    assert bandwidth.bytes_per_second == 200 * MB
    assert bandwidth.should_load(MB, 0.01)


def test_a_load_in_which_the_clock_stood_still_is_a_fast_one(bandwidth: Bandwidth) -> None:
    bandwidth.measured(MB, 0.0)
    assert bandwidth.bytes_per_second == 1e12
