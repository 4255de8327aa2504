"""What is kept of a sidecar's last quarter of an hour."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from embercache import ModelStats, Stats, TierStats, WarmState
from hypothesis import given
from hypothesis import strategies as st

from sidecar.telemetry.history import MAX_STEPS, History, Look, quantile_ms
from sidecar.telemetry.metrics import BUCKETS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embercache import Tier

TIERS: tuple[Tier, ...] = ("hot", "disk", "warm", "computed", "coalesced")


class Sidecar:
    """Counters that a test moves, and a clock."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.answered = dict.fromkeys(TIERS, 0)
        self.durations: dict[str, list[int]] = {}
        self.failures: dict[tuple[str, str], int] = {}
        self.failed = self.queued = self.invalidations = 0

    def look(self) -> Look:
        tiers = {name: TierStats(count, 0, 0, 0, 0, 0, 0) for name, count in self.answered.items()}
        model = ModelStats("minilm", "v1", 0, 0, 0, 0, self.queued, 0, 0)
        stats = Stats(
            version="1",
            uptime_seconds=self.seconds,
            response_hits=0,
            items_failed=self.failed,
            tiers=tiers,
            disk=None,
            warm=WarmState("up", 0, 0, 0, 0, 0, 0.0),
            models=[model],
            usage=[],
            semantic=[],
            generators=[],
            quotas=[],
            forged=[],
        )
        durations = {name: tuple(counts) for name, counts in self.durations.items()}
        return Look(stats, durations, dict(self.failures), self.invalidations, {})

    def call(self, method: str, seconds: float) -> None:
        counts = self.durations.setdefault(method, [0] * (len(BUCKETS) + 1))
        counts[next((i for i, bound in enumerate(BUCKETS) if seconds <= bound), -1)] += 1


@pytest.fixture
def sidecar() -> Sidecar:
    return Sidecar()


@pytest.fixture
def history(sidecar: Sidecar) -> History:
    return History(sidecar.look, lambda: sidecar.seconds, lambda: 1000.0 + sidecar.seconds)


def step(sidecar: Sidecar, history: History) -> None:
    sidecar.seconds += 2
    history.take()


def test_a_step_has_what_came_between_two_looks(sidecar: Sidecar, history: History) -> None:
    sidecar.answered["hot"] = 5
    step(sidecar, history)
    sidecar.answered |= {"hot": 8, "computed": 2}
    sidecar.failed, sidecar.queued, sidecar.invalidations = 1, 4, 3
    sidecar.call("Embed", 0.004)
    sidecar.failures["Embed", "UNAVAILABLE"] = 2
    step(sidecar, history)
    first, second = history.steps
    assert (first.hot, first.computed, first.calls, first.p50_ms) == (5, 0, 0, None)
    assert (second.hot, second.computed, second.failed, second.queued) == (3, 2, 1, 4)
    assert (second.calls, second.calls_failed, second.invalidations, second.redis) == (3, 2, 3, 1)
    assert (second.number, second.at, second.seconds) == (2, 1_004_000, 2)
    assert second.p50_ms is not None
    assert 2.5 <= second.p50_ms <= 5


def test_durations_of_streams_are_not_among_those_of_calls(
    sidecar: Sidecar, history: History
) -> None:
    sidecar.call("GenerateStream", 20)
    sidecar.call("Embed", 0.00004)
    step(sidecar, history)
    (only,) = history.steps
    assert only.calls == 2
    assert only.p99_ms is not None
    assert only.p99_ms <= 0.05
    assert history.latency_ms() == (only.p50_ms, only.p99_ms)


def test_only_the_last_quarter_of_an_hour_is_kept(sidecar: Sidecar, history: History) -> None:
    for _ in range(MAX_STEPS + 5):
        step(sidecar, history)
    assert [history.steps[0].number, len(history.steps)] == [6, MAX_STEPS]
    assert history.minute_ago.stats.uptime_seconds == sidecar.seconds - 60


@pytest.mark.parametrize(("after", "numbers"), [(0, [4, 5]), (4, [5]), (5, []), (9, [])])
def test_who_has_some_steps_gets_those_after_them(
    after: int, numbers: Sequence[int], sidecar: Sidecar, history: History
) -> None:
    for _ in range(5):
        step(sidecar, history)
    for _ in range(3):
        history.steps.popleft()
    assert [each.number for each in history.since(after)] == numbers


def test_methods_are_those_called_in_the_last_minute(sidecar: Sidecar, history: History) -> None:
    sidecar.call("Search", 0.01)
    sidecar.failures["Embed", "UNAVAILABLE"] = 7
    for _ in range(31):
        step(sidecar, history)
    sidecar.call("Embed", 0.01)
    sidecar.call("Embed", 0.01)
    sidecar.failures["Embed", "UNAVAILABLE"] = 8
    sidecar.failures["Upsert", "INTERNAL"] = 1
    step(sidecar, history)
    assert [(each.method, each.calls, each.failed) for each in history.methods()] == [
        ("Embed", 3, {"UNAVAILABLE": 1}),
        ("Upsert", 1, {"INTERNAL": 1}),
    ]


@given(st.lists(st.floats(1e-6, 100), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_quantile_is_in_the_bucket_of_the_call_that_it_is_of(
    durations: list[float], share: float
) -> None:
    sidecar = Sidecar()
    for seconds in durations:
        sidecar.call("Embed", seconds)
    found = quantile_ms(sidecar.durations["Embed"], share)
    assert found is not None
    exact = sorted(durations)[min(len(durations) - 1, int(share * len(durations) - 1e-9))]
    bounds = (0.0, *BUCKETS)
    below = max(bound for bound in bounds if bound < exact)
    above = min((bound for bound in bounds if bound >= exact), default=BUCKETS[-1])
    slack = 1 + 1e-9
    assert min(below, above) * 1000 <= found * slack
    assert found <= above * 1000 * slack


def test_there_is_no_quantile_of_nothing() -> None:
    assert quantile_ms([0] * (len(BUCKETS) + 1), 0.5) is None


def test_what_is_kept_is_small(sidecar: Sidecar, history: History) -> None:
    for _ in range(MAX_STEPS):
        sidecar.answered["hot"] += 10**9
        step(sidecar, history)
    size = sum(sys.getsizeof(row) + sum(map(sys.getsizeof, row)) for row in history.steps)
    assert size < 2**19
