"""How the soak judges what it has measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.soak import MIB, Sample, Slope, faults

CALM = Sample(seconds=0, calls=0, rss=500 * MIB, descriptors=30, threads=16, tasks=20)
FLAT = Slope(0.0, 5.0)


def samples(mib_an_hour: float, noise_mib: float = 0.0, minutes: float = 6) -> list[Sample]:
    """One every five seconds, of a process that grows so."""
    rng = np.random.default_rng(0)
    return [
        replace(
            CALM,
            seconds=seconds,
            rss=round((500 + mib_an_hour * seconds / 3600 + rng.normal(0, noise_mib)) * MIB),
        )
        for seconds in np.arange(0, minutes * 60, 5)
    ]


@pytest.mark.parametrize("growth", [-60.0, 0.0, 120.0])
def test_the_slope_is_that_of_the_memory_and_the_interval_holds_it(growth: float) -> None:
    assert Slope.fit(samples(growth)).mib_an_hour == pytest.approx(growth, abs=0.1)
    noisy = Slope.fit(samples(growth, noise_mib=1))
    assert abs(noisy.mib_an_hour - growth) < noisy.half
    assert noisy.half < 40


def test_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="run it longer"):
        Slope.fit(samples(0, minutes=1))


def test_a_sidecar_that_does_not_grow_is_well() -> None:
    assert faults(FLAT, CALM, CALM, 30, 3) == []
    assert faults(FLAT, CALM, replace(CALM, descriptors=33, tasks=10), 30, 3) == []


@pytest.mark.parametrize(
    ("slope", "reason"),
    [
        (Slope(60.0, 20.0), "grows"),
        (Slope(0.0, 40.0), "varies too much"),
        (Slope(0.0, float("nan")), "varies too much"),
    ],
)
def test_memory_that_grows_or_cannot_be_judged_fails(slope: Slope, reason: str) -> None:
    (fault,) = faults(slope, CALM, CALM, 30, 3)
    assert reason in fault


@pytest.mark.parametrize("name", ["descriptors", "threads", "tasks"])
def test_more_descriptors_threads_or_tasks_without_calls_fail(name: str) -> None:
    after = replace(CALM, **{name: getattr(CALM, name) + 4})
    (fault,) = faults(FLAT, CALM, after, 30, 3)
    assert name in fault
