"""For how long Redis may be left alone: no less than the real breaker waits, and not for ever."""

from __future__ import annotations

import inspect
import json
import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cache.breaker import Breaker
from tests.chaos.breakers import (
    FIRST,
    LONGEST,
    PROBE,
    BreakerLog,
    Episode,
    longest_recovery,
    may_be_open,
)
from tests.chaos.parts import REDIS, SIDECARS, link
from tests.chaos.timeline import INDEX, NEWS, Circumstances, Disturbance, Timeline

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

A, B = SIDECARS


class Simulation:
    """A real breaker and a clock of its own; probes fail in outages.

    ``dice`` says by how much a wait is shortened, from 0 for nothing to 1 for half of it, and
    ``takes`` how long a probe is.
    """

    def __init__(
        self,
        outages: list[tuple[float, float]],
        dice: Callable[[], float],
        takes: Callable[[], float],
    ) -> None:
        self.now = 0.0
        self.outages = outages
        self.episodes: list[Episode] = []
        self._takes = takes
        self._breaker = Breaker("redis", clock=lambda: self.now, rng=dice)

    def run(self) -> None:
        for start, end in self.outages:
            self.now = max(self.now, start)
            if self.now >= end:
                continue
            self._breaker.trip("an outage")
            self.episodes.append(Episode(self.now))
            while not self._breaker.closed:
                self.now += self._breaker.retry_in
                assert self._breaker.begin_probe()
                began = self.now
                self.now += self._takes()
                self._breaker.end_probe(succeeded=not self._is_away(began))
            self.episodes[-1].closed = self.now
            self._breaker.succeeded()

    def _is_away(self, moment: float) -> bool:
        return any(start <= moment <= end for start, end in self.outages)


@given(
    st.lists(st.tuples(st.floats(0, 30), st.floats(0.01, 20)), min_size=1, max_size=4), st.data()
)
def test_the_real_breaker_is_never_open_for_longer_than_is_excused(
    outages: list[tuple[float, float]], data: st.DataObject
) -> None:
    moments, now = [], 0.0
    for pause, seconds in outages:
        moments.append((now + pause, now + pause + seconds))
        now += pause + seconds
    simulation = Simulation(
        moments, lambda: data.draw(st.floats(0, 1)), lambda: data.draw(st.floats(0, PROBE))
    )
    simulation.run()
    excused = may_be_open(simulation.episodes, moments)
    assert excused == [(one.opened, one.closed) for one in simulation.episodes]


@pytest.mark.parametrize(
    ("outages", "last_wait_is"),
    [
        pytest.param([(0, 7.88)], LONGEST, id="one that ends just after a probe has failed"),
        pytest.param([(0, 1.88), (5, 5.01), (10, 10.01)], LONGEST, id="one after the other"),
    ],
)
def test_nor_where_all_waits_are_short_but_the_last(
    outages: list[tuple[float, float]], last_wait_is: float
) -> None:
    _, last_end = outages[-1]
    simulation: Simulation
    simulation = Simulation(
        outages, lambda: 0.0 if simulation.now > last_end - 0.1 else 1.0, lambda: 0.0
    )
    simulation.run()
    assert simulation.now > last_end - 0.1 + last_wait_is
    excused = may_be_open(simulation.episodes, outages)
    assert excused == [(one.opened, one.closed) for one in simulation.episodes]


def test_the_figures_are_those_of_the_breaker() -> None:
    parameters = inspect.signature(Breaker).parameters
    assert parameters["first_seconds"].default == FIRST
    assert parameters["longest_seconds"].default == LONGEST


def test_after_a_second_of_outage_nothing_is_left_alone_for_as_long_as_15_seconds() -> None:
    assert longest_recovery(1.0, FIRST) < 7
    ((_, until),) = may_be_open([Episode(100)], [(99, 101)])
    assert until == 101 + longest_recovery(1.0, FIRST)


def test_a_breaker_that_stays_open_is_no_excuse_for_ever() -> None:
    ((_, until),) = may_be_open([Episode(100)], [(90, 500)])
    assert 500 < until < 500 + LONGEST + 2 * PROBE + 1


def test_a_breaker_that_opens_by_itself_is_no_excuse() -> None:
    assert may_be_open([Episode(100, 101)], []) == []
    assert may_be_open([Episode(100, 101)], [(10, 90)]) == []


def line(event: str, service: str, moment: float) -> str:
    stamp = datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")
    return json.dumps({"event": event, "service": service, "timestamp": stamp}) + "\n"


def test_the_log_tells_of_each_breaker_when_it_was_open(tmp_path: Path) -> None:
    log = tmp_path / "1.log"
    breakers = BreakerLog(lambda sidecar: [log])
    assert breakers.episodes(A, INDEX) == [[]]
    closed = line("circuit breaker closed", INDEX, 102)
    log.write_text(line("circuit breaker opened", INDEX, 100) + closed[:20])
    assert breakers.episodes(A, INDEX) == [[Episode(100)]]
    with log.open("a") as file:
        file.write(closed[20:] + "no event\n" + line("circuit breaker opened", NEWS, 103))
    assert breakers.episodes(A, INDEX) == [[Episode(100, 102)]]
    assert breakers.episodes(A, NEWS) == [[Episode(103)]]


def test_what_was_open_when_a_process_ended_is_not_open_in_the_next(tmp_path: Path) -> None:
    first, second = logs = [tmp_path / "1.log", tmp_path / "2.log"]
    first.write_text(line("circuit breaker opened", INDEX, 100))
    second.write_text(line("serving", "", 110))
    assert BreakerLog(lambda sidecar: logs).episodes(A, INDEX) == [[Episode(100, 110)], []]


def circumstances(*disturbances: Disturbance, opened: tuple[Episode, ...] = ()) -> Circumstances:
    """With the breaker of the index of A open at these times."""
    return Circumstances(
        Timeline(0, list(disturbances)),
        lambda sidecar, breaker: [list(opened)] if (sidecar, breaker) == (A, INDEX) else [],
    )


def test_redis_is_in_reach_again_at_once_unless_the_breaker_is_open() -> None:
    cut = Disturbance(REDIS, "kill", "", 100, 101)
    left_alone = circumstances(cut, opened=(Episode(100.5, 103),))
    assert not left_alone.redis_reached(A, INDEX, 102, 102.1)
    assert left_alone.redis_reached(A, INDEX, 103.1, 103.2)
    for sidecar, breaker in ((B, INDEX), (A, NEWS)):
        assert not left_alone.redis_reached(sidecar, breaker, 100.9, 101.1)
        assert left_alone.redis_reached(sidecar, breaker, 101.1, 101.2)


@pytest.mark.parametrize(
    ("kind", "breaker", "is_reached"),
    [("latency", INDEX, True), ("latency", NEWS, False), ("cut", INDEX, False)],
)
def test_a_slow_link_excuses_news_but_no_search(kind: str, breaker: str, is_reached: bool) -> None:
    slow = circumstances(Disturbance(link(A, REDIS), kind, "", 100, math.inf))
    assert slow.redis_reached(A, breaker, 105, 106) == is_reached


def test_after_a_connection_was_left_half_open_there_is_time_to_find_out() -> None:
    after = circumstances(Disturbance(link(A, REDIS), "half open", "", 100, 101))
    assert not after.redis_reached(A, INDEX, 105, 105.1)
    assert after.redis_reached(A, INDEX, 106.1, 106.2)
