"""What `embercache stats` shows of which counters."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from embercache import (
    ForgedStats,
    GeneratorStats,
    ModelStats,
    PrefixStats,
    QuotaStats,
    SemanticBand,
    SemanticStats,
    Stats,
    Tier,
    TierStats,
    UsageStats,
    WarmState,
)
from rich.console import Console, Group

from sidecar.cli.stats_tables import hit_rate, page


def stats(uptime: float = 10, **answered: int) -> Stats:
    names: tuple[Tier, ...] = ("hot", "disk", "warm", "computed", "coalesced")
    return Stats(
        version="1.0",
        uptime_seconds=uptime,
        response_hits=0,
        items_failed=0,
        tiers={name: TierStats(answered.get(name, 0), 0, 0, 0, 0, 0, 0) for name in names},
        disk=None,
        warm=WarmState("up", 0, 0, 0, 0, 0, 0.0),
        models=[],
        usage=[],
        semantic=[],
        generators=[],
        quotas=[],
        forged=[],
    )


def usage(**given: Any) -> UsageStats:
    values: dict[str, Any] = {
        "kind": "embed",
        "namespace": "shop",
        "model": "minilm",
        "answered": {"hot": 6, "disk": 1, "warm": 1, "computed": 2},
        "failed": 0,
        "hot_entries": 1200,
        "hot_bytes": 2_500_000,
        "hot_age_seconds": 90.0,
        "evictions": 0,
        "tokens_saved": 0,
        "compute_ms": 20.0,
        "seconds_saved": 7200.0,
        "money_saved": 1.5,
        "hit_ms": 0.5,
        "break_even_hit_rate": 0.025,
    }
    return UsageStats(**(values | given))


def shown(*arguments: Any) -> list[str]:
    console = Console(file=io.StringIO(), width=120)
    console.print(Group(*page(*arguments)))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def row(lines: list[str], first: str) -> list[str]:
    return next(line.split() for line in lines if line.startswith(first))


def test_the_hit_rate_is_the_share_of_what_tiers_answered() -> None:
    assert hit_rate(stats(hot=6, disk=1, warm=1, computed=1, coalesced=1)) == 0.8
    assert hit_rate(stats()) is None


def test_what_the_cache_was_worth_is_a_row_for_each_kind_namespace_and_model() -> None:
    lines = shown(replace(stats(), usage=[usage(), usage(kind="search", namespace="blog")]), "a:1")
    assert row(lines, "embed") == [
        *("embed", "shop", "minilm", "80.0%", "6", "1", "1", "2", "1,200", "2.5", "MB"),
        *("1.5", "min", "2.0", "h", "1.50", "2.5%"),
    ]
    assert row(lines, "search")[1] == "blog"


def test_what_is_not_known_is_a_dash() -> None:
    nothing = usage(
        answered={},
        hot_entries=0,
        hot_bytes=0,
        hot_age_seconds=0.0,
        seconds_saved=0.0,
        money_saved=0.0,
        break_even_hit_rate=0.0,
    )
    lines = shown(replace(stats(), usage=[nothing]), "a:1")
    assert row(lines, "embed") == ["embed", "shop", "minilm", *["-"] * 11]


def test_only_the_busiest_are_shown_and_where_the_others_are() -> None:
    many = [usage(namespace=f"n{i}", answered={"hot": i}) for i in range(30)]
    lines = shown(replace(stats(), usage=many), "a:1")
    namespaces = [line.split()[1] for line in lines if line.startswith("embed")]
    assert namespaces == [f"n{i}" for i in range(29, 9, -1)]
    assert lines[-1] == "and 10 more: embercache stats --json"


def test_names_are_shown_as_they_are() -> None:
    lines = shown(replace(stats(), usage=[usage(namespace="[red]", model="[bold]")]), "a:1")
    assert row(lines, "embed")[1:3] == ["[red]", "[bold]"]


def test_without_usage_or_semantic_answers_their_tables_are_left_out() -> None:
    text = "\n".join(shown(stats(), "a:1"))
    assert "namespace" not in text
    assert "similarity" not in text


def test_the_table_of_models_is_left_out_for_who_is_not_told_of_them() -> None:
    assert "padding" not in "\n".join(shown(stats(), "a:1"))
    model = ModelStats("tiny", "v1", 7, 1, 70, 0, 0, 0, 0)
    assert row(shown(replace(stats(), models=[model]), "a:1"), "tiny")[1] == "7"


def test_semantic_answers_are_shown_by_similarity() -> None:
    bands = [
        SemanticBand(-1.0, 0.7, 1, 0, 0, 0, 1),
        SemanticBand(0.9, 0.925, 0, 0, 0, 0, 0),
        SemanticBand(0.925, 0.95, 9, 5, 1, 2, 0),
        SemanticBand(0.995, 1.0, 1200, 1200, 0, 0, 0),
    ]
    lines = shown(replace(stats(), semantic=[SemanticStats("shop", bands)]), "a:1")
    # Those with lookups.
    assert [line.split() for line in lines if line.startswith("shop")] == [
        ["shop", "below", "0.7", "1", "-", "-", "-", "1"],
        ["shop", "0.925", "to", "0.95", "9", "5", "1", "2", "-"],
        ["shop", "0.995", "to", "1", "1,200", "1,200", "-", "-", "-"],
    ]


def test_what_quotas_refused_is_shown_the_most_first() -> None:
    quotas = [
        QuotaStats("[shop]", "computations", 3),
        QuotaStats("blog", "items_per_second", 1200),
    ]
    lines = shown(replace(stats(), quotas=quotas), "a:1")
    assert [line.split() for line in lines[-2:]] == [
        ["blog", "items_per_second", "1,200"],
        ["[shop]", "computations", "3"],
    ]
    assert "quota" not in "\n".join(shown(stats(), "a:1"))


def test_values_that_no_sidecar_sealed_are_shown_if_there_were_any() -> None:
    forged = [
        ForgedStats("disk", "entries", "unsealed", 0),
        ForgedStats("warm", "entries", "unknown_key", 1200),
    ]
    lines = shown(replace(stats(), forged=forged), "a:1")
    assert [line.split() for line in lines[-2:]] == [
        ["not", "sealed", "here", "tier", "reason", "values"],
        ["entries", "warm", "unknown_key", "1,200"],
    ]
    assert "sealed" not in "\n".join(shown(replace(stats(), forged=forged[:1]), "a:1"))


PREFIX = PrefixStats(
    reused_tokens={"hot": 5000, "warm": 1000},
    blocks=300,
    pinned_blocks=4,
    bytes=21_000_000,
    capacity_bytes=512_000_000,
    evictions=2,
    bandwidths={"warm": 2e8},
    not_worth_loading=1,
)


def generator(**given: Any) -> GeneratorStats:
    values: dict[str, Any] = {
        "name": "smollm2",
        "version": "v1",
        "generated": 70,
        "shed": 1,
        "abandoned": 2,
        "queued": 3,
        "active": 4,
        "prefill_tokens": 2000,
        "prefill_seconds": 4.0,
        "decode_tokens": 400,
        "decode_seconds": 10.0,
        "prefix": PREFIX,
        "dropped_late": 5,
    }
    return GeneratorStats(**(values | given))


def test_generators_are_shown_with_their_speed_and_what_they_keep_of_prompts() -> None:
    lines = shown(replace(stats(), generators=[generator()]), "a:1")
    speed, kept = (line.split() for line in lines if line.startswith("smollm2"))
    assert speed == ["smollm2", "70", "4", "3", "1", "5", "2", "500.0", "40.0", "v1"]
    assert kept == [
        *("smollm2", "75.0%", "5,000", "-", "1,000", "21.0", "MB", "512.0", "MB"),
        *("300", "4", "2"),
    ]


def test_the_speed_of_a_generator_is_that_since_the_last_look() -> None:
    more = {"prefill_tokens": 3000, "prefill_seconds": 5.0, "generated": 71}
    before = replace(stats(10), generators=[generator()])
    now = replace(stats(14), generators=[generator(**more), generator(name="new")])
    lines = shown(now, "a:1", before)
    # It generated nothing in the meantime; the other was not there before.
    assert row(lines, "smollm2")[7:9] == ["1,000.0", "-"]
    assert row(lines, "new")[7:9] == ["500.0", "40.0"]
    begun_anew = shown(replace(stats(1), generators=[generator(**more)]), "a:1", before)
    assert row(begun_anew, "smollm2")[7:9] == ["600.0", "40.0"]


def test_a_generator_that_runs_elsewhere_keeps_nothing_here() -> None:
    lines = shown(replace(stats(), generators=[generator(prefix=None)]), "a:1")
    assert sum(line.startswith("smollm2") for line in lines) == 1
    assert "prompts of" not in "\n".join(lines)
    assert "generator" not in "\n".join(shown(stats(), "a:1"))


@pytest.mark.parametrize(
    ("warm", "line"),
    [
        (WarmState("off", 0, 0, 0, 0, 0, 0.0), "Redis: none (set EMBERCACHE_REDIS_URL where"),
        (WarmState("up", 1, 2, 3, 0, 0, 0.0), "Redis: up; 1 errors, 2 lookups skipped, 3 writes"),
        (WarmState("up", 0, 0, 0, 1_500_000, 0, 0.0), "; memory 1.5 MB of no limit"),
        (WarmState("up", 0, 0, 0, 1_500_000, 10**9, 0.0), "; memory 1.5 MB of 1.0 GB"),
        (WarmState("down", 0, 0, 0, 0, 0, 75.2), "; invalidations last heard of 0:01:15 ago"),
    ],
)
def test_the_state_of_redis_is_told(warm: WarmState, line: str) -> None:
    assert line in "\n".join(shown(replace(stats(), warm=warm), "a:1"))


def test_rates_are_of_what_came_since_the_last_look() -> None:
    before, now = stats(10, hot=100, computed=50), stats(14, hot=130, computed=60)
    lines = shown(now, "a:1", before)
    assert "in the last 4.0 s: hit rate 75.0% of 40 inputs, 10.0 a second" in lines
    assert row(lines, "hot")[:4] == ["hot", "130", "68.4%", "7.5"]
    assert row(lines, "disk")[:4] == ["disk", "0", "0.0%", "-"]


def test_there_are_no_rates_at_first_nor_after_the_sidecar_began_anew() -> None:
    for lines in (shown(stats(hot=1), "a:1"), shown(stats(1, hot=1), "a:1", stats(10, hot=5))):
        assert "a second" not in "\n".join(lines)
