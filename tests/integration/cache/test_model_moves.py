"""Which names mean other models, kept in Redis or in a file."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from sidecar.cache.generations import StoreUnavailableError
from sidecar.cache.model_moves import LocalMoves, Move, MoveStore, RedisMoves

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sidecar.cache.warm import WarmTier
    from sidecar.dev_redis import DevRedis

    OpenWarm = Callable[..., Awaitable[WarmTier]]

MOVE = Move("other", "1f", ("index",))


@pytest.fixture(params=["redis", "file", "memory"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, redis_server: DevRedis, open_warm: OpenWarm
) -> MoveStore:
    if request.param == "redis":
        return RedisMoves(await open_warm(redis_server.url), "test")
    return LocalMoves(tmp_path / "models.json" if request.param == "file" else None)


async def test_there_are_no_moves_at_first(store: MoveStore) -> None:
    assert not await store.load()


async def test_a_move_is_there_until_it_is_taken_back(store: MoveStore) -> None:
    assert await store.replace("name", None, MOVE)
    assert await store.load() == {"name": MOVE}
    ended = replace(MOVE, ended=True, indexes=("index", "second"))
    assert await store.replace("name", MOVE, ended)
    assert await store.load() == {"name": ended}
    assert await store.replace("name", ended, None)
    assert await store.load() == {}


async def test_a_change_by_one_who_does_not_know_the_last_one_is_not_made(
    store: MoveStore,
) -> None:
    await store.replace("name", None, MOVE)
    late = replace(MOVE, to="third")
    assert not await store.replace("name", None, late)
    assert not await store.replace("name", late, None)
    assert await store.load() == {"name": MOVE}


async def test_the_file_outlives_the_sidecar(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "models.json"
    await LocalMoves(file).replace("name", None, MOVE)
    assert await LocalMoves(file).load() == {"name": MOVE}


@pytest.mark.parametrize("content", [b"", b"[]", b'{"name": 1}', b'{"name": "{}"}', b"\xff"])
async def test_a_damaged_file_is_told_of(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "models.json"
    file.write_bytes(content)
    with pytest.raises(StoreUnavailableError, match=r"models\.json cannot be read"):
        await LocalMoves(file).load()


async def test_a_folder_that_cannot_be_written_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailableError, match="cannot be written"):
        await LocalMoves(tmp_path / "file" / "models.json").save({"name": MOVE})


async def test_a_redis_that_lost_its_state_is_not_one_without_moves(
    redis_server: DevRedis, open_warm: OpenWarm
) -> None:
    warm = await open_warm(redis_server.url)
    store = RedisMoves(warm, "test")
    assert await store.load() is None
    await store.replace("name", None, MOVE)
    await store.replace("name", MOVE, None)
    assert await store.load() == {}
    await warm.run(lambda client: client.flushall())
    assert await store.load() is None


async def test_something_else_in_redis_is_told_of(
    redis_server: DevRedis, open_warm: OpenWarm
) -> None:
    warm = await open_warm(redis_server.url)
    store = RedisMoves(warm, "test")
    await store.replace("name", None, MOVE)
    await warm.run(lambda client: client.hset("test:{state}:models", "name", "?"))
    with pytest.raises(StoreUnavailableError):
        await store.load()


async def test_a_redis_that_is_down_is_told_of(own_redis: DevRedis, open_warm: OpenWarm) -> None:
    store = RedisMoves(await open_warm(own_redis.url), "test")
    own_redis.kill()
    with pytest.raises(StoreUnavailableError):
        await store.load()
    with pytest.raises(StoreUnavailableError):
        await store.replace("name", None, MOVE)
