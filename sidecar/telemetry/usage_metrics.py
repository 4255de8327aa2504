"""Metrics of what the cache was worth, by kind of entries, namespace and model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embercache.v1 import cache_pb2, common_pb2
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

_LABELS = ["kind", "namespace", "model"]
_OUTCOMES = ("answered", "refused_by_guard", "refused_by_verifier", "below_threshold")


def usage(stats: cache_pb2.StatsResponse) -> Iterator[Metric]:
    """Metrics of `StatsResponse.usage`."""
    items = CounterMetricFamily(
        "embercache_usage_items", "Items by what answered them.", labels=[*_LABELS, "tier"]
    )
    counters = {
        "failed": CounterMetricFamily(
            "embercache_usage_failed", "Items that ended with an error.", labels=_LABELS
        ),
        "evictions": CounterMetricFamily(
            "embercache_usage_evictions", "Entries pushed out of the hot tier.", labels=_LABELS
        ),
        "tokens_saved": CounterMetricFamily(
            "embercache_usage_tokens_saved",
            "Tokens that no model had to read or generate.",
            labels=_LABELS,
        ),
    }
    gauges = {
        "seconds_saved": GaugeMetricFamily(
            "embercache_usage_seconds_saved",
            "Time saved since start: hits, times what computing takes more on average.",
            labels=_LABELS,
        ),
        "money_saved": GaugeMetricFamily(
            "embercache_usage_money_saved",
            "Money saved since start, at the prices that are set.",
            labels=_LABELS,
        ),
        "hot_entries": GaugeMetricFamily(
            "embercache_usage_hot_entries", "Entries in the hot tier.", labels=_LABELS
        ),
        "hot_bytes": GaugeMetricFamily(
            "embercache_usage_hot_bytes", "Their bytes.", labels=_LABELS
        ),
        "hot_age_seconds": GaugeMetricFamily(
            "embercache_usage_hot_age_seconds", "Their mean age.", labels=_LABELS
        ),
    }
    for each in stats.usage:
        names = [each.kind, each.namespace, each.model]
        for tier in each.answered:
            name = common_pb2.Tier.Name(tier.tier).removeprefix("TIER_").lower()
            items.add_metric([*names, name], tier.count)
        for field, counter in counters.items():
            counter.add_metric(names, getattr(each, field))
        for field, gauge in gauges.items():
            gauge.add_metric(names, getattr(each, field))
    yield items
    yield from counters.values()
    yield from gauges.values()


def quotas(stats: cache_pb2.StatsResponse) -> Iterator[Metric]:
    """Metrics of `StatsResponse.quotas`."""
    family = CounterMetricFamily(
        "embercache_quota_refusals",
        "Calls, or their misses, that were refused because of a quota of their namespace.",
        labels=["namespace", "quota"],
    )
    for each in stats.quotas:
        family.add_metric([each.namespace, each.quota], each.refusals)
    yield family


def semantic(stats: cache_pb2.StatsResponse) -> Iterator[Metric]:
    """Metrics of `StatsResponse.semantic`."""
    family = CounterMetricFamily(
        "embercache_semantic_queries",
        "Queries for which a semantic answer was looked for, by the lower end of the band in which"
        " the similarity of the nearest query fell, and by what came of it.",
        labels=["namespace", "from", "outcome"],
    )
    for each in stats.semantic:
        for band in each.bands:
            for outcome in _OUTCOMES:
                lower = f"{getattr(band, 'from'):g}"
                family.add_metric([each.namespace, lower, outcome], getattr(band, outcome))
    yield family
