"""Somebody who may do everything in Redis and on the disk, but has no key, against whole sidecars.

Where it is not clear that an attack would work, the same is done to sidecars that do not encrypt.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import redis
from embercache.v1 import cache_pb2, common_pb2, search_pb2
from pydantic import ValidationError

import sidecar.files_in_use
from sidecar.cache.codec import Codec, Entry, Value, encode_vector, pack
from sidecar.cache.key_ring import KeyRing
from sidecar.cache.model_moves import Move, Moves, dump_moves
from sidecar.cache.sealing import Sealer
from sidecar.models.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

    Start = Callable[..., Awaitable[Any]]
    Change = Callable[["Attacker", bytes, bytes], bytes]

HANG_GUARD = 30.0
KEYS = {"k1": bytes([1]) * 32, "k2": bytes([2]) * 32}
FILL = cache_pb2.WarmRequest.Popular(count=100)
STREAM = "embercache:{state}:semantic"


def write_keys(file: Path, *names: str) -> None:
    lines = [f"{name}:{base64.b64encode(KEYS[name]).decode()}" for name in names]
    file.write_text("\n".join(lines))


class StrangersKeys:
    """What somebody without the key has: one of his own, under the same name."""

    ring = KeyRing("k1", {"k1": bytes([9]) * 32})


class Attacker:
    """Every right in Redis."""

    def __init__(self, server: DevRedis) -> None:
        self.client: Any = redis.Redis.from_url(server.url)

    def entries(self, kind: str = "embed") -> list[bytes]:
        return sorted(self.client.keys(f"embercache:{kind}:*"))

    async def wait_for(self, count: int, kind: str = "embed") -> list[bytes]:
        """The keys of entries, once there are so many."""
        async with asyncio.timeout(HANG_GUARD):
            while len(keys := self.entries(kind)) != count:
                await asyncio.sleep(0.005)
        return keys


@pytest.fixture
def attacker(redis_server: DevRedis) -> Iterator[Attacker]:
    opened = Attacker(redis_server)
    yield opened
    opened.client.close()


@pytest.fixture
def sealed(tmp_path: Path) -> dict[str, Any]:
    """The settings of a sidecar that encrypts."""
    write_keys(tmp_path / "keys", "k1")
    return {"encryption": {"keys_file": tmp_path / "keys"}, "cache": {"salt": "a salt"}}


async def refused(client: Any, tier: str = "WARM") -> Counter[str]:
    """How many values of a tier were refused, by what they were."""
    counts: Counter[str] = Counter()
    for each in (await client.stats()).forged:
        if common_pb2.Tier.Name(each.tier) == f"TIER_{tier}" and each.count:
            counts[each.what] += each.count
    return counts


async def until_refused(client: Any, what: str, count: int) -> None:
    async with asyncio.timeout(HANG_GUARD):
        while (await refused(client))[what] != count:
            await asyncio.sleep(0.005)


# Vectors


def wrong_value(_: Attacker, key: bytes, __: bytes) -> bytes:
    """A value with everything right about it but the vector."""
    payload = encode_vector(np.ones(8, np.float32), Codec.FLOAT32)
    value = Value(payload, Codec.FLOAT32, 8, 1, truncated=False)
    return pack(Entry(value, int(time.time() * 1000), 0), key)


FORGERIES: dict[str, Change] = {
    "plain value with the right checksum": wrong_value,
    "sealed with the key of a stranger": lambda attacker, key, other: Sealer(StrangersKeys()).seal(
        b"entries", key, wrong_value(attacker, key, other)
    ),
    "of another text": lambda attacker, key, other: attacker.client.get(other),
    "cut short": lambda attacker, key, other: attacker.client.get(key)[:-1],
    "cut to its head": lambda attacker, key, other: attacker.client.get(key)[:30],
    "ends of two values": lambda attacker, key, other: (
        attacker.client.get(key)[:50] + attacker.client.get(other)[50:]
    ),
    "garbage": lambda attacker, key, other: b"\xe5garbage" * 20,
    "nothing": lambda attacker, key, other: b"",
}


@pytest.mark.parametrize("change", FORGERIES.values(), ids=FORGERIES)
@pytest.mark.threat(
    "Who writes to Redis or the disk forges a vector, copies one to another key, or cuts it short"
)
async def test_a_forged_vector_is_never_served(
    start: Start,
    redis_server: DevRedis,
    attacker: Attacker,
    sealed: dict[str, Any],
    change: Change,
) -> None:
    client = await start(redis=redis_server, **sealed)
    (truth,) = await client.vectors("one")
    [key] = await attacker.wait_for(1)
    await client.embed("two")
    [other] = set(await attacker.wait_for(2)) - {key}
    attacker.client.set(key, change(attacker, key, other))
    await client.flush()
    response = (await client.embed("one")).embeddings[0]
    assert (response.tier, response.vector) == (common_pb2.TIER_COMPUTED, truth)
    assert await refused(client) == {"entries": 1}
    # What was computed has taken its place.
    other_sidecar = await start(redis=redis_server, **sealed)
    await attacker.wait_for(2)
    assert await other_sidecar.vectors("one", "two") == [truth, *await client.vectors("two")]
    assert await refused(other_sidecar) == {}


async def test_without_encryption_a_forged_vector_is_served(
    start: Start, redis_server: DevRedis, attacker: Attacker
) -> None:
    client = await start(redis=redis_server)
    (truth,) = await client.vectors("one")
    [key] = await attacker.wait_for(1)
    attacker.client.set(key, wrong_value(attacker, key, b""))
    await client.flush()
    assert await client.vectors("one") != [truth]


@pytest.mark.threat(
    "Who writes to Redis or the disk forges a vector, copies one to another key, or cuts it short"
)
async def test_a_value_of_another_namespace_is_never_served(
    start: Start, redis_server: DevRedis, attacker: Attacker, sealed: dict[str, Any]
) -> None:
    client = await start(redis=redis_server, **sealed)
    for namespace in ("a", "b"):
        await client.embed("one", namespace=namespace)
    one, two = await attacker.wait_for(2)
    swapped = attacker.client.mget(two, one)
    attacker.client.mset(dict(zip((one, two), swapped, strict=True)))
    await client.flush()
    for namespace in ("a", "b"):
        assert await client.tiers("one", namespace=namespace) == ["COMPUTED"]
    assert await refused(client) == {"entries": 2}


@pytest.mark.threat(
    "Who writes to Redis or the disk forges a vector, copies one to another key, or cuts it short"
)
async def test_a_forged_vector_on_disk_is_never_served(
    start: Start, tmp_path: Path, sealed: dict[str, Any]
) -> None:
    import sqlite3

    folder = tmp_path / "disk"
    client = await start(disk=folder, **sealed)
    truths = await client.vectors("one", "two")
    await client.on_disk(2)
    await client.stop()
    with sqlite3.connect(folder / "entries.db") as db:
        (one, first), (two, second) = db.execute("SELECT key, value FROM entries").fetchall()
        for key, value in ((one, second), (two, first)):
            db.execute("UPDATE entries SET value = ? WHERE key = ?", (value, key))
    db.close()
    client = await start(disk=folder, **sealed)
    assert await client.tiers("one", "two") == ["COMPUTED", "COMPUTED"]
    assert await client.vectors("one", "two") == truths
    assert await refused(client, "DISK") == {"entries": 2}


# Values from before an invalidation


@pytest.mark.threat("Who writes to Redis puts back a value from before an invalidation")
async def test_a_value_from_before_the_invalidation_of_its_tag_is_not_served(
    start: Start,
    redis_server: DevRedis,
    attacker: Attacker,
    sealed: dict[str, Any],
    noisy_pack: Path,
) -> None:
    client = await start(redis=redis_server, packs=[noisy_pack], **sealed)
    (before,) = await client.vectors("one", tags=["t"])
    [key] = await attacker.wait_for(1)
    old = attacker.client.get(key)
    await client.invalidate(tags=["t"])
    (after,) = await client.vectors("one", tags=["t"])
    assert after != before
    for asked in (client, await start(redis=redis_server, packs=[noisy_pack], **sealed)):
        attacker.client.set(key, old)
        await asked.flush()
        assert await asked.tiers("one", tags=["t"]) == ["COMPUTED"]


@pytest.mark.threat("Who writes to Redis puts back a value from before an invalidation")
async def test_a_value_from_before_the_invalidation_of_its_namespace_is_not_served(
    start: Start, redis_server: DevRedis, attacker: Attacker, sealed: dict[str, Any]
) -> None:
    client = await start(redis=redis_server, **sealed)
    await client.embed("one")
    [old] = await attacker.wait_for(1)
    await client.invalidate()
    await client.embed("one")
    [new] = set(await attacker.wait_for(2)) - {old}
    attacker.client.set(new, attacker.client.get(old))
    await client.flush()
    assert await client.tiers("one") == ["COMPUTED"]
    assert await refused(client) == {"entries": 1}


async def test_the_vector_of_an_older_text_of_an_entity_is_not_served(
    start: Start, redis_server: DevRedis, attacker: Attacker, sealed: dict[str, Any]
) -> None:
    from embercache.v1 import embed_pb2

    client = await start(redis=redis_server, **sealed)
    old, new = (
        embed_pb2.Input(entity=embed_pb2.Entity(id="7", text=text)) for text in ("old", "new")
    )
    await client.embed(old)
    [key] = await attacker.wait_for(1)
    value = attacker.client.get(key)
    (truth,) = await client.vectors(new)
    attacker.client.set(key, value)
    await client.flush()
    response = (await client.embed(new)).embeddings[0]
    assert (response.tier, response.vector) == (common_pb2.TIER_COMPUTED, truth)


# Invalidations


def _event(**fields: Any) -> dict[str, Any]:
    return {"n": "default", "f": "epoch", "g": 1} | fields


FORGED_EVENTS = {
    "an epoch of the future": _event(g=9 * 10**15),
    "an epoch of the past": _event(g=1),
    "an epoch beyond numbers": _event(g=10**100),
    "no number": _event(g="x"),
    "a tag": _event(f="tag:" + "0" * 32, g=9 * 10**15),
    "no tag": _event(f="tag:zz"),
    "a base": _event(f="base", g=9 * 10**15),
    "no name": {"n": b"\xff", "k": "x"},
    "nothing known": {"x": "y"},
}


@pytest.mark.parametrize("event", FORGED_EVENTS.values(), ids=FORGED_EVENTS)
@pytest.mark.threat("Who writes to Redis forges an invalidation")
async def test_a_forged_invalidation_costs_hits_and_never_a_right_answer(
    start: Start,
    redis_server: DevRedis,
    attacker: Attacker,
    sealed: dict[str, Any],
    event: dict[str, Any],
) -> None:
    one, two = [await start(redis=redis_server, **sealed) for _ in range(2)]
    (truth,) = await one.vectors("one", tags=["t"])
    attacker.client.xadd("embercache:{state}:invalidations", event)
    # Later ones, which are none of his, are obeyed all the same.
    await two.invalidate(tags=["t"])
    async with asyncio.timeout(HANG_GUARD):
        while True:
            response = (await one.embed("one", tags=["t"])).embeddings[0]
            assert response.vector == truth
            if response.tier == common_pb2.TIER_COMPUTED:
                break


@pytest.mark.parametrize("epoch", ["inf", "nan", "x", "-1", "9" * 50])
@pytest.mark.threat("Who writes to Redis forges an invalidation")
async def test_state_that_makes_no_sense_costs_hits_and_never_a_right_answer(
    start: Start,
    redis_server: DevRedis,
    attacker: Attacker,
    sealed: dict[str, Any],
    epoch: str,
) -> None:
    one = await start(redis=redis_server, **sealed)
    (truth,) = await one.vectors("one")
    [key] = attacker.client.keys("embercache:{state}:namespace:default")
    attacker.client.hset(key, mapping={"epoch": epoch, "base": epoch})
    two = await start(redis=redis_server, **sealed)
    for client in (one, two):
        assert await client.vectors("one") == [truth]
        assert await client.vectors("one", tags=["t"]) == [truth]


# Answers of every kind


@pytest.mark.threat(
    "Who writes to Redis or the disk forges a vector, copies one to another key, or cuts it short"
)
async def test_answers_of_every_kind_are_not_mixed_up(
    start: Start,
    redis_server: DevRedis,
    attacker: Attacker,
    sealed: dict[str, Any],
    openai_server: Any,
) -> None:
    openai_server.says = lambda body: [body["messages"][-1]["content"].upper()]
    generator = {"target": openai_server.target, "packs": ["loud"]}
    client = await start(redis=redis_server, generator=generator, **sealed)
    await client.upsert({"a": "ants", "b": "bees"})

    async def ask() -> list[Any]:
        searches = [await client.search(text, top_k=1) for text in ("ant", "bee")]
        said = [await client.generate([("user", text)], temperature=0) for text in ("one", "two")]
        ranks = [
            await client.searches.Rerank(search_pb2.RerankRequest(query=q, passages=["a", "zz"]))
            for q in ("ant", "bee")
        ]
        return [
            [[r.id for r in each.results] for each in searches],
            [each.text for each in said],
            [[score.score for score in each.scores] for each in ranks],
        ]

    truth = await ask()
    assert truth[1] == ["ONE", "TWO"]
    counts = {"search": 2, "generate": 2, "rerank": 4}
    for kind, count in counts.items():
        keys = await attacker.wait_for(count, kind)
        values = attacker.client.mget(keys)
        attacker.client.mset(dict(zip(keys, [*values[1:], values[0]], strict=True)))
    await client.flush()
    assert await ask() == truth
    assert await refused(client) == {"entries": sum(counts.values())}


# Semantic matches


@pytest.mark.parametrize("encrypts", [True, False])
@pytest.mark.threat("Who writes to Redis forges a semantic match")
async def test_a_forged_semantic_match_answers_nobody_where_records_are_sealed(
    start: Start,
    redis_server: DevRedis,
    attacker: Attacker,
    sealed: dict[str, Any],
    openai_server: Any,
    encrypts: bool,
) -> None:
    asked, unrelated = "how do I mute a chat?", "zzzz"
    openai_server.says = lambda body: [body["messages"][-1]["content"].upper()]
    on = common_pb2.SemanticOptions(mode=common_pb2.SemanticOptions.MODE_ON, threshold=0.9)
    client = await start(
        redis=redis_server,
        generator={"target": openai_server.target, "packs": ["loud"]},
        **sealed if encrypts else {},
    )

    async def said(text: str) -> str:
        fields = {"mode": common_pb2.CACHE_MODE_NO_STORE, "semantic": on, "temperature": 0}
        return str((await client.generate([("user", text)], **fields)).text)

    await client.generate([("user", asked)], semantic=on, temperature=0)
    assert await said(unrelated) == unrelated.upper()
    async with asyncio.timeout(HANG_GUARD):
        while not (messages := attacker.client.xrange(STREAM)):
            await asyncio.sleep(0.005)
    vector = np.frombuffer((await client.vectors(unrelated))[0], np.float32)
    forged = {b"v": encode_vector(vector, Codec.INT8), b"f": b"somebody"}
    attacker.client.xadd(STREAM, messages[0][1] | forged)
    if encrypts:
        await until_refused(client, "semantic", 1)
        assert await said(unrelated) == unrelated.upper()
        return
    async with asyncio.timeout(HANG_GUARD):
        while await said(unrelated) != asked.upper():
            await asyncio.sleep(0.005)


# Popular queries


@pytest.mark.parametrize("encrypts", [True, False])
@pytest.mark.threat("Who writes to Redis forges popular queries")
async def test_forged_popular_queries_are_not_warmed_where_they_are_sealed(
    start: Start,
    redis_server: DevRedis,
    attacker: Attacker,
    sealed: dict[str, Any],
    encrypts: bool,
) -> None:
    sections = {"popular": {"queries": 100}} | (sealed if encrypts else {})
    one = await start(redis=redis_server, **sections)
    await one.embed("one")
    await one.embed("two")
    await one.stop()
    requests = "embercache:{state}:popular-requests:default"
    name = attacker.client.zrange("embercache:{state}:popular:default", 0, 0)[0]
    evil = one.request("evil").SerializeToString()
    attacker.client.hset(requests, name, b"embed\0" + evil)
    two = await start(redis=redis_server, **sections)
    call = two.caches.Warm(cache_pb2.WarmRequest(popular=FILL), timeout=HANG_GUARD)
    assert [message async for message in call][-1].total == (1 if encrypts else 2)
    assert await two.tiers("evil") == ["COMPUTED" if encrypts else "HOT"]
    assert await refused(two) == ({"popular": 1} if encrypts else {})


# Moves of models


@pytest.mark.parametrize("encrypts", [True, False])
@pytest.mark.threat("Who writes to Redis says that a name means another model, or what a model is")
async def test_a_forged_move_is_not_obeyed_where_moves_are_sealed(
    start: Start,
    redis_server: DevRedis,
    attacker: Attacker,
    sealed: dict[str, Any],
    tiny_pack: Path,
    make_pack: Callable[..., Path],
    encrypts: bool,
) -> None:
    move = '{"to": "second", "copies": {}}'
    attacker.client.hset("embercache:{state}:models", mapping={"tiny": move, "(generation)": 9})
    moves = dump_moves(Moves(9, {"tiny": Move("second", {})}))
    attacker.client.set("embercache:{state}:sealed-models", moves)
    packs = [tiny_pack, make_pack("other", "second", seed=2)]
    client = await start(redis=redis_server, packs=packs, **sealed if encrypts else {})
    response = await client.embed("one", model="tiny")
    assert response.model == ("tiny" if encrypts else "second")
    assert (await refused(client))["moves"] >= encrypts


# Keys


@pytest.mark.threat("A key has leaked")
async def test_keys_are_rotated_in_a_sidecar_that_goes_on(
    start: Start,
    redis_server: DevRedis,
    attacker: Attacker,
    sealed: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sidecar.files_in_use, "LOOK_SECONDS", 0.01)
    client = await start(redis=redis_server, **sealed)
    truth = await client.vectors("one")
    [old] = await attacker.wait_for(1)
    write_keys(tmp_path / "keys", "k2", "k1")
    texts = (f"text {number}" for number in range(10_000))
    count = 1
    async with asyncio.timeout(HANG_GUARD):
        while True:
            await client.embed(next(texts))
            count += 1
            sealed_with = {attacker.client.get(key)[2:4] for key in await attacker.wait_for(count)}
            if b"k2" in sealed_with:
                break
    await client.flush()
    assert await client.tiers("one") == ["WARM"]
    write_keys(tmp_path / "keys", "k2")
    async with asyncio.timeout(HANG_GUARD):
        while await client.tiers("one") != ["COMPUTED"]:
            await client.flush()
    assert await client.vectors("one") == truth
    assert (await refused(client))["entries"] >= 1
    await attacker.wait_for(count)
    assert attacker.client.get(old)[2:4] == b"k2"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cache": {"salt": ""}}, "encryption.keys_file needs a salt"),
        ({"cache": {"salt": "", "salt_file": "none"}}, "cache.salt_file: .* cannot be read"),
        ({"cache": {"salt": "s", "salt_file": "keys"}}, "are both set"),
        ({"encryption": {"keys_file": "none"}}, "encryption.keys_file: cannot read none: No such"),
        ({"encryption": {"keys_file": "empty"}}, "encryption.keys_file: .* no key"),
    ],
)
@pytest.mark.threat("Who reads Redis tests guesses of texts against the keys")
async def test_a_sidecar_with_secrets_that_cannot_be_used_does_not_start(
    start: Start,
    sealed: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").touch()
    # What can be told from the settings alone is told before anything is opened.
    with pytest.raises((SetupError, ValidationError), match=message):
        await start(**sealed | change)


async def test_the_salt_of_a_file_is_that_of_the_setting(
    start: Start, redis_server: DevRedis, attacker: Attacker, tmp_path: Path
) -> None:
    (tmp_path / "salt").write_text("a salt\n")
    one = await start(redis=redis_server, cache={"salt": "a salt"})
    await one.embed("one")
    await attacker.wait_for(1)
    two = await start(redis=redis_server, cache={"salt_file": tmp_path / "salt"})
    assert await two.tiers("one") == ["WARM"]
    three = await start(redis=redis_server)
    assert await three.tiers("one") == ["COMPUTED"]


async def test_sidecars_that_encrypt_and_those_that_do_not_never_read_each_others_values(
    start: Start, redis_server: DevRedis, attacker: Attacker, sealed: dict[str, Any]
) -> None:
    one = await start(redis=redis_server, **sealed)
    two = await start(redis=redis_server, cache=sealed["cache"])
    truth = await one.vectors("one")
    await attacker.wait_for(1)
    assert await two.tiers("one") == ["COMPUTED"]
    assert await two.vectors("one") == truth
    assert (await two.stats()).tiers[2].corrupt == 1
    assert (await two.stats()).forged == []
