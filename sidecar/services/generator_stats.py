"""The statistics of a generator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embercache.v1 import cache_pb2

from sidecar.cache.items import Tier
from sidecar.services.generate_wire import tier_count
from sidecar.services.wire import TIER_NUMBER

if TYPE_CHECKING:
    from sidecar.models.generation import Generator, PrefixReport


def generator_stats(generator: Generator) -> cache_pb2.GeneratorStats:
    """Every counter of a generator."""
    info, counters, report = generator.info, generator.counters, generator.prefix_report()
    return cache_pb2.GeneratorStats(
        name=info.name,
        version=info.version,
        generated=counters.generated,
        shed=counters.shed,
        refused_late=counters.refused_late,
        dropped_late=counters.dropped_late,
        abandoned=counters.abandoned,
        queued=generator.queued,
        active=generator.active,
        prefill_tokens=counters.prefill_tokens,
        prefill_seconds=counters.prefill_seconds,
        decode_tokens=counters.decode_tokens,
        decode_seconds=counters.decode_seconds,
        prefix=None if report is None else _prefix(report),
    )


def _prefix(report: PrefixReport) -> cache_pb2.PrefixStats:
    return cache_pb2.PrefixStats(
        reused_tokens=[tier_count(*each) for each in report.reused_tokens.items()],
        blocks=report.blocks,
        pinned_blocks=report.pinned_blocks,
        bytes=report.bytes,
        capacity_bytes=report.capacity_bytes,
        evictions=report.evictions,
        bandwidths=[
            cache_pb2.PrefixStats.TierBandwidth(
                tier=TIER_NUMBER[Tier(tier)],  # type: ignore[arg-type]
                bytes_per_second=bandwidth,
            )
            for tier, bandwidth in report.bandwidths.items()
        ],
        not_worth_loading=report.not_worth_loading,
    )
