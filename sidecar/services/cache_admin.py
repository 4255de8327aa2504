"""CacheService.Stats and Flush: what this sidecar's cache did, and its own tiers emptied."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from embercache.v1 import cache_pb2, common_pb2

from sidecar import __version__
from sidecar.access.caller import Right, caller
from sidecar.cache.items import Tier
from sidecar.models.types import ModelUnavailableError
from sidecar.services.errors import invalid
from sidecar.services.generator_stats import generator_stats
from sidecar.services.requests import decode
from sidecar.services.usage import usage
from sidecar.services.wire import TIER_NUMBER

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from typing import Any

    from sidecar.access.caller import Caller
    from sidecar.access.quotas import Quotas, Refused
    from sidecar.cache.accounts import Account, Accounts
    from sidecar.cache.disk import DiskTier
    from sidecar.cache.follower import InvalidationFollower
    from sidecar.cache.hot import HotTier
    from sidecar.cache.read_through import ReadThrough
    from sidecar.cache.redis_memory import RedisMemory
    from sidecar.cache.seals import Refusals, Seals
    from sidecar.cache.semantic_report import Band, SemanticReport
    from sidecar.cache.warm import WarmTier
    from sidecar.config_telemetry import PriceSettings
    from sidecar.models.generation import Generator
    from sidecar.models.router import ModelRouter
    from sidecar.models.types import Embedder
    from sidecar.services.stored import StoredResponses


class CacheAdmin:
    """Answers Stats and Flush of cache.proto: bytes in, bytes out.

    Raises what `sidecar.services.errors.as_call_error` turns into a status.
    """

    def __init__(
        self,
        *,
        models: ModelRouter,
        generators: Collection[Generator],
        accounts: Accounts,
        quotas: Quotas,
        responses: Sequence[StoredResponses],
        semantic: SemanticReport,
        cache: ReadThrough,
        hot: HotTier[Any],
        disk: DiskTier | None,
        prompts_disk: DiskTier | None,
        warm: WarmTier | None,
        memory: RedisMemory | None,
        follower: InvalidationFollower | None,
        seals: Seals,
        prices: PriceSettings,
    ) -> None:
        self._started = time.monotonic()
        self._models = models
        self._generators = generators
        self._accounts = accounts
        self._quotas = quotas
        self._responses = responses
        self._semantic = semantic
        self._cache = cache
        self._hot = hot
        self._disk = disk
        self._prompts_disk = prompts_disk
        self._warm = warm
        self._memory = memory
        self._follower = follower
        self._seals = seals
        self._prices = prices

    async def stats(self, raw: bytes) -> bytes:
        """Stats: of the whole sidecar, or of the caller's namespaces if that is all he may see."""
        decode(cache_pb2.StatsRequest, raw)
        who = caller()
        if who is None or Right.ADMINISTER in who.rights:
            return self.collect().SerializeToString()
        return self._collect_for(who).SerializeToString()

    def collect(self, *, by_use: bool = True) -> cache_pb2.StatsResponse:
        """Every counter of this sidecar; those by use, which may be many, unless told not to."""
        self._settle()
        return cache_pb2.StatsResponse(
            version=__version__,
            uptime_seconds=time.monotonic() - self._started,
            response_hits=sum(each.hits for each in self._responses),
            tiers=[self._tier(tier) for tier in Tier],
            items_failed=_failed(self._accounts),
            warm=self._warm_state(),
            models=[
                _model(name, embedder)
                for name, embedder in zip(self._models.names(), self._models, strict=True)
            ],
            disk=self._disk_state(),
            usage=usage(self._accounts, self._hot.ages(), self._prices) if by_use else (),
            semantic=_semantic_stats(self._semantic.items()),
            generators=[generator_stats(each) for each in self._generators],
            quotas=_quota_stats(self._quotas.refused()),
            forged=_forged_stats(self._seals.refusals()),
        )

    def _collect_for(self, who: Caller) -> cache_pb2.StatsResponse:
        """What concerns a caller's namespaces, and nothing from which others' could be told."""
        self._settle()
        accounts = [each for each in self._accounts if who.may_use(each.namespace)]
        semantic = [each for each in self._semantic.items() if who.may_use(each[0])]
        refused = [each for each in self._quotas.refused() if who.may_use(each.namespace)]
        return cache_pb2.StatsResponse(
            version=__version__,
            uptime_seconds=time.monotonic() - self._started,
            tiers=[_answered(accounts, tier) for tier in Tier],
            items_failed=_failed(accounts),
            warm=cache_pb2.WarmState(state=self._warm_state().state),
            usage=usage(accounts, self._hot.ages(), self._prices),
            semantic=_semantic_stats(semantic),
            quotas=_quota_stats(refused),
        )

    async def flush(self, raw: bytes) -> bytes:
        """Flush."""
        tiers = set(decode(cache_pb2.FlushRequest, raw).tiers)
        if tiers - {common_pb2.TIER_HOT, common_pb2.TIER_DISK}:
            raise invalid(
                "only TIER_HOT and TIER_DISK can be flushed; to make what Redis holds invalid,"
                " use Invalidate with whole_namespace"
            )
        entries = 0
        if not tiers or common_pb2.TIER_HOT in tiers:
            entries += self._hot.clear()
            entries += sum(generator.forget_prompts() for generator in self._generators)
        if not tiers or common_pb2.TIER_DISK in tiers:
            for disk in (self._disk, self._prompts_disk):
                entries += 0 if disk is None else await disk.clear()
        return cache_pb2.FlushResponse(entries=entries).SerializeToString()

    def _settle(self) -> None:
        for each in self._responses:
            each.settle()

    def _tier(self, tier: Tier) -> cache_pb2.TierStats:
        stats = _answered(self._accounts, tier)
        stats.corrupt = self._cache.counters.corrupt[tier]
        if tier is Tier.HOT:
            stats.entries = len(self._hot)
            stats.bytes = self._hot.bytes
            stats.capacity_bytes = self._hot.capacity_bytes
            stats.evictions = self._hot.counters.evictions
            stats.expirations = self._hot.counters.expirations
        if tier is Tier.DISK and self._disk is not None:
            stats.entries = self._disk.entries
            stats.bytes = self._disk.size_bytes
            stats.capacity_bytes = self._disk.capacity_bytes
            stats.evictions = self._disk.evictions
        return stats

    def _disk_state(self) -> cache_pb2.DiskState | None:
        if self._disk is None:
            return None
        counters = self._disk.counters
        return cache_pb2.DiskState(
            errors=counters.errors,
            skipped=counters.skipped,
            writes_dropped=counters.writes_dropped,
            corrupt_files=self._disk.corrupt_files,
        )

    def _warm_state(self) -> cache_pb2.WarmState:
        if self._warm is None or self._memory is None or self._follower is None:
            return cache_pb2.WarmState(state=cache_pb2.WarmState.STATE_OFF)
        counters = self._warm.counters
        up = self._warm.state == "up"
        return cache_pb2.WarmState(
            state=cache_pb2.WarmState.STATE_UP if up else cache_pb2.WarmState.STATE_DOWN,
            errors=counters.errors,
            skipped=counters.skipped,
            writes_dropped=counters.writes_dropped,
            memory_bytes=self._memory.used_bytes,
            memory_limit_bytes=self._memory.limit_bytes,
            invalidations_heard_seconds=self._follower.heard_ago(),
        )


