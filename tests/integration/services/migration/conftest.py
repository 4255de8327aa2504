"""Sidecars of two models, whose names are moved about, and who hear of it at once."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import cache_pb2

import sidecar.open_ahead
import sidecar.services.model_migration
import sidecar.services.model_moves
import sidecar.services.move_completion
from sidecar.services.move_completion import MoveCompletion

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

HANG_GUARD = 30.0


class Moving:
    """A client of a sidecar, with what these tests ask of it."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def migrate(self, to: str = "other", **fields: Any) -> list[Any]:
        """The messages of a migration of the first model."""
        request = cache_pb2.MigrateModelRequest(to=to, **fields)
        return [m async for m in self.caches.MigrateModel(request, timeout=HANG_GUARD)]

    async def rollback(self, model: str = "") -> None:
        request = cache_pb2.RollbackModelRequest(model=model)
        await self.caches.RollbackModel(request, timeout=HANG_GUARD)

    async def model(self, **fields: Any) -> str:
        """The model that answers."""
        return (await self.embed("a text", **fields)).model

    async def until_model(self, name: str) -> None:
        async with asyncio.timeout(HANG_GUARD):
            while await self.model() != name:
                await asyncio.sleep(0.01)

    async def documents(self, **fields: Any) -> dict[str, str]:
        """All documents, as a search finds them."""
        fields = {"top_k": 100, "mode": "CACHE_MODE_BYPASS"} | fields
        response = await self.search("anything", **fields)
        return {result.id: result.content for result in response.results}

    async def until_documents(self, wanted: dict[str, str]) -> None:
        async with asyncio.timeout(HANG_GUARD):
            while await self.documents() != wanted:
                await asyncio.sleep(0.01)


@pytest.fixture
def start(start: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Moving]]:
    async def start_moving(**options: Any) -> Moving:
        return Moving(await start(**options))

    return start_moving


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sidecars hear of moves at once, so that nobody has to wait for seconds."""
    for module in (
        sidecar.services.model_moves,
        sidecar.services.model_migration,
        sidecar.services.move_completion,
    ):
        monkeypatch.setattr(module, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(sidecar.services.move_completion, "_RETRY_SECONDS", 0.02)
    monkeypatch.setattr(sidecar.open_ahead, "SETTLE_SECONDS", 0)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Sidecars wait for this, instead of some time, after a move."""
    settled = asyncio.Event()

    async def wait(seconds: float) -> None:
        await settled.wait()

    waiting = partial(MoveCompletion, sleep=wait)
    monkeypatch.setattr(sidecar.open_ahead, "MoveCompletion", waiting)
    return settled


@pytest.fixture
def packs(tiny_pack: Path, make_pack: Callable[..., Path]) -> list[Path]:
    """Two models: "tiny", which is the default, and "other"."""
    return [tiny_pack, make_pack("second", "other", seed=1)]


@pytest.fixture
def fleet(packs: list[Path], redis_server: DevRedis) -> dict[str, Any]:
    """Settings of sidecars that share documents too."""
    return {"packs": packs, "redis": redis_server, "index": {"url": redis_server.url}}


@pytest.fixture
def texts() -> dict[str, str]:
    return {name: f"a text on {name}" for name in ("ants", "bees", "cats", "dogs")}


@pytest.fixture
def until() -> Callable[[Callable[[], Awaitable[object]]], Awaitable[None]]:
    async def until(condition: Callable[[], Awaitable[object]]) -> None:
        async with asyncio.timeout(HANG_GUARD):
            while not await condition():
                await asyncio.sleep(0.01)

    return until


@pytest.fixture
def refusal() -> Callable[[Awaitable[Any]], Awaitable[tuple[str, str]]]:
    """The status and the message with which a call ends."""

    async def refusal(call: Awaitable[Any]) -> tuple[str, str]:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        return error.value.code().name, error.value.details()

    return refusal
