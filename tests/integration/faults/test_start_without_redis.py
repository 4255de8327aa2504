"""A sidecar that starts while Redis is away computes, and uses disk and Redis when it is back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from embercache.v1 import cache_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

    Start = Callable[..., Awaitable[Any]]


async def test_what_may_have_been_invalidated_meanwhile_is_not_served_until_redis_is_back(
    start: Start, own_redis: DevRedis, tmp_path: Path
) -> None:
    places: dict[str, Any] = {"redis": own_redis, "disk": tmp_path / "disk"}
    sidecar = await start(**places)
    await sidecar.embed("kept", "removed")
    await sidecar.on_disk(2)
    await sidecar.stop()
    # Another one removes an entry while this one is down.
    other = await start(redis=own_redis)
    await other.invalidate(inputs=["removed"])
    await other.stop()

    own_redis.freeze()
    sidecar = await start(**places, redis_timeout=0.05)
    assert await sidecar.tiers("kept", "removed", "new") == ["COMPUTED"] * 3
    assert await sidecar.tiers("kept", "removed", "new") == ["HOT"] * 3
    assert (await sidecar.stats()).warm.state == cache_pb2.WarmState.STATE_DOWN

    own_redis.thaw()
    async with asyncio.timeout(20):
        while await sidecar.tiers("kept") != ["DISK"]:
            await asyncio.sleep(0.01)
    assert await sidecar.tiers("removed") == ["COMPUTED"]
