"""Administrative calls, with both clients."""

from __future__ import annotations

import itertools
from dataclasses import fields

import pytest

from embercache import (
    DeadlineExceededError,
    DiskState,
    Event,
    FailedPreconditionError,
    ForgedStats,
    GeneratorModel,
    GeneratorStats,
    InvalidArgumentError,
    MigrateModelProgress,
    Model,
    ModelStats,
    PrefixStats,
    QuotaStats,
    Search,
    SemanticBand,
    SemanticStats,
    Stats,
    TierStats,
    UnavailableError,
    UsageStats,
    VersionMismatchError,
    WarmProgress,
    WarmState,
    _admin,
)
from embercache._search_requests import search_request
from embercache.v1 import cache_pb2, common_pb2, embed_pb2, generate_pb2

HANG_GUARD = 30.0


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


def test_what_the_cache_was_worth_is_told_by_kind_namespace_and_model():
    answered = [
        common_pb2.TierCount(tier=common_pb2.TIER_HOT, count=9),
        common_pb2.TierCount(tier=common_pb2.TIER_COMPUTED, count=1),
    ]
    message = cache_pb2.UsageStats(
        kind="search", namespace="n", model="m", answered=answered, hit_ms=0.5, money_saved=2.5
    )
    (usage,) = _admin.stats(cache_pb2.StatsResponse(usage=[message])).usage
    assert (usage.kind, usage.namespace, usage.model) == ("search", "n", "m")
    assert usage.answered == {"hot": 9, "computed": 1}
    assert (usage.hit_ms, usage.money_saved) == (0.5, 2.5)


def test_semantic_answers_are_told_by_similarity():
    band = cache_pb2.SemanticStats.Band(
        to=0.95, looked_up=7, answered=1, refused_by_guard=2, below_threshold=4
    )
    setattr(band, "from", 0.9)
    message = cache_pb2.SemanticStats(namespace="n", bands=[band])
    stats = _admin.stats(cache_pb2.StatsResponse(semantic=[message]))
    assert stats.semantic == [SemanticStats("n", [SemanticBand(0.9, 0.95, 7, 1, 2, 0, 4)])]


def test_refusals_are_told_by_quota():
    message = cache_pb2.QuotaStats(namespace="n", quota="computations", refusals=3)
    stats = _admin.stats(cache_pb2.StatsResponse(quotas=[message]))
    assert stats.quotas == [QuotaStats("n", "computations", 3)]


def test_values_that_no_sidecar_sealed_are_told_by_tier_and_reason():
    message = cache_pb2.ForgedStats(
        tier=common_pb2.TIER_WARM, what="entries", reason="forged", count=2
    )
    stats = _admin.stats(cache_pb2.StatsResponse(forged=[message]))
    assert stats.forged == [ForgedStats("warm", "entries", "forged", 2)]


def test_generators_are_told_with_what_they_keep_of_prompts():
    message = cache_pb2.GeneratorStats(name="g", generated=7, decode_tokens=70, decode_seconds=0.5)
    elsewhere = _admin.stats(cache_pb2.StatsResponse(generators=[message])).generators[0]
    assert (elsewhere.name, elsewhere.generated, elsewhere.prefix) == ("g", 7, None)
    assert (elsewhere.decode_tokens, elsewhere.decode_seconds) == (70, 0.5)
    message.prefix.reused_tokens.add(tier=common_pb2.TIER_HOT, count=1008)
    message.prefix.bandwidths.add(tier=common_pb2.TIER_WARM, bytes_per_second=2e8)
    message.prefix.capacity_bytes = 1 << 20
    (here,) = _admin.stats(cache_pb2.StatsResponse(generators=[message])).generators
    assert here.prefix is not None
    assert here.prefix.reused_tokens == {"hot": 1008}
    assert here.prefix.bandwidths == {"warm": 2e8}
    assert here.prefix.capacity_bytes == 1 << 20


