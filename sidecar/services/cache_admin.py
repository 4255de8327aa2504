"""CacheService: what the cache did, and what of it is to go."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from embercache.v1 import cache_pb2, common_pb2

from sidecar import __version__
from sidecar.cache.generations import InvalidationNotSharedError
from sidecar.cache.items import Tier
from sidecar.models.types import ModelUnavailableError
from sidecar.services.embed_request import MAX_TAGS, decode, namespace, tag_digests
from sidecar.services.embed_wire import TIER_NUMBER
from sidecar.services.errors import CallError, invalid

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from sidecar.cache.disk import DiskTier
    from sidecar.cache.generations import Generations
    from sidecar.cache.hot import HotTier
    from sidecar.cache.read_through import ReadThrough
    from sidecar.cache.warm import WarmTier
    from sidecar.models.types import Embedder
    from sidecar.services.embed import EmbedService
    from sidecar.services.embed_request import RequestReader

_MAX_TAGS_INVALIDATED = 1000


class CacheAdmin:
    """Answers CacheService of cache.proto: bytes in, bytes out.

    Raises what `sidecar.services.errors.as_call_error` turns into a status.
    """

    def __init__(
        self,
        *,
        models: Mapping[str, Embedder],
        reader: RequestReader,
        embed: EmbedService,
        cache: ReadThrough,
        hot: HotTier[Any],
        disk: DiskTier | None,
        warm: WarmTier | None,
        generations: Generations,
    ) -> None:
        self._started = time.monotonic()
        self._models = models
        self._reader = reader
        self._embed = embed
        self._cache = cache
        self._hot = hot
        self._disk = disk
        self._warm = warm
        self._generations = generations

    async def stats(self, raw: bytes) -> bytes:
        """Stats."""
        decode(cache_pb2.StatsRequest, raw)
        return self.collect().SerializeToString()

    def collect(self) -> cache_pb2.StatsResponse:
        """Every counter of this sidecar."""
        counters = self._cache.counters
        return cache_pb2.StatsResponse(
            version=__version__,
            uptime_seconds=time.monotonic() - self._started,
            response_hits=self._embed.response_hits,
            tiers=[self._tier(tier) for tier in Tier],
            items_failed=counters.failed,
            warm=self._warm_state(),
            models=[_model(name, embedder) for name, embedder in self._models.items()],
            disk=self._disk_state(),
        )

    async def invalidate(self, raw: bytes) -> bytes:
        """Invalidate."""
        request = decode(cache_pb2.InvalidateRequest, raw)
        name = namespace(request.namespace)
        match request.WhichOneof("target"):
            case "tags":
                tags = tag_digests(request.tags.tags, _MAX_TAGS_INVALIDATED)
                if not tags:
                    raise invalid("name at least one tag")
                await self._generations.invalidate_tags(name, tags)
            case "inputs":
                await self._remove_inputs(name, request.inputs)
            case "whole_namespace":
                await self._generations.invalidate_namespace(name)
            case _:
                raise invalid("say what to invalidate: tags, inputs or whole_namespace")
        return cache_pb2.InvalidateResponse().SerializeToString()

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
        if self._disk is not None and (not tiers or common_pb2.TIER_DISK in tiers):
            entries += await self._disk.clear()
        return cache_pb2.FlushResponse(entries=entries).SerializeToString()

    async def _remove_inputs(self, name: str, target: cache_pb2.InvalidateRequest.Inputs) -> None:
        info = self._reader.model(target.model).info
        input_type, prompt = self._reader.input_prompt(info, target.input_type)
        items = [self._reader.item(entry, prompt, input_type) for entry in target.inputs]
        for item in items:
            if isinstance(item, CallError):
                raise item
        tags = tag_digests(target.tags, MAX_TAGS)
        # A removal under an epoch of yesterday would remove nothing.
        state, is_agreed = await self._generations.agree(name)
        keys = [
            self._embed.key(name, info, state.epoch, item, tags)
            for item in items
            if not isinstance(item, CallError)
        ]
        if not keys:
            raise invalid("name at least one input")
        # This sidecar first, so that it obeys even if Redis cannot be told.
        self._cache.remove(keys)
        await self._generations.remove_shared(state, keys)
        if not is_agreed:
            raise InvalidationNotSharedError(
                "Redis did not say under which epoch others keep the entries: repeat the call"
            )

    def _tier(self, tier: Tier) -> cache_pb2.TierStats:
        counters = self._cache.counters
        whole = self._embed.response_items if tier is Tier.HOT else 0
        stats = cache_pb2.TierStats(
            tier=TIER_NUMBER[tier],  # type: ignore[arg-type]
            answered=counters.answered[tier] + whole,
            corrupt=counters.corrupt[tier],
        )
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
        if self._warm is None:
            return cache_pb2.WarmState(state=cache_pb2.WarmState.STATE_OFF)
        counters = self._warm.counters
        up = self._warm.state == "up"
        return cache_pb2.WarmState(
            state=cache_pb2.WarmState.STATE_UP if up else cache_pb2.WarmState.STATE_DOWN,
            errors=counters.errors,
            skipped=counters.skipped,
            writes_dropped=counters.writes_dropped,
        )


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
        shed=counters.shed,
        abandoned=counters.abandoned,
    )
