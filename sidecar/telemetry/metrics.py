"""Prometheus metrics. Counters are kept where things happen, as plain numbers, and read here."""

from __future__ import annotations

import time
from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

from embercache.v1 import cache_pb2, common_pb2
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from sidecar.cache.breaker import open_breakers
from sidecar.telemetry import generator_metrics, usage_metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric

BUCKETS = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""The bounds of durations, from a hot hit to a long batch on a CPU, in seconds."""


class Durations:
    """A histogram of durations. A library's own does more than the hot path can afford.

    ``exemplars`` has, for each bucket, the last call that was traced.
    """

    __slots__ = ("counts", "exemplars", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.exemplars: list[Exemplar | None] = [None] * len(self.counts)
        self.seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Counts one duration."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds

    def add(self, counts: Iterable[int], seconds: float) -> None:
        """Counts durations that were taken elsewhere, one number for each bucket, and their sum."""
        self.counts = [mine + more for mine, more in zip(self.counts, counts, strict=True)]
        self.seconds += seconds

    def observe_traced(self, seconds: float, trace_id: str) -> None:
        """Counts the duration of a call whose trace has this id, empty if there is none."""
        self.observe(seconds)
        if trace_id:
            exemplar = Exemplar({"trace_id": trace_id}, seconds, time.time())
            self.exemplars[bisect_left(BUCKETS, seconds)] = exemplar


class CallMetrics(Collector):
    """Durations and statuses of calls, by method."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._durations: dict[str, Durations] = {}
        registry.register(self)
        self._failures = Counter(
            "embercache_calls_failed",
            "Calls that ended with a status other than OK.",
            ["method", "code"],
            registry=registry,
        )

    def duration(self, method: str) -> Durations:
        """What takes the durations of a method's calls."""
        return self._durations.setdefault(method, Durations())

    def failed(self, method: str, code: str) -> None:
        """Counts a call that ended with an error."""
        self._failures.labels(method, code).inc()

    def durations(self) -> Mapping[str, Durations]:
        """Those of each method since start-up."""
        return self._durations

    def failures(self) -> dict[tuple[str, str], int]:
        """How many calls of each method ended with each status other than OK since start-up."""
        (family,) = self._failures.collect()
        return {
            (sample.labels["method"], sample.labels["code"]): int(sample.value)
            for sample in family.samples
            if sample.name.endswith("_total")
        }

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        family = HistogramMetricFamily(
            "embercache_call_seconds",
            "Time inside the sidecar of calls that ended well; of streams, of the whole stream.",
            labels=["method"],
        )
        bounds = [*map(str, BUCKETS), "+Inf"]
        for method, durations in self._durations.items():
            counts = accumulate(durations.counts)
            buckets = [
                (bound, count) if exemplar is None else (bound, count, exemplar)
                for bound, count, exemplar in zip(bounds, counts, durations.exemplars, strict=True)
            ]
            family.add_metric([method], buckets, durations.seconds)
        yield family


class StatsCollector(Collector):
    """The answer of CacheService.Stats as metrics, and the states of breakers.

    ``read`` gives the answer, from counters that change meanwhile unless it is called on the thread
    of the event loop. The rest takes much longer and can be done on another thread: `take` there,
    and `collect` here.
    """

    def __init__(self, read: Callable[[], cache_pb2.StatsResponse]) -> None:
        self._read = read
        self._taken: tuple[cache_pb2.StatsResponse, dict[str, bool]] | None = None

    def take(self) -> None:
        """Reads what the next `collect` shows."""
        self._taken = self._read(), open_breakers()

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        stats, breakers = self._taken or (self._read(), open_breakers())
        self._taken = None
        yield from _breakers(breakers)
        yield from _cache(stats)
        if stats.HasField("disk"):
            yield from _disk(stats.disk)
        yield from _warm(stats.warm)
        yield _forged(stats)
        yield from _models(stats)
        yield from usage_metrics.usage(stats)
        yield from usage_metrics.semantic(stats)
        yield from usage_metrics.quotas(stats)
        yield from generator_metrics.generators(stats)


def _cache(stats: cache_pb2.StatsResponse) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "embercache_uptime_seconds", "Time since the sidecar started.", stats.uptime_seconds
    )
    yield CounterMetricFamily(
        "embercache_response_hits",
        "Calls answered whole from memory, without looking at their items.",
        stats.response_hits,
    )
    yield CounterMetricFamily(
        "embercache_items_failed", "Items that ended with an error.", stats.items_failed
    )
    answered = CounterMetricFamily(
        "embercache_items_answered", "Items by the tier that answered.", labels=["tier"]
    )
    corrupt = CounterMetricFamily(
        "embercache_corrupt_values", "Values refused as corrupt, by tier.", labels=["tier"]
    )
    evictions = CounterMetricFamily(
        "embercache_evictions", "Entries pushed out for want of room, by tier.", labels=["tier"]
    )
    expirations = CounterMetricFamily(
        "embercache_expirations",
        "Entries met after their lifetime had ended, by tier.",
        labels=["tier"],
    )
    entries = GaugeMetricFamily("embercache_entries", "Entries held, by tier.", labels=["tier"])
    held = GaugeMetricFamily("embercache_bytes", "Bytes held, by tier.", labels=["tier"])
    capacity = GaugeMetricFamily(
        "embercache_capacity_bytes", "Most bytes that a tier may hold.", labels=["tier"]
    )
    for tier in stats.tiers:
        name = [common_pb2.Tier.Name(tier.tier).removeprefix("TIER_").lower()]
        answered.add_metric(name, tier.answered)
        if tier.tier in (common_pb2.TIER_DISK, common_pb2.TIER_WARM):
            corrupt.add_metric(name, tier.corrupt)
        if tier.tier == common_pb2.TIER_HOT:
            expirations.add_metric(name, tier.expirations)
        if tier.tier in (common_pb2.TIER_HOT, common_pb2.TIER_DISK):
            evictions.add_metric(name, tier.evictions)
            entries.add_metric(name, tier.entries)
            held.add_metric(name, tier.bytes)
            capacity.add_metric(name, tier.capacity_bytes)
    yield from (answered, corrupt, evictions, expirations, entries, held, capacity)


