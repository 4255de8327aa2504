"""What `embercache plan` says of Redis, against what a real Redis says of itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.cache.codec import Codec
from sidecar.cache.redis_connect import connect
from sidecar.plan import Workload, example_entry, plan

if TYPE_CHECKING:
    from sidecar.dev_redis import DevRedis

_PIPELINE = 2000


@pytest.mark.parametrize("count", [20_000, 30_000], ids=["tables half full", "tables full"])
@pytest.mark.parametrize(
    ("dimensions", "codec"),
    [(384, Codec.FLOAT32), (384, Codec.INT8), (768, Codec.FLOAT16)],
    ids=lambda value: getattr(value, "name", str(value)),
)
async def test_an_entry_takes_as_much_of_redis_as_planned(
    redis_server: DevRedis, dimensions: int, codec: Codec, count: int
) -> None:
    work = Workload(count, dimensions, codec, hit_rate=0.5, hit_ms=1, miss_ms=2)
    key, value = example_entry(work)
    client: Any = connect(redis_server.url, connect_timeout=5)
    try:
        before = (await client.info("memory"))["used_memory"]
        for start in range(0, count, _PIPELINE):
            pipeline = client.pipeline(transaction=False)
            for _ in range(start, min(start + _PIPELINE, count)):
                name = key[:-32] + os.urandom(16).hex().encode()
                pipeline.execute_command("SET", name, value, "PX", 86_400_000)
            await pipeline.execute()
        used = (await client.info("memory"))["used_memory"] - before
    finally:
        await client.aclose()
    assert used / count == pytest.approx(plan(work).redis_entry_bytes, rel=0.1)
