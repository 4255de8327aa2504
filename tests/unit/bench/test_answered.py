"""Whether calls that were refused are taken for hits."""

from __future__ import annotations

import pytest
from embercache.v1 import cache_pb2, common_pb2

from bench import answered
from bench.load import LoadError


def told(monkeypatch: pytest.MonkeyPatch, *counts: int) -> None:
    """Lets a sidecar say so, one after the other, of whole hits and items from Redis."""
    tiers = [[cache_pb2.TierStats(tier=common_pb2.TIER_WARM, answered=count)] for count in counts]
    stats = iter(
        cache_pb2.StatsResponse(response_hits=count, tiers=tier)
        for count, tier in zip(counts, tiers, strict=True)
    )
    monkeypatch.setattr(answered, "read_stats", lambda _: next(stats))


@pytest.mark.parametrize("check", [answered.all_whole_hits, answered.all_from_redis])
def test_a_load_of_which_the_sidecar_answered_less_is_refused(
    check: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(check)
    told(monkeypatch, 5, 105)
    with check("address", 100):
        pass
    told(monkeypatch, 5, 104)
    refused = pytest.raises(LoadError, match="100 were asked for, and the sidecar answered 99")
    with refused, check("address", 100):
        pass
