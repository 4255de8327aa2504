"""What each cache mode reads, computes and stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import common_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

    View = Callable[[DevRedis], Any]
    Start = Callable[..., Awaitable[Any]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

REFRESH = common_pb2.CACHE_MODE_REFRESH
BYPASS = common_pb2.CACHE_MODE_BYPASS
NO_STORE = common_pb2.CACHE_MODE_NO_STORE
ONLY_IF_CACHED = common_pb2.CACHE_MODE_ONLY_IF_CACHED
NOT_FOUND = grpc.StatusCode.NOT_FOUND.value[0]


async def test_refresh_computes_again_and_replaces_what_every_tier_holds(
    start: Start, noisy_pack: Path, redis_server: DevRedis, tmp_path: Path
) -> None:
    sidecar = await start(packs=[noisy_pack], redis=redis_server, disk=tmp_path / "disk")
    (old,) = await sidecar.vectors("a text")
    assert await sidecar.tiers("a text", mode=REFRESH) == ["COMPUTED"]
    assert await sidecar.tiers("a text") == ["HOT"]
    (new,) = await sidecar.vectors("a text")
    assert new != old
    for tier, disk in (("DISK", tmp_path / "disk"), ("WARM", None)):
        await sidecar.stop()
        sidecar = await start(packs=[noisy_pack], redis=redis_server, disk=disk)
        assert await sidecar.tiers("a text") == [tier]
        assert await sidecar.vectors("a text") == [new]


async def test_refresh_is_never_answered_by_a_stored_response(start: Start) -> None:
    sidecar = await start()
    for count in range(1, 4):
        assert await sidecar.tiers("a text", mode=REFRESH) == ["COMPUTED"]
        assert await sidecar.computed() == count


async def test_bypass_neither_reads_nor_stores(
    start: Start, noisy_pack: Path, redis_server: DevRedis, view: View
) -> None:
    sidecar = await start(packs=[noisy_pack], redis=redis_server)
    assert await sidecar.tiers("new", mode=BYPASS) == ["COMPUTED"]
    assert await sidecar.tiers("new", mode=ONLY_IF_CACHED) == ["ERROR"]
    (stored,) = await sidecar.vectors("old")
    assert await sidecar.tiers("old", mode=BYPASS) == ["COMPUTED"]
    assert await sidecar.vectors("old", mode=BYPASS) != [stored]
    assert await sidecar.vectors("old") == [stored]
    await sidecar.stop()
    assert len(view(redis_server).entries()) == 1


async def test_a_text_twice_in_a_bypassing_batch_is_computed_once(start: Start) -> None:
    sidecar = await start()
    assert await sidecar.tiers("one", "one", mode=BYPASS) == ["COMPUTED", "COALESCED"]
    assert await sidecar.computed() == 1


async def test_no_store_reads_but_does_not_store(
    start: Start, redis_server: DevRedis, view: View
) -> None:
    sidecar = await start(redis=redis_server)
    await sidecar.embed("old")
    assert await sidecar.tiers("old", "new", mode=NO_STORE) == ["HOT", "COMPUTED"]
    assert await sidecar.tiers("old", "new", mode=NO_STORE) == ["HOT", "COMPUTED"]
    await sidecar.stop()
    assert len(view(redis_server).entries()) == 1


async def test_only_if_cached_fails_what_is_missing_and_computes_nothing(start: Start) -> None:
    sidecar = await start()
    await sidecar.embed("old")
    response = await sidecar.embed("old", "new", "old", mode=ONLY_IF_CACHED)
    old, missing, again = response.embeddings
    assert old.vector == again.vector != b""
    assert old.tier == common_pb2.TIER_HOT
    assert missing.error.code == NOT_FOUND
    assert not missing.vector
    assert await sidecar.computed() == 1


async def test_only_if_cached_finds_what_is_in_redis(
    start: Start, redis_server: DevRedis, view: View, eventually: Eventually
) -> None:
    one, two = await start(redis=redis_server), await start(redis=redis_server)
    await one.embed("a text")
    await eventually(view(redis_server).entries)
    assert await two.tiers("a text", mode=ONLY_IF_CACHED) == ["WARM"]


async def test_only_if_cached_with_nothing_cached_is_an_answer_not_a_failed_call(
    start: Start,
) -> None:
    sidecar = await start()
    response = await sidecar.embed("one", "two", mode=ONLY_IF_CACHED)
    assert [e.error.code for e in response.embeddings] == [NOT_FOUND] * 2


@pytest.mark.parametrize("mode", [common_pb2.CACHE_MODE_UNSPECIFIED, REFRESH])
async def test_what_a_storing_mode_computed_is_hot_afterwards(
    mode: common_pb2.CacheMode.ValueType, start: Start
) -> None:
    sidecar = await start()
    await sidecar.embed("a text", mode=mode)
    assert await sidecar.tiers("a text") == ["HOT"]
