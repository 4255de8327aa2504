"""Which names mean other models, kept in Redis or in a file."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from sidecar.cache.generations import StoreUnavailableError
from sidecar.cache.key_ring import KeyRing
from sidecar.cache.model_moves import Copy, LocalMoves, Move, Moves, MoveStore, RedisMoves
from sidecar.cache.sealed_moves import SealedMoves
from sidecar.cache.sealing import Sealer
from sidecar.cache.seals import Seals

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sidecar.cache.warm import WarmTier
    from sidecar.dev_redis import DevRedis

    OpenWarm = Callable[..., Awaitable[WarmTier]]

CONTENTS = [
    b"",
    b"[]",
    b"\xff",
    b"{}",
    b'{"generation": 1, "moves": []}',
    b'{"generation": 1, "moves": {"name": {"to": "other"}}}',
    b'{"generation": 1, "moves": {"name": {"to": "other", "copies": {"index": {"source": "x"}}}}}',
]
COPY = Copy(("name", "1"), ("other", "1f"), ("other", "1f"))
MOVE = Move("other", {"index": COPY})


class Keys:
    """A key that does not change."""

    ring = KeyRing("k1", {"k1": bytes(32)})


@pytest.fixture(params=["redis", "sealed redis", "file", "sealed file", "memory"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, redis_server: DevRedis, open_warm: OpenWarm
) -> MoveStore:
    if request.param == "redis":
        return RedisMoves(await open_warm(redis_server.url), "test")
    seals = Seals(Sealer(Keys()))
    if request.param == "sealed redis":
        warm = await open_warm(redis_server.url)
        return SealedMoves(warm, "test", seals.of("warm", "moves"))
    if request.param == "sealed file":
        return LocalMoves(tmp_path / "models.json", seal=seals.of("disk", "moves"))
    return LocalMoves(tmp_path / "models.json" if request.param == "file" else None)


async def moves(store: MoveStore) -> object:
    held = await store.load()
    return held and held.moves


async def test_there_are_no_moves_at_first(store: MoveStore) -> None:
    assert not await moves(store)


async def test_a_move_is_there_until_it_is_taken_back(store: MoveStore) -> None:
    assert await store.replace("name", None, MOVE)
    assert await moves(store) == {"name": MOVE}
    done = replace(COPY, finished=True, ended=True, left=3)
    ended = Move("", {"index": done, "second": COPY})
    assert await store.replace("name", MOVE, ended)
    assert await moves(store) == {"name": ended}
    assert await store.replace("name", ended, None)
    assert await moves(store) == {}


async def test_a_change_by_one_who_does_not_know_the_last_one_is_not_made(
    store: MoveStore,
) -> None:
    await store.replace("name", None, MOVE)
    late = replace(MOVE, to="third")
    assert not await store.replace("name", None, late)
    assert not await store.replace("name", late, None)
    assert await moves(store) == {"name": MOVE}


async def test_a_change_whose_answer_was_lost_can_be_asked_for_again(store: MoveStore) -> None:
    for old, new in ((None, MOVE), (MOVE, None)):
        assert await store.replace("name", old, new)
        assert await store.replace("name", old, new)


async def test_each_change_makes_a_newer_generation(store: MoveStore) -> None:
    seen = []
    for old, new, known in ((None, MOVE, 0), (MOVE, None, 0), (None, MOVE, 7)):
        await store.replace("name", old, new, known)
        held = await store.load()
        assert held is not None
        seen.append(held.generation)
    assert seen == [1, 2, 8]


async def test_newer_moves_take_the_place_of_all_that_are_there(store: MoveStore) -> None:
    await store.replace("name", None, MOVE)
    newer = Moves(2, {"second": MOVE, "third": MOVE})
    await store.save(newer)
    assert await store.load() == newer
    await store.save(Moves(3, {}))
    assert await store.load() == Moves(3, {})


async def test_older_moves_do_not_take_the_place_of_those_in_redis(
    redis_server: DevRedis, open_warm: OpenWarm
) -> None:
    store = RedisMoves(await open_warm(redis_server.url), "test")
    await store.save(Moves(3, {"name": MOVE}))
    for generation in (2, 3):
        await store.save(Moves(generation, {}))
    assert await store.load() == Moves(3, {"name": MOVE})


async def test_the_file_outlives_the_sidecar(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "models.json"
    await LocalMoves(file).replace("name", None, MOVE)
    assert await LocalMoves(file).load() == Moves(1, {"name": MOVE})


@pytest.mark.parametrize("content", CONTENTS)
async def test_a_damaged_file_is_told_of(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "models.json"
    file.write_bytes(content)
    with pytest.raises(StoreUnavailableError, match=r"models\.json cannot be read"):
        await LocalMoves(file).load()


async def test_a_folder_that_cannot_be_written_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailableError, match="cannot be written"):
        await LocalMoves(tmp_path / "file" / "models.json").save(Moves(1, {"name": MOVE}))


async def test_a_redis_that_lost_its_state_is_not_one_without_moves(
    redis_server: DevRedis, open_warm: OpenWarm
) -> None:
    warm = await open_warm(redis_server.url)
    store = RedisMoves(warm, "test")
    assert await store.load() is None
    await store.replace("name", None, MOVE)
    await store.replace("name", MOVE, None)
    assert await store.load() == Moves(2, {})
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
