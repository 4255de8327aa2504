"""Fixtures for all tests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import onnx
import pytest
from hypothesis import settings
from onnx import helper, numpy_helper

from sidecar.cache.breaker import Breaker
from sidecar.cache.redis_connect import connect
from sidecar.cache.warm import WarmTier
from sidecar.dev_redis import DevRedis
from sidecar.models.packs import default_folder
from sidecar.models.pull import pull

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

# A busy machine is no failure.
settings.register_profile("embercache", deadline=None)
settings.load_profile("embercache")


@pytest.fixture(scope="session")
def save_graph() -> Callable[..., None]:
    """Writes a small ONNX graph; inputs and outputs have a type and a shape each."""

    def save(
        path: Path,
        nodes: Sequence[onnx.NodeProto],
        inputs: dict[str, tuple[int, Sequence[Any]]],
        outputs: dict[str, tuple[int, Sequence[Any]]],
        constants: dict[str, NDArray[Any]],
    ) -> None:
        def infos(specs: dict[str, tuple[int, Sequence[Any]]]) -> list[onnx.ValueInfoProto]:
            return [helper.make_tensor_value_info(name, *spec) for name, spec in specs.items()]

        tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
        graph = helper.make_graph(nodes, "test", infos(inputs), infos(outputs), tensors)
        opsets = [helper.make_opsetid("", 18)]
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(helper.make_model(graph, ir_version=8, opset_imports=opsets), path)

    return save


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The pack minilm in the default folder, pulled if it is not there."""
    return pull("minilm", default_folder(), lambda stage, done, total: None)


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[DevRedis]:
    """One real Redis for the whole run; use ``redis_server``, which empties it first."""
    with DevRedis() as server:
        yield server


@pytest.fixture
async def redis_server(shared_redis: DevRedis) -> DevRedis:
    """A real Redis without data. Not to be killed or frozen: take ``own_redis`` for that."""
    client = connect(shared_redis.url, connect_timeout=5)
    await client.flushall()
    await client.config_resetstat()
    await client.aclose()
    return shared_redis


@pytest.fixture
def own_redis() -> Iterator[DevRedis]:
    """A real Redis for this test alone."""
    with DevRedis() as server:
        yield server


@pytest.fixture
async def open_warm() -> AsyncIterator[Callable[..., Awaitable[WarmTier]]]:
    """Opens warm tiers that probe a Redis that is down without much delay; closes them."""
    tiers: list[WarmTier] = []

    async def open_tier(url: str, **options: Any) -> WarmTier:
        breaker = Breaker("redis", failures=3, first_seconds=0.01, longest_seconds=0.05)
        options = {"timeout": 5.0, "breaker": breaker} | options
        tier = WarmTier(connect(url, connect_timeout=1), **options)
        tiers.append(tier)
        await tier.start()
        return tier

    yield open_tier
    for tier in tiers:
        await tier.close()


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Waits until something is so; a test that would wait too long fails."""

    async def wait(condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.005)

    return wait
