"""An invalidation on one sidecar is obeyed by all that share its Redis."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import common_pb2

from sidecar.cache.redis_generations import RedisGenerations
from sidecar.cache.warm_writes import WarmWrites
from sidecar.cache.write_queue import Put
from sidecar.dev_redis import DevRedis

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Sidecar = Any
    View = Callable[[DevRedis], Any]
    Start = Callable[..., Awaitable[Any]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

HOW = {
    "tags": {"tags": ["a tag"]},
    "inputs": {"inputs": ["a text"], "input_tags": ["a tag"]},
    "namespace": {},
}
TAGGED = {"tags": ["a tag"]}
CACHED = {"mode": common_pb2.CACHE_MODE_ONLY_IF_CACHED, **TAGGED}


async def pair(start: Start, redis: DevRedis, view: View, eventually: Eventually) -> Any:
    """Two sidecars, both of which have "a text", with "a tag", in memory."""
    one, two = await start(redis=redis), await start(redis=redis)
    await one.embed("a text", tags=["a tag"])
    await eventually(view(redis).entries)
    assert await two.tiers("a text", tags=["a tag"]) == ["WARM"]
    return one, two


async def obeys(sidecar: Sidecar, **fields: Any) -> None:
    """Waits until the sidecar serves "a text" from no tier."""
    async with asyncio.timeout(20):
        while await sidecar.tiers("a text", **CACHED, **fields) != ["ERROR"]:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("how", HOW.values(), ids=HOW.keys())
async def test_the_other_sidecar_obeys(
    how: dict[str, Any],
    start: Start,
    redis_server: DevRedis,
    view: View,
    eventually: Eventually,
) -> None:
    one, two = await pair(start, redis_server, view, eventually)
    await one.invalidate(**how)
    assert await one.tiers("a text", **CACHED) == ["ERROR"]
    await obeys(two)


@pytest.mark.parametrize("how", HOW.values(), ids=HOW.keys())
async def test_the_other_sidecars_stored_responses_and_disk_obey(
    how: dict[str, Any],
    start: Start,
    redis_server: DevRedis,
    tmp_path: Path,
    view: View,
    eventually: Eventually,
) -> None:
    one = await start(redis=redis_server)
    two = await start(redis=redis_server, disk=tmp_path / "disk")
    await two.embed("a text", tags=["a tag"])
    for _ in range(3):
        await two.tiers("a text", **CACHED)
    assert (await two.stats()).response_hits == 2
    await one.invalidate(**how)
    await obeys(two)
    await two.flush(common_pb2.TIER_HOT)
    assert await two.tiers("a text", **CACHED) == ["ERROR"]


async def test_the_other_sidecar_keeps_what_is_not_concerned(
    start: Start, redis_server: DevRedis, view: View, eventually: Eventually
) -> None:
    one, two = await pair(start, redis_server, view, eventually)
    await two.embed("other", tags=["other"])
    await two.embed("elsewhere", tags=["a tag"], namespace="b")
    await one.invalidate(tags=["a tag"])
    await obeys(two)
    assert await two.tiers("other", tags=["other"]) == ["HOT"]
    assert await two.tiers("elsewhere", namespace="b", **TAGGED) == ["HOT"]


async def test_a_sidecar_that_starts_later_obeys(
    start: Start, redis_server: DevRedis, view: View, eventually: Eventually
) -> None:
    one, _ = await pair(start, redis_server, view, eventually)
    await one.invalidate(tags=["a tag"])
    late = await start(redis=redis_server)
    assert await late.tiers("a text", **TAGGED) == ["COMPUTED"]


@pytest.mark.parametrize("how", HOW.values(), ids=HOW.keys())
async def test_while_redis_is_down_it_is_in_force_here_and_the_caller_is_told(
    how: dict[str, Any],
    start: Start,
    own_redis: DevRedis,
    view: View,
    eventually: Eventually,
) -> None:
    one, _ = await pair(start, own_redis, view, eventually)
    own_redis.kill()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await one.invalidate(**how)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    assert await one.tiers("a text", **CACHED) == ["ERROR"]
    own_redis.start()


@pytest.mark.parametrize("how", HOW.values(), ids=HOW.keys())
async def test_repeated_when_redis_is_back_it_reaches_all(
    how: dict[str, Any],
    start: Start,
    tmp_path: Path,
    view: View,
    eventually: Eventually,
) -> None:
    with DevRedis(data_folder=tmp_path / "redis") as redis:
        one, two = await pair(start, redis, view, eventually)
        redis.kill()
        with pytest.raises(grpc.aio.AioRpcError):
            await one.invalidate(**how)
        redis.start()
        async with asyncio.timeout(20):
            while True:
                try:
                    await one.invalidate(**how)
                except grpc.aio.AioRpcError as error:
                    if error.code() != grpc.StatusCode.UNAVAILABLE:
                        raise
                else:
                    break
        await obeys(one)
        await obeys(two)


async def test_a_sidecar_whose_connection_was_cut_catches_up(
    start: Start, redis_server: DevRedis, view: View, eventually: Eventually
) -> None:
    one, two = await pair(start, redis_server, view, eventually)
    client = view(redis_server).client
    for number in range(5):
        text = {"namespace": f"n{number}"}
        await two.embed("a text", tags=["a tag"], **text)
        client.client_kill_filter(_type="normal", skipme=True)
        async with asyncio.timeout(20):
            while True:  # its own connections were cut as well
                try:
                    await one.invalidate(tags=["a tag"], **text)
                    break
                except grpc.aio.AioRpcError:
                    pass
        await obeys(two, **text)


async def test_a_sidecar_hears_of_an_invalidation_that_came_while_redis_was_restarting(
    start: Start, tmp_path: Path, view: View, eventually: Eventually
) -> None:
    with DevRedis(data_folder=tmp_path / "redis") as redis:
        one, two = await pair(start, redis, view, eventually)
        for _ in range(2):
            redis.kill()
            redis.start()
            async with asyncio.timeout(20):
                while True:
                    try:
                        await one.invalidate(tags=["a tag"])
                        break
                    except grpc.aio.AioRpcError:
                        pass
            await obeys(two)
            await two.embed("a text", tags=["a tag"])


async def test_a_redis_that_lost_its_data_leaves_no_tagged_entry_valid_by_mistake(
    start: Start, own_redis: DevRedis, view: View, eventually: Eventually
) -> None:
    one, two = await pair(start, own_redis, view, eventually)
    own_redis.kill()
    own_redis.start()  # empty
    # Nobody knows any more what was invalidated, so what had tags is given up.
    await obeys(two)
    await obeys(one)
    await one.embed("a text", tags=["a tag"])
    await eventually(view(own_redis).entries)
    assert await two.tiers("a text", **TAGGED) == ["WARM"]


@pytest.mark.parametrize("how", HOW.values(), ids=HOW.keys())
async def test_what_was_removed_while_a_sidecar_was_down_is_not_served_from_its_disk(
    how: dict[str, Any], start: Start, redis_server: DevRedis, tmp_path: Path
) -> None:
    one, two = (
        await start(redis=redis_server, disk=tmp_path / "disk"),
        await start(redis=redis_server),
    )
    await one.embed("a text", **TAGGED)
    await one.embed("kept", **TAGGED, namespace="other")
    await one.stop()
    await two.invalidate(**how)
    again = await start(redis=redis_server, disk=tmp_path / "disk")
    assert await again.tiers("a text", **TAGGED) == ["COMPUTED"]
    assert await again.tiers("kept", **TAGGED, namespace="other") == ["DISK"]


async def test_a_disk_is_emptied_when_nobody_knows_what_was_removed_meanwhile(
    start: Start, redis_server: DevRedis, view: View, tmp_path: Path
) -> None:
    one = await start(redis=redis_server, disk=tmp_path / "disk")
    two = await start(redis=redis_server)
    await one.embed("a text", "kept")
    await two.invalidate(inputs=["something else"])
    await one.stop()
    await two.invalidate(inputs=["a text"])
    view(redis_server).client.delete("embercache:{state}:invalidations")
    await two.invalidate(inputs=["something else"])
    again = await start(redis=redis_server, disk=tmp_path / "disk")
    assert await again.tiers("a text", "kept") == ["COMPUTED", "WARM"]


async def test_who_is_asked_while_redis_removes_an_entry_does_not_keep_it(
    start: Start,
    redis_server: DevRedis,
    view: View,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor has it to be told of its own removal for that, which it may not hear for a while."""
    sidecar = await start(redis=redis_server)
    await sidecar.embed("a text", **TAGGED)
    await eventually(view(redis_server).entries)

    async def remove(self: RedisGenerations, namespace: str, keys: Any) -> None:
        assert await sidecar.tiers("a text", **TAGGED) == ["WARM"]
        await self._warm.delete_many(keys)

    monkeypatch.setattr(RedisGenerations, "remove", remove)
    await sidecar.invalidate(**HOW["inputs"])
    assert await sidecar.tiers("a text", **CACHED) == ["ERROR"]


async def test_what_the_other_sidecar_is_late_to_write_does_not_bring_the_entry_back(
    start: Start,
    redis_server: DevRedis,
    view: View,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, let_go = WarmWrites._apply, asyncio.Event()

    async def late(self: WarmWrites, batch: Any) -> Any:
        if any(isinstance(write, Put) for write in batch):
            await let_go.wait()
        return await real(self, batch)

    monkeypatch.setattr(WarmWrites, "_apply", late)
    one, two = await start(redis=redis_server), await start(redis=redis_server)
    await two.embed("a text", **TAGGED)
    await one.invalidate(**HOW["inputs"])
    await obeys(two)
    redis = view(redis_server)
    let_go.set()
    await eventually(lambda: redis.calls("set") == 1 and redis.calls("del") == 2)
    assert redis.entries() == []
