"""What all answers have in common: JSON, and headers that tell what the cache did."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from aiohttp import web
from embercache.v1 import common_pb2

from sidecar.cache.items import Tier

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embercache.v1 import embed_pb2, generate_pb2

TIER = "x-embercache-tier"

# From what costs least to what costs most.
_BY_COST = (Tier.HOT, Tier.DISK, Tier.WARM, Tier.COALESCED, Tier.COMPUTED)
_HITS = (Tier.HOT, Tier.DISK, Tier.WARM)


def dump(value: object) -> bytes:
    """A value as JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def respond(
    body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A response of JSON."""
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


def cache_headers(
    items: Sequence[embed_pb2.Embedding] | Sequence[generate_pb2.GenerateSummary],
) -> dict[str, str]:
    """What answered; of several items the costliest tier and the greatest age."""
    tiers = [_tier(item.tier) for item in items]
    hits = sum(tier in _HITS for tier in tiers)
    return {
        TIER: max(tiers, key=_BY_COST.index).value,
        "x-embercache-hits": f"{hits}/{len(items)}",
        "x-embercache-age-ms": str(max(item.age_ms for item in items)),
        "x-embercache-model-version": items[0].model_version,
    }


def _tier(number: common_pb2.Tier.ValueType) -> Tier:
    return Tier(common_pb2.Tier.Name(number).removeprefix("TIER_").lower())