def _breakers(breakers: dict[str, bool]) -> Iterator[Metric]:
    family = GaugeMetricFamily(
        "embercache_breaker_open",
        "Whether something that calls depend on is left alone because it failed of late.",
        labels=["upstream"],
    )
    for name, is_open in sorted(breakers.items()):
        family.add_metric([name], int(is_open))
    yield family


def _disk(disk: cache_pb2.DiskState) -> Iterator[Metric]:
    yield CounterMetricFamily(
        "embercache_disk_errors", "Lookups on disk that failed or took too long.", disk.errors
    )
    yield CounterMetricFamily(
        "embercache_disk_skipped", "Lookups not made because the disk had failed.", disk.skipped
    )
    yield CounterMetricFamily(
        "embercache_disk_writes_dropped",
        "Entries not written to disk because it failed or the queue was full.",
        disk.writes_dropped,
    )
    yield CounterMetricFamily(
        "embercache_disk_corrupt_files",
        "Times that the file on disk was corrupt and replaced by an empty one.",
        disk.corrupt_files,
    )


def _warm(warm: cache_pb2.WarmState) -> Iterator[Metric]:
    if warm.state == cache_pb2.WarmState.STATE_OFF:
        return
    yield GaugeMetricFamily(
        "embercache_redis_up",
        "Whether Redis is in use: 0 while it is left alone after failures.",
        int(warm.state == cache_pb2.WarmState.STATE_UP),
    )
    yield CounterMetricFamily(
        "embercache_redis_errors", "Lookups in Redis that failed or came too late.", warm.errors
    )
    yield CounterMetricFamily(
        "embercache_redis_skipped", "Lookups not sent because Redis was down.", warm.skipped
    )
    yield CounterMetricFamily(
        "embercache_redis_writes_dropped",
        "Entries not written to Redis because it was down or the queue was full.",
        warm.writes_dropped,
    )
    yield GaugeMetricFamily(
        "embercache_redis_memory_bytes", "Memory that Redis uses.", warm.memory_bytes
    )
    yield GaugeMetricFamily(
        "embercache_redis_memory_limit_bytes",
        "Memory that Redis may use; 0 for no limit.",
        warm.memory_limit_bytes,
    )
    yield GaugeMetricFamily(
        "embercache_invalidations_heard_seconds",
        "Time since invalidations were last heard of; above a few seconds, Redis is not reached.",
        warm.invalidations_heard_seconds,
    )


def _forged(stats: cache_pb2.StatsResponse) -> Metric:
    family = CounterMetricFamily(
        "embercache_forged_values",
        "Values on disk or in Redis that were not taken, because no sidecar had sealed them, with a"
        " key that is known here, for where they were: by tier, what they were, and why.",
        labels=["tier", "what", "reason"],
    )
    for each in stats.forged:
        tier = common_pb2.Tier.Name(each.tier).removeprefix("TIER_").lower()
        family.add_metric([tier, each.what, each.reason], each.count)
    return family


def _models(stats: cache_pb2.StatsResponse) -> Iterator[Metric]:
    counters = {
        "computed": CounterMetricFamily(
            "embercache_model_inputs", "Inputs that a model computed.", labels=["model"]
        ),
        "batches": CounterMetricFamily(
            "embercache_model_batches", "Runs of a model, a batch each.", labels=["model"]
        ),
        "tokens": CounterMetricFamily(
            "embercache_model_tokens", "Tokens that a model read.", labels=["model"]
        ),
        "padding_tokens": CounterMetricFamily(
            "embercache_model_padding_tokens", "Tokens of padding.", labels=["model"]
        ),
        "shed": CounterMetricFamily(
            "embercache_model_shed",
            "Inputs refused: the queue was full, or they would have been done too late.",
            labels=["model"],
        ),
        "refused_late": CounterMetricFamily(
            "embercache_model_refused_late",
            "Those of them that would have been done after their deadlines.",
            labels=["model"],
        ),
        "dropped_late": CounterMetricFamily(
            "embercache_model_dropped_late",
            "Inputs whose deadlines passed while they waited.",
            labels=["model"],
        ),
        "abandoned": CounterMetricFamily(
            "embercache_model_abandoned", "Inputs whose callers had all gone.", labels=["model"]
        ),
    }
    queued = GaugeMetricFamily(
        "embercache_model_queued", "Inputs waiting for a model.", labels=["model"]
    )
    seconds = GaugeMetricFamily(
        "embercache_model_queue_seconds",
        "How long the model will take for them, as far as is known.",
        labels=["model"],
    )
    for model in stats.models:
        for field, family in counters.items():
            family.add_metric([model.name], getattr(model, field))
        queued.add_metric([model.name], model.queued)
        seconds.add_metric([model.name], model.queue_seconds)
    yield from counters.values()
    yield from (queued, seconds)
