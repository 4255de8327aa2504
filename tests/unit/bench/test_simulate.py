"""The simulation of fleets: it repeats itself, loses no text, and a sample stands for the whole."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.simulate import fast_hot_tier
from bench.simulate_compare import figures_of
from bench.simulate_fleet import Counts, Sizes, simulate
from bench.simulate_traffic import DAY, HOUR, Scale, Traffic, calls, restarts, scale_for
from sidecar.cache.hot import HotTier

if TYPE_CHECKING:
    from bench.simulate_fleet import Bin

TRAFFIC = Traffic(
    rate=0.1,
    texts=20_000,
    documents=2_000,
    flash_texts=800,
    seconds=2 * DAY,
    version_at=2 * DAY,
)
SIZES = Sizes(
    item_bytes=1635,
    response_bytes=1718,
    redis_bytes=2048,
    hot_max_bytes=2**20,
    model_seconds=0.02,
)
SHORT = replace(TRAFFIC, seconds=DAY / 2, version_at=10 * HOUR, rate=0.05)


def total(bins: list[Bin]) -> Counts:
    return sum((each.queries + each.documents for each in bins), Counts())


def test_the_same_seed_gives_the_same_figures_and_another_one_does_not() -> None:
    one, same, other = (simulate(SHORT, Scale(4, 4), SIZES, HotTier, seed) for seed in (1, 1, 2))

    assert one == same
    assert one != other


@pytest.mark.parametrize(
    "scale",
    [Scale(16, 4, 1, 4), Scale(16, 16, 4), Scale(16, 4, 4, 4)],
    ids=["pods", "texts", "both"],
)
def test_a_sample_says_what_the_whole_fleet_says(scale: Scale, whole: dict[str, float]) -> None:
    sample = figures_of(TRAFFIC, scale, SIZES, fast_hot_tier(), seed=1)

    for tier in ("hot", "Redis", "model"):
        assert sample[tier] == pytest.approx(whole[tier], abs=0.02)
    for rate in ("lookups", "entries"):
        assert sample[rate] == pytest.approx(whole[rate], rel=0.05)


@pytest.fixture(scope="module")
def whole() -> dict[str, float]:
    return figures_of(TRAFFIC, Scale(16, 16), SIZES, fast_hot_tier(), seed=0)


@settings(max_examples=25)
@given(
    pods=st.integers(1, 5),
    texts_per_key=st.integers(1, 20),
    keys_per_group=st.integers(1, 3),
    one_off=st.floats(0, 1),
    documents=st.integers(0, 400),
    hot_max_bytes=st.integers(0, 100_000),
    redis_entries=st.integers(0, 100),
    policy=st.sampled_from(["noeviction", "allkeys-lru", "allkeys-lfu"]),
    model_seconds=st.sampled_from([0.0, 1.0, 3600.0]),
)
def test_each_text_is_answered_by_one_tier(
    pods: int,
    texts_per_key: int,
    keys_per_group: int,
    one_off: float,
    documents: int,
    hot_max_bytes: int,
    redis_entries: int,
    policy: str,
    model_seconds: float,
) -> None:
    traffic = replace(SHORT, rate=0.01, one_off=one_off, documents=documents, texts=300)
    scale = Scale(pods * keys_per_group, pods, texts_per_key, keys_per_group)
    sizes = replace(
        SIZES,
        hot_max_bytes=hot_max_bytes,
        redis_max_bytes=redis_entries * 2048 * scale.weight,
        redis_policy=policy,
        model_seconds=model_seconds,
    )

    bins = simulate(traffic, scale, sizes, fast_hot_tier())

    for each in bins:
        for counts in (each.queries, each.documents):
            answered = counts.hot + counts.coalesced + counts.warm + counts.model
            assert answered == pytest.approx(counts.asked)
            assert counts.lookups == pytest.approx(counts.asked - counts.hot - counts.coalesced)
        if redis_entries:
            assert each.entries <= redis_entries * scale.weight * 1.001
    asked = sum(len(each.times) for each in calls(traffic, scale, seed=0))
    assert total(bins).asked == pytest.approx(asked * scale.weight)
    assert bins[-1].entries <= total(bins).model * 1.001


def test_what_no_pod_holds_any_more_is_in_redis_and_after_a_new_version_nowhere() -> None:
    """Two texts, asked for again and again: only versions and pods' memories bring misses."""
    traffic = replace(SHORT, texts=2, one_off=0.0, documents=0, flash_texts=0, churn_days=1e9)

    def computed(version_at: float) -> float:
        return total(
            simulate(replace(traffic, version_at=version_at), Scale(3, 3), SIZES, HotTier)
        ).model

    assert computed(version_at=DAY) == 2
    assert computed(version_at=10 * HOUR) == 4


def test_a_text_wanted_while_it_is_computed_is_computed_once_in_a_pod_and_once_in_each_pod() -> (
    None
):
    traffic = replace(SHORT, texts=1, one_off=0.0, documents=0, flash_texts=0, churn_days=1e9)
    slow = replace(SIZES, model_seconds=DAY)

    bins = simulate(replace(traffic, version_at=DAY), Scale(3, 3), slow, HotTier)
    before = total(bins[: int(9 * HOUR / 300)])

    assert before.model == 3
    assert before.coalesced == before.asked - 3


def test_traffic_is_as_much_as_was_asked_for_and_in_order() -> None:
    traffic = replace(TRAFFIC, flash_texts=0, rate=1.0)
    for scale in (Scale(5, 5), Scale(50, 5, 3, 10)):
        each = list(calls(traffic, scale, seed=0))
        times = np.concatenate([part.times for part in each])
        queries = sum(len(part.times) - part.documents.sum() for part in each)

        assert (np.diff(times) >= 0).all()
        assert queries * scale.weight == pytest.approx(scale.fleet * traffic.seconds, rel=0.01)
        assert sum(part.documents.sum() for part in each) == 2 * round(2_000 / scale.weight)


def test_all_pods_restart_once_a_day_and_once_for_a_new_version() -> None:
    traffic = replace(TRAFFIC, version_at=DAY + 15 * HOUR)

    found = restarts(traffic, Scale(3, 3))

    assert [each.pod for each in found] == [0, 1, 2] * 3
    assert [each.new_version for each in found] == [False] * 6 + [True] * 3
    assert [each.time for each in found] == sorted(each.time for each in found)


def test_a_scale_has_about_so_many_requests_and_stands_for_the_fleet() -> None:
    traffic = Traffic()
    for fleet in (1, 7, 100, 997, 10_000):
        scale = scale_for(fleet, traffic, requests=1e6)
        requests = scale.pods / scale.texts_per_key * traffic.rate * traffic.seconds

        assert requests <= 1e6
        assert requests > 0.6e6
        assert scale.weight == pytest.approx(fleet * traffic.rate * traffic.seconds / requests)
        assert scale.pods <= 100
