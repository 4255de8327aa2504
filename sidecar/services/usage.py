"""What the cache was worth: arithmetic over the accounts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embercache.v1 import cache_pb2, common_pb2

from sidecar.cache.items import Tier
from sidecar.services.wire import TIER_NUMBER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sidecar.cache.accounts import Account
    from sidecar.config_telemetry import PriceSettings


def usage(
    accounts: Iterable[Account], hot_ages: Mapping[Account, float], prices: PriceSettings
) -> list[cache_pb2.UsageStats]:
    """The statistics of each account; ``hot_ages`` are mean ages in seconds."""
    return [_usage(account, hot_ages.get(account, 0.0), prices) for account in accounts]


def _usage(account: Account, hot_age: float, prices: PriceSettings) -> cache_pb2.UsageStats:
    answered = account.answered
    hits = answered[Tier.HOT] + answered[Tier.DISK] + answered[Tier.WARM] + account.whole
    computed = answered[Tier.COMPUTED]
    per_1000 = prices.per_1000_tokens
    if account.kind == "generate":
        per_1000 = prices.per_1000_generated
    compute = account.compute_seconds / computed if computed else 0.0
    lookup = account.lookup_seconds / computed if computed else 0.0
    hit = account.hit_seconds / account.timed_hits if account.timed_hits else 0.0
    tiers = [
        common_pb2.TierCount(
            tier=TIER_NUMBER[tier],  # type: ignore[arg-type]
            count=answered[tier] + (account.whole if tier is Tier.HOT else 0),
        )
        for tier in Tier
    ]
    return cache_pb2.UsageStats(
        kind=account.kind,
        namespace=account.namespace,
        model=account.model,
        answered=tiers,
        failed=account.failed,
        hot_entries=account.hot_entries,
        hot_bytes=account.hot_bytes,
        hot_age_seconds=hot_age,
        evictions=account.evictions,
        tokens_saved=account.tokens_saved,
        compute_ms=compute * 1000,
        hit_ms=hit * 1000,
        seconds_saved=hits * max(0.0, compute - hit),
        money_saved=hits * prices.per_call + account.tokens_saved / 1000 * per_1000,
        # A lookup is paid for every item, a computation saved for each hit.
        break_even_hit_rate=min(1.0, lookup / compute) if compute else 0.0,
    )
