"""How the soak judges what it has measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.soak import MIB, Growth, Limits, Sample, Slope, faults

CALM = Sample(seconds=0, calls=0, rss=500 * MIB, descriptors=30, threads=16, tasks=20)
LIMITS = Limits(per_call=100, an_hour=10, slack=3)
CALLS_A_SECOND = 300
FLAT = Growth(Slope(0.0, 5.0), Slope(0.0, 5.0), hours=0.1)


def samples(mib_an_hour: float, noise_mib: float = 0.0, minutes: float = 6) -> list[Sample]:
    """One every five seconds, of a process that grows so."""
    rng = np.random.default_rng(0)
    return [
        replace(
            CALM,
            seconds=seconds,
            calls=round(CALLS_A_SECOND * seconds),
            rss=round((500 + mib_an_hour * seconds / 3600 + rng.normal(0, noise_mib)) * MIB),
        )
        for seconds in np.arange(0, minutes * 60, 5)
    ]


@pytest.mark.parametrize("growth", [-60.0, 0.0, 120.0])
def test_the_slope_is_that_of_the_memory_and_the_interval_holds_it(growth: float) -> None:
    exact = Growth.of(samples(growth))
    assert exact.an_hour.value == pytest.approx(growth, abs=0.1)
    assert exact.per_call.value == pytest.approx(growth * MIB / 3600 / CALLS_A_SECOND, abs=0.1)
    noisy = Growth.of(samples(growth, noise_mib=1)).an_hour
    assert abs(noisy.value - growth) < noisy.half
    assert noisy.half < 40


def test_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="run it longer"):
        Growth.of(samples(0, minutes=1))


def test_a_sidecar_that_does_not_grow_is_well() -> None:
    assert faults(FLAT, CALM, CALM, LIMITS) == []
    assert faults(FLAT, CALM, replace(CALM, descriptors=33, tasks=10), LIMITS) == []


@pytest.mark.parametrize(
    ("growth", "reason"),
    [
        (replace(FLAT, an_hour=Slope(30.0, 15.0)), "grows"),
        (replace(FLAT, an_hour=Slope(5.0, 6.0), hours=0.6), "10 MiB an hour cannot be excluded"),
        (replace(FLAT, per_call=Slope(60.0, 50.0)), "100 bytes a call cannot be excluded"),
        (replace(FLAT, per_call=Slope(0.0, float("nan"))), "cannot be excluded"),
    ],
)
def test_memory_that_grows_or_may_do_so_fails(growth: Growth, reason: str) -> None:
    (fault,) = faults(growth, CALM, CALM, LIMITS)
    assert reason in fault


def test_of_a_short_run_nothing_is_said_of_slow_growth() -> None:
    assert faults(replace(FLAT, an_hour=Slope(5.0, 40.0)), CALM, CALM, LIMITS) == []


def test_an_object_left_behind_by_each_call_fails_within_ten_minutes() -> None:
    leak = 128 * CALLS_A_SECOND * 3600 / MIB
    reasons = faults(Growth.of(samples(leak, noise_mib=1)), CALM, CALM, LIMITS)
    assert len(reasons) == 2
    assert faults(Growth.of(samples(0, noise_mib=1)), CALM, CALM, LIMITS) == []


@pytest.mark.parametrize("name", ["descriptors", "threads", "tasks"])
def test_more_descriptors_threads_or_tasks_without_calls_fail(name: str) -> None:
    after = replace(CALM, **{name: getattr(CALM, name) + 4})
    (fault,) = faults(FLAT, CALM, after, LIMITS)
    assert name in fault
