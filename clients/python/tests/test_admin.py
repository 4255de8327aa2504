"""Administrative calls, with both clients."""

from __future__ import annotations

from dataclasses import fields

import pytest

from embercache import (
    DiskState,
    InvalidArgumentError,
    Model,
    ModelStats,
    Stats,
    TierStats,
    UnavailableError,
    WarmState,
    _admin,
)
from embercache.v1 import cache_pb2, common_pb2, embed_pb2


def test_models_are_listed(client):
    (model,) = client.models()
    assert model == Model(
        name="fake",
        version="version-1",
        dimensions=8,
        max_tokens=0,
        accepts_text=True,
        accepts_tensor=False,
        runs_on="cpu",
        prompts={"query": "find: "},
    )


def test_stats_are_plain_values(client):
    stats = client.stats()
    assert (stats.version, stats.uptime_seconds, stats.response_hits) == ("0.0", 1.5, 3)
    assert stats.items_failed == 1
    assert (stats.tiers["hot"].answered, stats.tiers["hot"].bytes) == (7, 70)
    assert (stats.warm.state, stats.warm.errors) == ("down", 2)
    assert stats.disk is None
    assert [(model.name, model.computed) for model in stats.models] == [("fake", 5)]


def test_the_failures_of_a_disk_tier_are_told():
    disk = cache_pb2.DiskState(errors=1, skipped=2, writes_dropped=3, corrupt_files=4)
    stats = _admin.stats(cache_pb2.StatsResponse(disk=disk))
    assert stats.disk == DiskState(errors=1, skipped=2, writes_dropped=3, corrupt_files=4)


@pytest.mark.parametrize(
    ("plain", "message", "apart"),
    [
        (Model, embed_pb2.Model, set()),
        (Stats, cache_pb2.StatsResponse, set()),
        (TierStats, cache_pb2.TierStats, {"tier"}),  # is the key
        (DiskState, cache_pb2.DiskState, set()),
        (WarmState, cache_pb2.WarmState, set()),
        (ModelStats, cache_pb2.ModelStats, set()),
    ],
)
def test_nothing_that_the_contract_tells_is_left_out(plain, message, apart):
    told = {each.name for each in message.DESCRIPTOR.fields}
    assert {each.name for each in fields(plain)} == told - apart


def test_invalidate_reaches_the_sidecar(client, sidecar):
    client.invalidate(tags=["a", "b"], namespace="n")
    client.invalidate(whole_namespace=True)
    assert sidecar.requests == [
        cache_pb2.InvalidateRequest(
            namespace="n", tags=cache_pb2.InvalidateRequest.Tags(tags=["a", "b"])
        ),
        cache_pb2.InvalidateRequest(whole_namespace=cache_pb2.InvalidateRequest.WholeNamespace()),
    ]


def test_flush_tells_how_many_entries_went(client, sidecar):
    assert client.flush() == 4
    assert client.flush(["hot", "disk"]) == 4
    assert [list(each.tiers) for each in sidecar.requests] == [
        [],
        [common_pb2.TIER_HOT, common_pb2.TIER_DISK],
    ]


def test_a_tier_that_cannot_be_flushed_is_refused(client):
    with pytest.raises(InvalidArgumentError, match="hot, disk"):
        client.flush(["warm"])


@pytest.mark.parametrize(("answer", "serving"), [(b"\x08\x01", True), (b"\x08\x02", False)])
def test_health_is_what_the_sidecar_says(client, sidecar, answer, serving):
    sidecar.health = answer
    assert client.health() is serving


def test_health_is_not_retried(client, sidecar):
    sidecar.call_faults = ["UNAVAILABLE"]
    with pytest.raises(UnavailableError):
        client.health()
    assert len(sidecar.requests) == 1
