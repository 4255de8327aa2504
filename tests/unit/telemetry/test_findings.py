"""What is told to be wrong with a sidecar, by what it counted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from embercache import (
    DiskState,
    ForgedStats,
    GeneratorStats,
    ModelStats,
    QuotaStats,
    Stats,
    Tier,
    TierStats,
    UsageStats,
    WarmState,
)

from sidecar.telemetry.findings import failing_calls, findings, left_alone

if TYPE_CHECKING:
    from collections.abc import Callable

TIERS: tuple[Tier, ...] = ("hot", "disk", "warm", "computed", "coalesced")
WARM = WarmState("up", 0, 0, 0, 50, 100, 0.5)
MODEL = ModelStats("minilm", "v1", 0, 0, 0, 0, 0, 0, 0)
GENERATOR = GeneratorStats("smollm", "v1", 0, 0, 0, 0, 0, 0, 0.0, 0, 0.0, None)
WELL = Stats(
    version="1",
    uptime_seconds=100.0,
    response_hits=0,
    items_failed=0,
    tiers={name: TierStats(1000, 0, 0, 0, 0, 0, 0) for name in TIERS},
    disk=DiskState(0, 0, 0, 0),
    warm=WARM,
    models=[MODEL],
    usage=[],
    semantic=[],
    generators=[GENERATOR],
    quotas=[],
    forged=[ForgedStats("warm", "entries", "forged", 0)],
)


def use(**given: Any) -> UsageStats:
    values = dict.fromkeys(UsageStats.__slots__, 0)
    return UsageStats(**(values | {"kind": "embed", "namespace": "shop", "model": "m"} | given))


WRONG: dict[str, tuple[str, Callable[[Stats], Stats]]] = {
    "Redis is left alone": (
        "warning",
        lambda s: replace(s, warm=replace(WARM, state="down", invalidations_heard_seconds=9)),
    ),
    "Redis is slow": ("warning", lambda s: replace(s, warm=replace(WARM, errors=5))),
    "Entries are not written to Redis": (
        "warning",
        lambda s: replace(s, warm=replace(WARM, writes_dropped=1)),
    ),
    "Redis is nearly full": ("warning", lambda s: replace(s, warm=replace(WARM, memory_bytes=96))),
    "The disk tier fails": ("warning", lambda s: replace(s, disk=DiskState(1, 0, 0, 0))),
    "Values were not sealed by these sidecars": (
        "critical",
        lambda s: replace(s, forged=[ForgedStats("warm", "entries", "forged", 1)]),
    ),
    "Values are corrupt": (
        "warning",
        lambda s: replace(s, tiers={**s.tiers, "warm": TierStats(1000, 0, 0, 0, 0, 1, 0)}),
    ),
    "minilm cannot be used yet": (
        "critical",
        lambda s: replace(s, models=[replace(MODEL, version="")]),
    ),
    "minilm is overloaded": ("critical", lambda s: replace(s, models=[replace(MODEL, shed=1)])),
    "smollm is overloaded": (
        "critical",
        lambda s: replace(s, generators=[replace(GENERATOR, shed=1)]),
    ),
    "minilm is too late": (
        "warning",
        lambda s: replace(s, models=[replace(MODEL, shed=1, refused_late=1)]),
    ),
    "minilm has a long queue": (
        "warning",
        lambda s: replace(s, models=[replace(MODEL, queue_seconds=5.1)]),
    ),
    "Inputs fail": ("warning", lambda s: replace(s, items_failed=60)),
    "A namespace has used up its quota": (
        "warning",
        lambda s: replace(s, quotas=[QuotaStats("shop", "computations", 1)]),
    ),
    "The cache costs embed of m more time than it saves": (
        "note",
        lambda s: replace(
            s, usage=[use(answered={"hot": 1, "computed": 99}, break_even_hit_rate=0.02)]
        ),
    ),
}


@pytest.mark.parametrize("title", WRONG)
def test_what_is_wrong_is_told_with_its_level_and_what_to_do(title: str) -> None:
    level, spoil = WRONG[title]
    (found,) = findings(spoil(WELL), WELL)
    assert (found.title, found.level) == (title, level)
    assert found.meaning
    assert found.action


@pytest.mark.parametrize(
    "state",
    [WELL, replace(WELL, warm=replace(WARM, errors=4)), replace(WELL, items_failed=4)],
)
def test_nothing_is_told_of_a_sidecar_that_is_well(state: Stats) -> None:
    assert findings(state, WELL) == []


@pytest.mark.parametrize("title", WRONG)
def test_what_was_counted_more_than_a_minute_ago_is_not_told_but_what_goes_on_is(
    title: str,
) -> None:
    spoilt = WRONG[title][1](WELL)
    lasting = ("left alone", "nearly full", "cannot be used yet", "long queue", "costs")
    told = [found.title for found in findings(spoilt, spoilt)]
    assert told == ([title] if any(words in title for words in lasting) else [])


def test_counters_of_another_life_of_the_sidecar_are_not_compared() -> None:
    restarted = replace(WELL, uptime_seconds=1.0, items_failed=5)
    assert findings(restarted, WELL) == []


def test_the_worst_comes_first() -> None:
    spoilt = WELL
    for title in ("Redis is slow", "minilm is overloaded"):
        spoilt = WRONG[title][1](spoilt)
    assert [found.level for found in findings(spoilt, WELL)] == ["critical", "warning"]


def test_what_is_left_alone_is_named_but_not_redis_of_which_stats_tell() -> None:
    breakers = {"redis": True, "index": True, "verifier": True, "disk reads": False}
    found = [(each.level, each.title) for each in left_alone(breakers)]
    assert found == [
        ("critical", "Index is left alone"),
        ("warning", "Verifier is left alone"),
    ]


@pytest.mark.parametrize(
    ("failed", "calls", "told"),
    [
        ({"UNAVAILABLE": 5}, 100, ["5% of the calls of the last minute failed"]),
        ({"UNAVAILABLE": 5}, 500, []),
        ({"UNAVAILABLE": 4}, 4, []),
        ({"INVALID_ARGUMENT": 100}, 100, []),
        ({}, 0, []),
    ],
)
def test_calls_that_fail_are_told_if_they_are_many_and_not_their_callers_fault(
    failed: dict[str, int], calls: int, told: list[str]
) -> None:
    assert [each.title for each in failing_calls(failed, calls, 0)] == told


@pytest.mark.parametrize(
    ("over_quota", "told"), [(7, ["RESOURCE_EXHAUSTED 5."]), (8, []), (12, []), (20, [])]
)
def test_calls_over_a_quota_are_no_fault_of_the_service(over_quota: int, told: list[str]) -> None:
    failed = {"RESOURCE_EXHAUSTED": 12}
    found = failing_calls(failed, 20, over_quota)
    assert [each.meaning for each in found] == told
