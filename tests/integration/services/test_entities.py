"""Texts that have a name: cached under it, embedded again only when they have changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
from embercache.v1 import embed_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

    View = Callable[[DevRedis], Any]
    Start = Callable[..., Awaitable[Any]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]


def entity(name: str, text: str, chunk: str = "") -> embed_pb2.Input:
    return embed_pb2.Input(entity=embed_pb2.Entity(id=name, chunk_id=chunk, text=text))


async def test_an_entity_is_computed_once_while_its_text_is_the_same(start: Start) -> None:
    sidecar = await start()
    assert await sidecar.tiers(entity("doc", "a text")) == ["COMPUTED"]
    assert await sidecar.tiers(entity("doc", "a text")) == ["HOT"]


async def test_an_entity_is_computed_again_when_its_text_has_changed(start: Start) -> None:
    sidecar = await start()
    (old,) = await sidecar.vectors(entity("doc", "old"))
    assert await sidecar.tiers(entity("doc", "new")) == ["COMPUTED"]
    assert await sidecar.tiers(entity("doc", "new")) == ["HOT"]
    assert await sidecar.vectors(entity("doc", "new")) != [old]


async def test_only_the_last_text_of_an_entity_is_kept(
    start: Start, redis_server: DevRedis, tmp_path: Path, view: View
) -> None:
    sidecar = await start(redis=redis_server, disk=tmp_path / "disk")
    (old,) = await sidecar.vectors(entity("doc", "old"))
    await sidecar.embed(entity("doc", "new"))
    assert await sidecar.tiers(entity("doc", "old")) == ["COMPUTED"]
    assert await sidecar.vectors(entity("doc", "old")) == [old]
    await sidecar.stop()
    assert len(view(redis_server).entries()) == 1


async def test_the_changed_text_replaces_the_one_in_redis_and_on_disk(
    start: Start, redis_server: DevRedis, tmp_path: Path
) -> None:
    sidecar = await start(redis=redis_server, disk=tmp_path / "disk")
    await sidecar.embed(entity("doc", "old"))
    (new,) = await sidecar.vectors(entity("doc", "new"))
    for tier, disk in (("DISK", tmp_path / "disk"), ("WARM", None)):
        await sidecar.stop()
        sidecar = await start(redis=redis_server, disk=disk)
        assert await sidecar.tiers(entity("doc", "new")) == [tier]
        assert await sidecar.vectors(entity("doc", "new")) == [new]


async def test_a_sidecar_that_has_the_old_text_in_memory_sees_that_it_has_changed(
    start: Start, redis_server: DevRedis, view: View, eventually: Eventually
) -> None:
    one, two = await start(redis=redis_server), await start(redis=redis_server)
    await one.embed(entity("doc", "old"))
    await eventually(view(redis_server).entries)
    assert await two.tiers(entity("doc", "old")) == ["WARM"]
    (new,) = await one.vectors(entity("doc", "new"))
    assert await two.vectors(entity("doc", "new")) == [new]


async def test_chunks_of_an_entity_are_apart(start: Start) -> None:
    sidecar = await start()
    chunks = [entity("doc", "one", "1"), entity("doc", "two", "2"), entity("doc", "whole")]
    assert await sidecar.tiers(*chunks) == ["COMPUTED"] * 3
    assert await sidecar.tiers(*chunks) == ["HOT"] * 3


async def test_name_and_chunk_are_never_taken_for_each_other(start: Start) -> None:
    sidecar = await start()
    same = "the same text"
    alike = [
        entity("ab", same, "c"),
        entity("a", same, "bc"),
        entity("abc", same),
        entity("a:b", same, "c"),
        entity("a", same, "b:c"),
        embed_pb2.Input(text=same),
    ]
    assert await sidecar.tiers(*alike) == ["COMPUTED"] * len(alike)
    assert len(set(await sidecar.vectors(*alike))) == 1


async def test_two_texts_of_one_entity_in_one_batch_each_get_their_own_vector(
    start: Start,
) -> None:
    sidecar = await start()
    batch = [entity("doc", "one"), entity("doc", "two"), entity("doc", "one")]
    truth = await sidecar.vectors("one", "two", "one")
    for _ in range(3):
        vectors = await sidecar.vectors(*batch)
        for vector, expected in zip(vectors, truth, strict=True):
            assert np.allclose(np.frombuffer(vector, "<f4"), np.frombuffer(expected, "<f4"))


async def test_entities_of_two_namespaces_are_apart(start: Start) -> None:
    sidecar = await start()
    await sidecar.embed(entity("doc", "a text"), namespace="a")
    assert await sidecar.tiers(entity("doc", "a text"), namespace="b") == ["COMPUTED"]


async def test_an_entity_without_a_good_name_fails_alone(start: Start) -> None:
    sidecar = await start()
    response = await sidecar.embed(
        entity("", "a text"),
        entity("n" * 1025, "a text"),
        entity("doc", "a text", "c" * 1025),
        entity("n" * 1024, "a text", "c" * 1024),
    )
    *bad, good = response.embeddings
    for embedding in bad:
        assert embedding.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert "1 to 1024 bytes" in embedding.error.message
    assert good.vector
