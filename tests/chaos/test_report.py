"""A run that was held to too little does not pass, though nothing was wrong."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.chaos.parts import REDIS, SIDECARS
from tests.chaos.record import LEAST_HELD, LEAST_HELD_OF_A_KIND, MANY, WRONG, Record
from tests.chaos.report import LEAST_TIME, Report
from tests.chaos.timeline import INDEX, NEWS, Circumstances, Disturbance, Timeline

A, B = SIDECARS


def report(
    calls: dict[str, float] | None = None,
    held: dict[str, float] | None = None,
    *,
    drained: int = 0,
    reached: dict[str, float] | None = None,
    faults: tuple[tuple[str, str], ...] = (),
) -> Report:
    """Of a run with these figures; a good one if none are given."""
    record = Record(drained=drained)
    record.calls.update(calls or {"embed": 1000})
    record.held.update(held or {"embed": 1000})
    return Report(1, 40, record, Timeline(0), Counter(faults), reached or {})


def test_a_run_passes_in_which_all_was_held_and_nothing_wrong() -> None:
    assert report().passed
    wrong = report()
    wrong.record.violated(WRONG, "a vector", 0, 1)
    assert not wrong.passed


@pytest.mark.parametrize(
    ("calls", "held", "passes"),
    [
        ({"embed": 1000}, {"embed": 1000 * LEAST_HELD}, True),
        ({"embed": 1000}, {"embed": 1000 * LEAST_HELD - 1}, False),
        ({"embed": 1000, "delete": 2}, {"embed": 1000}, False),
        ({"embed": 1000, "delete": 2}, {"embed": 1000, "delete": 1}, True),
        (
            {"embed": 1000, "search": MANY},
            {"embed": 1000, "search": LEAST_HELD_OF_A_KIND * MANY - 1},
            False,
        ),
    ],
)
def test_of_all_calls_most_must_be_held_and_of_each_kind_some(
    calls: dict[str, float], held: dict[str, float], passes: bool
) -> None:
    assert report(calls, held).passed == passes


def test_a_run_without_calls_does_not_pass() -> None:
    empty = report()
    empty.record.calls.clear()
    assert not empty.passed


def test_each_sidecar_must_be_held_to_each_need_for_some_of_the_time() -> None:
    assert report(reached={"a": LEAST_TIME, "b": 1.0}).passed
    assert not report(reached={"a": LEAST_TIME - 0.01, "b": 1.0}).passed


def test_where_sidecars_were_asked_to_end_a_call_must_have_been_under_way() -> None:
    assert not report(faults=((A, "restart"), (B, "restart"))).passed
    assert report(faults=((A, "restart"), (B, "restart")), drained=1).passed
    assert report(faults=((A, "restart"), (B, "kill"), ("encoder-1", "restart"))).passed


def test_the_shares_of_time_are_those_in_which_nothing_excuses() -> None:
    timeline = Timeline(100)
    for part, start, end in ((REDIS, 100, 104), (A, 107, 109)):
        timeline.disturbances.append(Disturbance(part, "kill", "", start, end))
    shares = Circumstances(timeline).shares_of_time(100, 110)
    expected = {f"{each}, {need}": 0.6 for each in SIDECARS for need in (INDEX, NEWS)}
    expected |= {f"{each}, encoder": 1.0 for each in SIDECARS}
    expected |= {f"{A}, itself": 0.8, f"{B}, itself": 1.0}
    assert shares == pytest.approx(expected, abs=0.02)
