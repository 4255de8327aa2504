"""Metrics of generators, and of what they keep of prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embercache.v1 import common_pb2
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from embercache.v1 import cache_pb2
    from prometheus_client.metrics_core import Metric

_COUNTERS = {
    "generated": "Answers generated.",
    "shed": "Generations refused: the queue was full, or they would have begun too late.",
    "refused_late": "Those of them that would have begun after their deadlines.",
    "dropped_late": "Generations whose deadlines passed while they waited.",
    "abandoned": "Generations given up because their callers had gone.",
    "prefill_tokens": "Tokens of prompts read.",
    "prefill_seconds": "Time it took to read them.",
    "decode_tokens": "Tokens generated.",
    "decode_seconds": "Time it took to generate them.",
}
_GAUGES = {"queued": "Generations waiting for a place.", "active": "Generations at work."}
_PREFIX_GAUGES = {
    "blocks": "Blocks of prompts kept in memory.",
    "pinned_blocks": "Those in use.",
    "bytes": "Bytes of blocks and of generations at work.",
    "capacity_bytes": "Most bytes that these may have.",
}
_PREFIX_COUNTERS = {
    "evictions": "Blocks pushed out for want of room.",
    "not_worth_loading": "Prompts whose blocks would have taken longer to load than to compute.",
}


def generators(stats: cache_pb2.StatsResponse) -> Iterator[Metric]:
    """Metrics of `StatsResponse.generators`."""
    families = _families("generator", _COUNTERS, _GAUGES)
    for each in stats.generators:
        _add(families, each.name, each)
    yield from families.values()
    yield from _prefixes(stats)


def _prefixes(stats: cache_pb2.StatsResponse) -> Iterator[Metric]:
    reused = CounterMetricFamily(
        "embercache_prefix_reused_tokens",
        "Tokens of prompts that did not have to be read, by where their blocks came from.",
        labels=["model", "tier"],
    )
    bandwidth = GaugeMetricFamily(
        "embercache_prefix_bytes_per_second",
        "How fast blocks came from a tier of late.",
        labels=["model", "tier"],
    )
    families = _families("prefix", _PREFIX_COUNTERS, _PREFIX_GAUGES)
    for each in stats.generators:
        if not each.HasField("prefix"):
            continue
        for tier in each.prefix.reused_tokens:
            reused.add_metric([each.name, _tier_name(tier.tier)], tier.count)
        for measured in each.prefix.bandwidths:
            names = [each.name, _tier_name(measured.tier)]
            bandwidth.add_metric(names, measured.bytes_per_second)
        _add(families, each.name, each.prefix)
    yield from (reused, bandwidth, *families.values())


def _families(
    subject: str, counters: Mapping[str, str], gauges: Mapping[str, str]
) -> dict[str, CounterMetricFamily | GaugeMetricFamily]:
    """A family for each field of a message, from what the field means."""
    return {
        field: kind(f"embercache_{subject}_{field}", text, labels=["model"])
        for kind, fields in ((CounterMetricFamily, counters), (GaugeMetricFamily, gauges))
        for field, text in fields.items()
    }


def _add(
    families: Mapping[str, CounterMetricFamily | GaugeMetricFamily],
    model: str,
    message: cache_pb2.GeneratorStats | cache_pb2.PrefixStats,
) -> None:
    for field, family in families.items():
        family.add_metric([model], getattr(message, field))


def _tier_name(tier: common_pb2.Tier.ValueType) -> str:
    return common_pb2.Tier.Name(tier).removeprefix("TIER_").lower()
