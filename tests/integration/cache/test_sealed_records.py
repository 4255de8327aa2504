"""Records that sidecars share in Redis, sealed, and somebody else who writes there too."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import redis

from sidecar.cache.codec import Codec, encode_vector
from sidecar.cache.generations import Generations, StoreUnavailableError
from sidecar.cache.key_ring import KeyRing
from sidecar.cache.keys import Digests
from sidecar.cache.model_moves import LocalMoves, Move, Moves, dump_moves
from sidecar.cache.popular import PopularQueries
from sidecar.cache.redis_generations import RedisGenerations
from sidecar.cache.sealed_moves import SealedMoves
from sidecar.cache.sealing import Sealer
from sidecar.cache.seals import Seals
from sidecar.cache.semantic import SemanticIndex
from sidecar.cache.semantic_follower import SemanticFollower

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from sidecar.cache.warm import WarmTier
    from sidecar.dev_redis import DevRedis

    OpenWarm = Callable[..., Awaitable[WarmTier]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]
    Follow = Callable[..., Awaitable[Any]]

ONE, TWO = bytes([1]) * 32, bytes([2]) * 32


@dataclass
class Keys:
    """Keys that a test changes."""

    ring: KeyRing


class Sealing:
    """The seals of one sidecar, and its keys."""

    def __init__(self) -> None:
        self.keys = Keys(KeyRing("one", {"one": ONE}))
        self.seals = Seals(Sealer(self.keys))

    def of(self, what: Any, place: Any = "warm") -> Any:
        return self.seals.of(place, what)

    def refused(self) -> int:
        return sum(sum(each.counts.values()) for each in self.seals.refusals())


@pytest.fixture
def sealing() -> Sealing:
    return Sealing()


@pytest.fixture
def client(redis_server: DevRedis) -> Iterator[redis.Redis]:
    """Somebody with every right in Redis, and no key."""
    with redis.Redis.from_url(redis_server.url) as opened:
        yield opened


# Semantic matches

STREAM = "test:{state}:semantic"
SCOPE = b"s" * 16
MEANT, OTHER = np.random.default_rng(0).standard_normal((2, 384)).astype(np.float32)


@dataclass
class Side:
    """What one sidecar knows of the queries of others."""

    follower: SemanticFollower
    index: SemanticIndex

    def key_of(self, vector: Any, scope: bytes = SCOPE) -> bytes | None:
        matches = self.index.nearest(scope, vector, 1)
        return matches[0].key if matches and matches[0].similarity > 0.9 else None


@pytest.fixture
async def sides(
    redis_server: DevRedis, open_warm: OpenWarm, sealing: Sealing
) -> AsyncIterator[list[Side]]:
    """Two sidecars, of which the second refuses on its own account."""
    opened, tasks = [], []
    for each in (Sealing(), sealing):
        index = SemanticIndex(100, time.time)
        warm = await open_warm(redis_server.url)
        follower = SemanticFollower(warm, "test", index, 100, seal=each.of("semantic"))
        tasks.append(asyncio.create_task(follower.run()))
        opened.append(Side(follower, index))
    yield opened
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_semantic_matches_are_shared_and_their_vectors_do_not_show(
    sides: list[Side], client: redis.Redis, eventually: Eventually
) -> None:
    sides[0].follower.announce(SCOPE, MEANT, b"key", 0)
    await eventually(lambda: sides[1].key_of(MEANT))
    [(_, fields)] = client.xrange(STREAM)
    assert encode_vector(MEANT, Codec.INT8)[-64:] not in fields[b"v"]


@pytest.mark.parametrize(
    "change",
    [
        {b"v": encode_vector(OTHER, Codec.INT8)},
        {b"k": b"the key of another answer"},
        {b"s": b"t" * 16},
        {b"e": b"9999999999999"},
        {b"v": b""},
    ],
    ids=["vector", "key", "scope", "lifetime", "nothing"],
)
async def test_a_forged_semantic_match_is_not_heard_of(
    sides: list[Side],
    client: redis.Redis,
    sealing: Sealing,
    eventually: Eventually,
    change: dict[bytes, bytes],
) -> None:
    sides[0].follower.announce(SCOPE, MEANT, b"key", 0)
    await eventually(lambda: sides[1].key_of(MEANT))
    [(_, fields)] = client.xrange(STREAM)
    client.xadd(STREAM, fields | {b"f": b"somebody"} | change)
    await eventually(lambda: sealing.refused() == 1)
    assert sides[1].key_of(MEANT) == b"key"
    assert sides[1].key_of(OTHER) is None
    assert len(sides[1].index) == 1


# Popular queries

REQUESTS, COUNTS = "test:{state}:popular-requests", "test:{state}:popular"


@pytest.fixture
def popular(sealing: Sealing) -> Callable[[Any], PopularQueries]:
    def over(warm: WarmTier) -> PopularQueries:
        digests = Digests(b"salt")
        return PopularQueries(20, warm, "test", digests=digests, seal=sealing.of("popular"))

    return over


async def test_popular_queries_show_neither_texts_nor_digests_to_test_guesses_with(
    redis_server: DevRedis,
    open_warm: OpenWarm,
    client: redis.Redis,
    popular: Callable[[Any], PopularQueries],
) -> None:
    queries = popular(await open_warm(redis_server.url))
    queries.note("embed", "n", b"a secret text", 3)
    await queries.share()
    assert [(each.request, each.count) for each in await queries.top("n", 9)] == [
        (b"a secret text", 3)
    ]
    [name] = client.zrange(f"{COUNTS}:n", 0, -1)
    assert b"secret" not in (client.hget(f"{REQUESTS}:n", name) or b"secret")
    unsalted = PopularQueries(20, await open_warm(redis_server.url), "other")
    unsalted.note("embed", "n", b"a secret text", 3)
    await unsalted.share()
    [guess] = client.zrange("other:{state}:popular:n", 0, -1)
    assert name != guess


async def test_a_forged_popular_query_is_not_warmed_and_makes_room_for_the_true_one(
    redis_server: DevRedis,
    open_warm: OpenWarm,
    client: redis.Redis,
    popular: Callable[[Any], PopularQueries],
    sealing: Sealing,
) -> None:
    queries = popular(await open_warm(redis_server.url))
    for namespace in ("n", "m"):
        queries.note("embed", namespace, b"one", 3)
        queries.note("embed", namespace, b"two", 2)
    await queries.share()
    one, two = client.zrevrange(f"{COUNTS}:n", 0, -1)
    elsewhere = client.zrevrange(f"{COUNTS}:m", 0, 0)[0]
    before = client.hgetall(f"{REQUESTS}:n")
    client.hset(f"{REQUESTS}:n", one, b"embed\0forged")
    # From under another name, and from another namespace.
    client.hset(f"{REQUESTS}:n", two, before[one])
    client.zadd(f"{COUNTS}:n", {elsewhere: 9})
    client.hset(f"{REQUESTS}:n", elsewhere, client.hget(f"{REQUESTS}:m", elsewhere))
    assert await queries.top("n", 9) == []
    assert sealing.refused() == 3
    assert [each.request for each in await queries.top("m", 9)] == [b"one", b"two"]
    queries.note("embed", "n", b"one")
    await queries.share()
    assert [each.request for each in await queries.top("n", 9)] == [b"one"]
    # What it takes is known all the while.
    sizes = client.hget("test:{state}:popular-sizes", "n")
    assert sizes == client.hget(f"{REQUESTS}:n", "bytes")
    assert int(sizes) < int(before[b"bytes"])


# Changes of documents

TAG = b"t" * 16


async def test_changes_are_told_sealed(
    redis_server: DevRedis,
    open_warm: OpenWarm,
    client: redis.Redis,
    sealing: Sealing,
    follow: Follow,
    eventually: Eventually,
) -> None:
    def sidecar(seal: Any, warm: WarmTier) -> Generations:
        return Generations(RedisGenerations(warm, "test", seal=seal))

    seal = sealing.of("changes")
    one, two = [sidecar(seal, await open_warm(redis_server.url)) for _ in range(2)]
    state = await two.state("n")
    await follow(redis_server.url, two, seal=seal)
    await two.resolve(state, [TAG])
    before = state.generation(TAG)
    assert before is not None
    await one.announce("n", TAG, b"a secret change")
    await eventually(lambda: state.changes_since(TAG, before) == [b"a secret change"])
    messages = [fields for _, fields in client.xrange("test:{state}:invalidations")]
    assert b"secret" not in b"".join(value for each in messages for value in each.values())
    # Somebody says of another step, or of another tag, that nothing much has changed.
    sealed = next(each[b"c"] for each in messages if b"c" in each)
    now = state.generation(TAG)
    assert now is not None
    for forged in (b"\x01", sealed[:-1], sealed[::-1]):
        step = {b"n": b"n", b"f": b"tag:" + TAG.hex().encode(), b"c": forged}
        client.xadd("test:{state}:invalidations", step | {b"p": now, b"g": now + 1})
        now += 1
        await eventually(lambda now=now: state.generation(TAG) == now)
        assert state.changes_since(TAG, now - 1) is None
        assert state.changes_since(TAG, before) is None
    assert sealing.refused() == 3


# Moves of models

KEY = "test:{state}:sealed-models"
MOVE = Move("other", {})


@pytest.fixture
async def moves(redis_server: DevRedis, open_warm: OpenWarm, sealing: Sealing) -> SealedMoves:
    return SealedMoves(await open_warm(redis_server.url), "test", sealing.of("moves"))


async def test_forged_moves_are_as_if_there_were_none(
    moves: SealedMoves, client: redis.Redis, sealing: Sealing
) -> None:
    await moves.replace("name", None, MOVE)
    sealed = client.get(KEY)
    forgeries = [dump_moves(Moves(9, {"name": Move("evil", {})})), sealed[:-1], b"garbage"]
    forgeries.append(Sealing().of("entries").seal(KEY.encode(), dump_moves(Moves(9, {}))))
    forgeries.append(Sealing().of("moves").seal(b"elsewhere", dump_moves(Moves(9, {}))))
    for number, forgery in enumerate(forgeries, 1):
        client.set(KEY, forgery)
        assert await moves.load() is None
        assert sealing.refused() == number
    # Whoever knows better says so again.
    await moves.save(Moves(1, {"name": MOVE}))
    assert await moves.load() == Moves(1, {"name": MOVE})


async def test_changes_at_the_same_time_are_all_made(moves: SealedMoves) -> None:
    names = [f"name-{number}" for number in range(5)]
    assert await asyncio.gather(*(moves.replace(name, None, MOVE) for name in names)) == [True] * 5
    assert await moves.load() == Moves(5, dict.fromkeys(names, MOVE))


async def test_moves_outlive_the_key_that_they_were_sealed_with(
    moves: SealedMoves, sealing: Sealing
) -> None:
    await moves.replace("name", None, MOVE)
    sealing.keys.ring = KeyRing("two", {"two": TWO, "one": ONE})
    await moves.load()
    sealing.keys.ring = KeyRing("two", {"two": TWO})
    assert await moves.load() == Moves(1, {"name": MOVE})
    assert sealing.refused() == 0


async def test_a_sealed_value_that_is_no_move_is_told_of(
    moves: SealedMoves, client: redis.Redis, sealing: Sealing
) -> None:
    client.set(KEY, sealing.of("moves").seal(KEY.encode(), b"[]"))
    with pytest.raises(StoreUnavailableError):
        await moves.load()


async def test_the_file_of_moves_is_sealed_and_outlives_its_key(
    tmp_path: Path, sealing: Sealing
) -> None:
    file, seal = tmp_path / "models.json", sealing.of("moves", "disk")
    await LocalMoves(file, seal=seal).replace("name", None, MOVE)
    assert b"other" not in file.read_bytes()
    running = LocalMoves(file, seal=seal)
    assert await running.load() == Moves(1, {"name": MOVE})
    sealing.keys.ring = KeyRing("two", {"two": TWO, "one": ONE})
    await running.load()
    sealing.keys.ring = KeyRing("two", {"two": TWO})
    assert await LocalMoves(file, seal=seal).load() == Moves(1, {"name": MOVE})
    assert sealing.refused() == 0


async def test_a_forged_file_of_moves_is_as_if_there_were_none(
    tmp_path: Path, sealing: Sealing
) -> None:
    file, seal = tmp_path / "models.json", sealing.of("moves", "disk")
    file.write_bytes(dump_moves(Moves(3, {"name": Move("evil", {})})))
    store = LocalMoves(file, seal=seal)
    assert await store.load() == Moves(0, {})
    assert sealing.refused() == 1
    assert await store.replace("name", None, MOVE)
    assert await LocalMoves(file, seal=seal).load() == Moves(1, {"name": MOVE})
