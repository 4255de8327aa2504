"""Another model under the same name, with real models."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from embercache.v1 import cache_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    HeldModel = Any
    Refusal = Callable[[Awaitable[Any]], Awaitable[tuple[str, str]]]
    Start = Callable[..., Awaitable[Any]]
    Until = Callable[[Callable[[], Awaitable[object]]], Awaitable[None]]

HANG_GUARD = 30.0
NAN = "\N{SKULL AND CROSSBONES}"
Stage = cache_pb2.MigrateModelProgress


async def test_the_name_means_the_other_model_when_all_is_there(
    start: Start, packs: list[Path], texts: dict[str, str]
) -> None:
    client = await start(packs=packs)
    await client.upsert(texts)
    old, new = [(await client.vectors("query", model=name))[0] for name in ("tiny", "other")]
    assert (await client.vectors("query"))[0] == old
    assert await client.tiers("query") == ["HOT"]
    messages = await client.migrate()
    assert messages[-1].stage == Stage.STAGE_SWITCHED
    assert [m.stage for m in messages] == sorted(m.stage for m in messages)
    for fields in ({}, {"model": "tiny"}):
        response = await client.embed("query", **fields)
        assert (response.model, response.embeddings[0].vector) == ("other", new)
    assert old != new


async def test_searches_find_the_same_documents_by_the_vectors_of_the_other_model(
    start: Start, packs: list[Path], texts: dict[str, str]
) -> None:
    client = await start(packs=packs)
    await client.upsert(texts, metadata={"year": 1999}, tags=["t"])
    await client.upsert(texts, model="other", collection="truth", metadata={"year": 1999})
    before = await client.search("cats", top_k=4)
    await client.migrate()
    after, truth = (
        await client.search("cats", top_k=4),
        await client.search("cats", top_k=4, model="other", collection="truth"),
    )
    assert [r.id for r in after.results] == [r.id for r in truth.results]
    assert [r.score for r in after.results] == pytest.approx([r.score for r in truth.results])
    assert [r.score for r in after.results] != pytest.approx([r.score for r in before.results])
    assert after.results[0].metadata["year"].number == 1999
    assert {r.content for r in after.results} == set(texts.values())


async def test_the_old_model_answers_until_the_switch(
    start: Start, packs: list[Path], held_model: HeldModel, texts: dict[str, str]
) -> None:
    held_model.holds = False
    client = await start(packs=packs)
    await client.upsert(texts)
    await client.embed("a text")
    held_model.holds = True
    begun = len(held_model.sizes)
    migration = asyncio.create_task(client.migrate())
    async with asyncio.timeout(HANG_GUARD):
        while len(held_model.sizes) == begun:
            await asyncio.sleep(0.005)
    assert await client.model() == "tiny"
    held_model.let_go()
    await migration
    assert await client.model() == "other"


async def test_documents_that_change_meanwhile_are_brought_over(
    start: Start, packs: list[Path], held_model: HeldModel, texts: dict[str, str]
) -> None:
    held_model.holds = False
    client = await start(packs=packs)
    await client.upsert(texts)
    await client.embed("changed", "new", input_type="INPUT_TYPE_DOCUMENT")
    held_model.holds = True
    begun = len(held_model.sizes)
    migration = asyncio.create_task(client.migrate())
    async with asyncio.timeout(HANG_GUARD):
        while len(held_model.sizes) == begun:
            await asyncio.sleep(0.005)
    await client.upsert({"bees": "changed", "eels": "new"})
    await client.delete("dogs")
    held_model.let_go()
    await migration
    found = await client.search("anything", top_k=100)
    assert {r.id: r.content for r in found.results} == {
        "ants": texts["ants"],
        "bees": "changed",
        "cats": texts["cats"],
        "eels": "new",
    }


async def test_popular_queries_are_answered_from_cache_after_the_switch(
    start: Start, packs: list[Path], texts: dict[str, str]
) -> None:
    client = await start(packs=packs, popular={"queries": 100})
    await client.upsert(texts)
    await client.embed("popular text")
    await client.search("popular search")
    await client.embed("of another model", model="other")
    messages = await client.migrate(popular=100)
    queries = [m for m in messages if m.stage == Stage.STAGE_QUERIES]
    assert all(m.done <= m.total == 2 and not m.failed for m in queries)
    assert await client.tiers("popular text") == ["HOT"]
    assert (await client.found("popular search"))[0] == "HOT"


async def test_where_popular_queries_are_not_tracked_the_name_moves_without_them(
    start: Start, packs: list[Path], texts: dict[str, str]
) -> None:
    client = await start(packs=packs)
    await client.upsert(texts)
    assert (await client.migrate(popular=100))[-1].stage == Stage.STAGE_SWITCHED
    assert await client.model() == "other"


async def test_a_migration_that_was_cut_short_goes_on_where_it_was(
    start: Start, packs: list[Path], until: Until
) -> None:
    client = await start(packs=packs)
    await client.upsert({f"{number:03}": f"text {number}" for number in range(100)})
    # A rate at which the first page goes through and the rest has to wait.
    slow = cache_pb2.MigrateModelRequest(to="other", per_second=1)
    call = client.caches.MigrateModel(slow)

    async def has_begun() -> bool:
        return (await client.stats()).models[1].computed > 0

    await until(has_begun)
    call.cancel()
    computed = (await client.stats()).models[1].computed
    assert computed < 10
    assert await client.model() == "tiny"
    await client.delete("000")
    await client.migrate()
    assert len(set(await client.documents())) == 99
    assert (await client.stats()).models[1].computed == 100 + 1  # and one query


async def test_a_document_that_the_other_model_cannot_embed_prevents_the_switch(
    start: Start,
    tiny_pack: Path,
    make_pack: Callable[..., Path],
    texts: dict[str, str],
    refusal: Refusal,
) -> None:
    bad = make_pack("bad", "other", seed=1, prompts={"document": NAN})
    client = await start(packs=[tiny_pack, bad])
    await client.upsert(texts)
    code, message = await refusal(client.migrate())
    assert code == "ABORTED"
    assert "4 documents cannot be embedded with other" in message
    assert await client.model() == "tiny"
    assert set(await client.documents()) == set(texts)


async def test_what_cannot_be_done_is_refused_with_a_reason(
    start: Start, packs: list[Path], make_pack: Callable[..., Path], refusal: Refusal
) -> None:
    client = await start(packs=[*packs, make_pack("third", "third", seed=2)])
    cases = [
        ({"to": "tiny"}, "FAILED_PRECONDITION", "tiny means tiny already"),
        ({"to": "none"}, "NOT_FOUND", "choose one of tiny, other, third"),
        ({"to": ""}, "NOT_FOUND", "choose one of"),
        ({"to": "other", "model": "none"}, "NOT_FOUND", "choose one of"),
        ({"to": "other", "per_second": -1}, "INVALID_ARGUMENT", "per_second"),
    ]
    for fields, code, word in cases:
        found = await refusal(client.migrate(**fields))
        assert (found[0], word in found[1]) == (code, True), found
    await client.migrate()
    cases = [
        ({"to": "other"}, "FAILED_PRECONDITION", "means other already"),
        ({"to": "tiny"}, "FAILED_PRECONDITION", "roll it back"),
        ({"to": "tiny", "model": "third"}, "FAILED_PRECONDITION", "tiny itself means another"),
    ]
    for fields, code, word in cases:
        found = await refusal(client.migrate(**fields))
        assert (found[0], word in found[1]) == (code, True), found
    assert (await refusal(client.rollback("none")))[0] == "NOT_FOUND"