def _answered(accounts: Iterable[Account], tier: Tier) -> cache_pb2.TierStats:
    """How many items a tier answered."""
    whole = tier is Tier.HOT
    return cache_pb2.TierStats(
        tier=TIER_NUMBER[tier],  # type: ignore[arg-type]
        answered=sum(each.answered[tier] + (each.whole if whole else 0) for each in accounts),
    )


def _failed(accounts: Iterable[Account]) -> int:
    return sum(account.failed for account in accounts)


def _quota_stats(refused: Iterable[Refused]) -> list[cache_pb2.QuotaStats]:
    return [
        cache_pb2.QuotaStats(namespace=each.namespace, quota=each.quota, refusals=each.calls)
        for each in refused
    ]


def _semantic_stats(
    namespaces: Iterable[tuple[str, Sequence[Band]]],
) -> list[cache_pb2.SemanticStats]:
    return [
        cache_pb2.SemanticStats(
            namespace=namespace,
            bands=[
                cache_pb2.SemanticStats.Band(
                    to=band.upper,
                    looked_up=band.looked_up,
                    answered=band.answered,
                    refused_by_guard=band.refused_by_guard,
                    refused_by_verifier=band.refused_by_verifier,
                    below_threshold=band.below_threshold,
                    **{"from": band.lower},
                )
                for band in bands
            ],
        )
        for namespace, bands in namespaces
    ]


def _forged_stats(refusals: Sequence[Refusals]) -> list[cache_pb2.ForgedStats]:
    return [
        cache_pb2.ForgedStats(
            tier=TIER_NUMBER[Tier(each.place)],  # type: ignore[arg-type]
            what=each.what,
            reason=reason,
            count=count,
        )
        for each in refusals
        for reason, count in each.counts.items()
    ]


def _model(name: str, embedder: Embedder) -> cache_pb2.ModelStats:
    try:
        version = embedder.info.version
    except ModelUnavailableError:
        version = ""
    counters = embedder.counters
    return cache_pb2.ModelStats(
        name=name,
        version=version,
        computed=counters.computed,
        batches=counters.batches,
        tokens=counters.tokens,
        padding_tokens=counters.padding_tokens,
        queued=embedder.queued,
        queue_seconds=embedder.queue_seconds,
        shed=counters.shed,
        refused_late=counters.refused_late,
        dropped_late=counters.dropped_late,
        abandoned=counters.abandoned,
    )
