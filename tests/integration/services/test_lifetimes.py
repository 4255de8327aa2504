"""Entries live as long as they were told, in every tier."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from embercache.v1 import common_pb2, embed_pb2
from google.protobuf.duration_pb2 import Duration

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

    Sidecar = Any
    View = Callable[[DevRedis], Any]
    Start = Callable[..., Awaitable[Any]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

CACHED = {"mode": common_pb2.CACHE_MODE_ONLY_IF_CACHED}
DAY = 86_400_000
# Long enough for a slow machine to see an entry before it is gone.
SOON = Duration(nanos=700_000_000)


async def gone(sidecar: Sidecar) -> None:
    """Waits until no tier has the text."""
    async with asyncio.timeout(20):
        while await sidecar.tiers("a text", **CACHED) != ["ERROR"]:
            pass


async def test_an_entry_expires_in_every_tier(
    start: Start, redis_server: DevRedis, tmp_path: Path, view: View, eventually: Eventually
) -> None:
    nothing_hot = {"hot": {"max_bytes": 0}}
    sidecars = {
        "HOT": await start(),
        "DISK": await start(disk=tmp_path / "disk", **nothing_hot),
        "WARM": await start(redis=redis_server, **nothing_hot),
    }
    for tier, sidecar in sidecars.items():
        await sidecar.embed("a text", ttl=SOON)
        await sidecar.embed("for ever", input_type=embed_pb2.INPUT_TYPE_DOCUMENT)
        if tier == "DISK":
            await sidecar.on_disk(2)
        if tier == "WARM":
            await eventually(lambda: len(view(redis_server).entries()) == 2)
        assert await sidecar.tiers("a text", **CACHED) == [tier]
    for tier, sidecar in sidecars.items():
        await gone(sidecar)
        assert await sidecar.tiers("for ever", input_type=embed_pb2.INPUT_TYPE_DOCUMENT) == [tier]
        assert await sidecar.tiers("a text") == ["COMPUTED"]


async def test_a_hot_copy_does_not_outlive_the_entry_it_was_made_of(
    start: Start, redis_server: DevRedis, tmp_path: Path, view: View, eventually: Eventually
) -> None:
    one = await start(redis=redis_server)
    two = await start(redis=redis_server, disk=tmp_path / "disk")
    await one.embed("a text", ttl=SOON)
    await eventually(view(redis_server).entries)
    # Asking for more does not help: the entry is what it is.
    assert await two.tiers("a text", ttl=Duration(seconds=1000)) == ["WARM"]
    assert await two.tiers("a text", ttl=Duration(seconds=1000)) == ["HOT"]
    await eventually(lambda: not view(redis_server).entries())
    await gone(two)


async def test_a_stored_response_does_not_outlive_its_items(start: Start) -> None:
    sidecar = await start()
    await sidecar.embed("for long", ttl=Duration(seconds=1000))
    await sidecar.embed("a text", ttl=SOON)
    for _ in range(3):
        assert await sidecar.tiers("for long", "a text", **CACHED) == ["HOT", "HOT"]
    assert (await sidecar.stats()).response_hits == 2
    async with asyncio.timeout(20):
        while await sidecar.tiers("for long", "a text", **CACHED) != ["HOT", "ERROR"]:
            pass


@pytest.mark.parametrize(
    ("item", "input_type", "lifetime"),
    [
        ("a text", embed_pb2.INPUT_TYPE_UNSPECIFIED, DAY),
        ("a text", embed_pb2.INPUT_TYPE_QUERY, DAY),
        ("a text", embed_pb2.INPUT_TYPE_DOCUMENT, None),
        (
            embed_pb2.Input(entity=embed_pb2.Entity(id="doc", text="a text")),
            embed_pb2.INPUT_TYPE_UNSPECIFIED,
            None,
        ),
    ],
    ids=["text", "query", "document", "entity"],
)
async def test_the_default_lifetime_is_a_day_and_for_documents_endless(
    item: Any,
    input_type: embed_pb2.InputType.ValueType,
    lifetime: int | None,
    start: Start,
    redis_server: DevRedis,
    view: View,
) -> None:
    sidecar = await start(redis=redis_server)
    await sidecar.embed(item, input_type=input_type)
    await sidecar.stop()
    (key,) = view(redis_server).entries()
    left = view(redis_server).client.pttl(key)
    if lifetime is None:
        assert left == -1
    else:
        assert lifetime - 60_000 < left <= lifetime


async def test_the_lifetimes_of_each_kind_can_be_set(
    start: Start, redis_server: DevRedis, view: View
) -> None:
    cache = {"query_ttl": None, "document_ttl": "1h", "ttl_jitter": 0}
    sidecar = await start(redis=redis_server, cache=cache)
    await sidecar.embed("a text")
    await sidecar.embed("a text", input_type=embed_pb2.INPUT_TYPE_DOCUMENT, namespace="b")
    await sidecar.stop()
    seen = view(redis_server)
    lifetimes = sorted(seen.client.pttl(key) for key in seen.entries())
    assert lifetimes[0] == -1
    assert 3_540_000 < lifetimes[1] <= 3_600_000


async def test_a_hit_does_not_lengthen_a_lifetime(
    start: Start, redis_server: DevRedis, view: View, eventually: Eventually
) -> None:
    sidecar = await start(redis=redis_server)
    await sidecar.embed("a text", ttl=Duration(seconds=100))
    await eventually(view(redis_server).entries)
    await sidecar.flush()
    await sidecar.embed("a text", ttl=Duration(seconds=1000))
    await sidecar.stop()
    (key,) = view(redis_server).entries()
    assert 0 < view(redis_server).client.pttl(key) <= 100_000


async def test_jitter_spreads_lifetimes_and_only_shortens_them(
    start: Start, redis_server: DevRedis, view: View
) -> None:
    sidecar = await start(redis=redis_server, cache={"ttl_jitter": 0.5})
    await sidecar.embed(*(f"text {n}" for n in range(200)), ttl=Duration(seconds=1000))
    await sidecar.stop()
    seen = view(redis_server)
    lifetimes = [seen.client.pttl(key) for key in seen.entries()]
    assert len(lifetimes) == 200
    assert all(500_000 - 60_000 < lifetime <= 1_000_000 for lifetime in lifetimes)
    assert max(lifetimes) - min(lifetimes) > 300_000