@pytest.mark.parametrize(
    ("plain", "message", "apart"),
    [
        (Model, embed_pb2.Model, set()),
        (Stats, cache_pb2.StatsResponse, set()),
        (TierStats, cache_pb2.TierStats, {"tier"}),  # is the key
        (DiskState, cache_pb2.DiskState, set()),
        (WarmState, cache_pb2.WarmState, set()),
        (ModelStats, cache_pb2.ModelStats, set()),
        (UsageStats, cache_pb2.UsageStats, set()),
        (SemanticStats, cache_pb2.SemanticStats, set()),
        (GeneratorModel, generate_pb2.GeneratorModel, set()),
        (GeneratorStats, cache_pb2.GeneratorStats, set()),
        (PrefixStats, cache_pb2.PrefixStats, set()),
        (WarmProgress, cache_pb2.WarmProgress, set()),
        (MigrateModelProgress, cache_pb2.MigrateModelProgress, set()),
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


def test_events_reach_the_sidecar(client, sidecar):
    client.publish_events([Event("updated", ["doc"], collection="c")])
    event = cache_pb2.Event(type=cache_pb2.Event.TYPE_UPDATED, ids=["doc"], collection="c")
    assert sidecar.requests == [cache_pb2.PublishEventsRequest(events=[event])]


def test_the_progress_of_a_warming_is_told_as_it_comes(client, sidecar):
    sidecar.progress = [
        cache_pb2.WarmProgress(total=3, cached=1),
        cache_pb2.WarmProgress(total=3, cached=1, computed=1, failed=1),
    ]
    told = list(client.warm_embed(["a", "b", "c"], per_second=5, namespace="n"))
    assert told == [WarmProgress(3, 1, 0, 0), WarmProgress(3, 1, 1, 1)]
    assert [progress.done for progress in told] == [1, 3]
    (request,) = sidecar.requests
    assert [item.text for item in request.embed.inputs] == ["a", "b", "c"]
    assert (request.embed.namespace, request.per_second) == ("n", 5)


def test_a_warming_of_many_is_done_in_parts_whose_progress_is_added_up(client, sidecar):
    sidecar.progress = [
        cache_pb2.WarmProgress(total=1024, cached=1),
        cache_pb2.WarmProgress(total=1024, cached=1, computed=2, failed=3),
    ]
    told = list(client.warm_embed(str(i) for i in range(1500)))
    assert told == [
        WarmProgress(1500, 1, 0, 0),
        WarmProgress(1500, 1, 2, 3),
        WarmProgress(1500, 2, 2, 3),
        WarmProgress(1500, 2, 4, 6),
    ]
    assert [len(request.embed.inputs) for request in sidecar.requests] == [1024, 476]


def test_searches_are_warmed_with_their_options(client, sidecar):
    list(client.warm_search(["q", Search("r", top_k=3)], per_second=0.5))
    (request,) = sidecar.requests
    assert list(request.searches.requests) == [search_request("q"), search_request("r", top_k=3)]
    assert request.per_second == 0.5


def test_popular_queries_are_warmed_and_their_total_is_the_sidecars(client, sidecar):
    sidecar.progress = [cache_pb2.WarmProgress(total=7, cached=7)]
    assert list(client.warm_popular(100, namespace="n")) == [WarmProgress(7, 7, 0, 0)]
    popular = cache_pb2.WarmRequest.Popular(count=100, namespace="n")
    assert sidecar.requests == [cache_pb2.WarmRequest(popular=popular)]


def test_leaving_a_warming_early_ends_it(client, sidecar):
    sidecar.progress = itertools.repeat(cache_pb2.WarmProgress(total=9))
    told = client.warm_embed(["a"])
    next(told)
    told.close()
    assert sidecar.stream_ended.acquire(timeout=HANG_GUARD)


def test_a_warming_that_says_nothing_is_given_up_after_the_timeout(client, sidecar):
    sidecar.gate.clear()
    with pytest.raises(DeadlineExceededError, match=r"0\.1 seconds"):
        list(client.warm_embed(["a"], timeout=0.1))


def test_a_warming_that_cannot_begin_for_the_moment_is_tried_again(client, sidecar):
    sidecar.call_faults = ["UNAVAILABLE"]
    sidecar.progress = [cache_pb2.WarmProgress(total=1, computed=1)]
    assert [progress.done for progress in client.warm_embed(["a"])] == [1]
    assert len(sidecar.requests) == 2


def test_what_is_not_set_up_is_told_from_a_wrong_version(client, sidecar):
    sidecar.call_faults = ["FAILED_PRECONDITION"] * 3
    for job in (client.warm_popular(3), client.migrate_model("a", "b")):
        with pytest.raises(FailedPreconditionError) as caught:
            list(job)
        assert not isinstance(caught.value, VersionMismatchError)
    with pytest.raises(VersionMismatchError):
        client.embed(["a"])


@pytest.mark.parametrize(
    "job",
    [
        lambda client: client.warm_embed(["a"], per_second=0),
        lambda client: client.warm_search(["a"], per_second=-1),
        lambda client: client.warm_search(["a"], per_second=float("nan")),
        lambda client: client.warm_popular(1, per_second=float("inf")),
        lambda client: client.warm_popular(0),
        lambda client: client.migrate_model("a", "b", popular=-1),
    ],
    ids=[
        "no inputs a second",
        "fewer than none",
        "no number",
        "infinitely many",
        "no queries",
        "fewer than no queries",
    ],
)
def test_a_job_that_makes_no_sense_is_refused_before_it_is_read(client, job):
    with pytest.raises(InvalidArgumentError, match="must"):
        job(client)


def test_a_migration_is_told_by_stage(client, sidecar):
    stages = cache_pb2.MigrateModelProgress
    sidecar.progress = [
        stages(stage=stages.STAGE_DOCUMENTS, done=1, total=2),
        stages(stage=stages.STAGE_QUERIES, done=3, failed=1),
        stages(stage=stages.STAGE_SWITCHED),
        stages(stage=99),
    ]
    told = list(client.migrate_model("a", "b", popular=5, per_second=2))
    assert told == [
        MigrateModelProgress("documents", 1, 2, 0),
        MigrateModelProgress("queries", 3, 0, 1),
        MigrateModelProgress("switched", 0, 0, 0),
        MigrateModelProgress("unspecified", 0, 0, 0),
    ]
    assert sidecar.requests == [
        cache_pb2.MigrateModelRequest(model="a", to="b", popular=5, per_second=2)
    ]


def test_a_migration_can_be_taken_back(client, sidecar):
    client.rollback_model("a")
    assert sidecar.requests == [cache_pb2.RollbackModelRequest(model="a")]


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
