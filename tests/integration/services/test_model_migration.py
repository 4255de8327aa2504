"""Another model under the same name, with real models, and back."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import structlog
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

    HeldModel = Any
    Sidecar = Any
    Start = Callable[..., Awaitable[Any]]

HANG_GUARD = 30.0
NAN = "\N{SKULL AND CROSSBONES}"
TEXTS = {name: f"a text on {name}" for name in ("ants", "bees", "cats", "dogs")}
Stage = cache_pb2.MigrateModelProgress


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sidecars hear of moves at once, so that nobody has to wait for seconds."""
    monkeypatch.setattr(sidecar.services.model_moves, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(sidecar.services.model_migration, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(sidecar.services.move_completion, "POLL_SECONDS", 0.02)
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


def shared(redis: DevRedis) -> dict[str, Any]:
    """Settings of sidecars that share documents too."""
    return {"redis": redis, "index": {"url": redis.url}}


async def migrate(client: Sidecar, to: str = "other", **fields: Any) -> list[Any]:
    """The messages of a migration of the first model."""
    request = cache_pb2.MigrateModelRequest(to=to, **fields)
    return [m async for m in client.caches.MigrateModel(request, timeout=HANG_GUARD)]


async def rollback(client: Sidecar, model: str = "") -> None:
    request = cache_pb2.RollbackModelRequest(model=model)
    await client.caches.RollbackModel(request, timeout=HANG_GUARD)


async def refusal(call: Awaitable[Any]) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code().name, error.value.details()


async def model(client: Sidecar, **fields: Any) -> str:
    """The model that answers."""
    return (await client.embed("a text", **fields)).model


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(HANG_GUARD):
        while not await condition():
            await asyncio.sleep(0.01)


async def until_model(client: Sidecar, name: str) -> None:
    async def is_so() -> bool:
        return await model(client) == name

    await until(is_so)


async def ids(client: Sidecar, **fields: Any) -> set[str]:
    """All documents, as a search finds them."""
    _, found = await client.found("anything", top_k=100, mode="CACHE_MODE_BYPASS", **fields)
    return set(found)


async def test_the_name_means_the_other_model_when_all_is_there(
    start: Start, packs: list[Path]
) -> None:
    client = await start(packs=packs)
    await client.upsert(TEXTS)
    old, new = [(await client.vectors("query", model=name))[0] for name in ("tiny", "other")]
    assert (await client.vectors("query"))[0] == old
    assert await client.tiers("query") == ["HOT"]
    messages = await migrate(client)
    assert messages[-1].stage == Stage.STAGE_SWITCHED
    assert [m.stage for m in messages] == sorted(m.stage for m in messages)
    for fields in ({}, {"model": "tiny"}):
        response = await client.embed("query", **fields)
        assert (response.model, response.embeddings[0].vector) == ("other", new)
    assert old != new


async def test_searches_find_the_same_documents_by_the_vectors_of_the_other_model(
    start: Start, packs: list[Path]
) -> None:
    client = await start(packs=packs)
    await client.upsert(TEXTS, metadata={"year": 1999}, tags=["t"])
    await client.upsert(TEXTS, model="other", collection="truth", metadata={"year": 1999})
    before = await client.search("cats", top_k=4)
    await migrate(client)
    after, truth = (
        await client.search("cats", top_k=4),
        await client.search("cats", top_k=4, model="other", collection="truth"),
    )
    assert [r.id for r in after.results] == [r.id for r in truth.results]
    assert [r.score for r in after.results] == pytest.approx([r.score for r in truth.results])
    assert [r.score for r in after.results] != pytest.approx([r.score for r in before.results])
    assert after.results[0].metadata["year"].number == 1999
    assert {r.content for r in after.results} == set(TEXTS.values())


async def test_the_old_model_answers_until_the_switch(
    start: Start, packs: list[Path], held_model: HeldModel
) -> None:
    held_model.holds = False
    client = await start(packs=packs)
    await client.upsert(TEXTS)
    await client.embed("a text")
    held_model.holds = True
    begun = len(held_model.sizes)
    migration = asyncio.create_task(migrate(client))
    async with asyncio.timeout(HANG_GUARD):
        while len(held_model.sizes) == begun:
            await asyncio.sleep(0.005)
    assert await model(client) == "tiny"
    held_model.let_go()
    await migration
    assert await model(client) == "other"


async def test_documents_that_change_meanwhile_are_brought_over(
    start: Start, packs: list[Path], held_model: HeldModel
) -> None:
    held_model.holds = False
    client = await start(packs=packs)
    await client.upsert(TEXTS)
    await client.embed("changed", "new", input_type="INPUT_TYPE_DOCUMENT")
    held_model.holds = True
    begun = len(held_model.sizes)
    migration = asyncio.create_task(migrate(client))
    async with asyncio.timeout(HANG_GUARD):
        while len(held_model.sizes) == begun:
            await asyncio.sleep(0.005)
    await client.upsert({"bees": "changed", "eels": "new"})
    await client.delete("dogs")
    held_model.let_go()
    await migration
    found = await client.search("anything", top_k=100)
    assert {r.id: r.content for r in found.results} == {
        "ants": TEXTS["ants"],
        "bees": "changed",
        "cats": TEXTS["cats"],
        "eels": "new",
    }


async def test_popular_queries_are_answered_from_cache_after_the_switch(
    start: Start, packs: list[Path]
) -> None:
    client = await start(packs=packs, popular={"queries": 100})
    await client.upsert(TEXTS)
    await client.embed("popular text")
    await client.search("popular search")
    await client.embed("of another model", model="other")
    messages = await migrate(client, popular=100)
    queries = [m for m in messages if m.stage == Stage.STAGE_QUERIES]
    assert all(m.done <= m.total == 2 and not m.failed for m in queries)
    assert await client.tiers("popular text") == ["HOT"]
    assert (await client.found("popular search"))[0] == "HOT"


async def test_where_popular_queries_are_not_tracked_the_name_moves_without_them(
    start: Start, packs: list[Path]
) -> None:
    client = await start(packs=packs)
    await client.upsert(TEXTS)
    assert (await migrate(client, popular=100))[-1].stage == Stage.STAGE_SWITCHED
    assert await model(client) == "other"


async def test_a_migration_that_was_cut_short_goes_on_where_it_was(
    start: Start, packs: list[Path]
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
    assert await model(client) == "tiny"
    await client.delete("000")
    await migrate(client)
    assert len(await ids(client)) == 99
    assert (await client.stats()).models[1].computed == 100 + 1  # and one query


async def test_a_document_that_the_other_model_cannot_embed_prevents_the_switch(
    start: Start, tiny_pack: Path, make_pack: Callable[..., Path]
) -> None:
    bad = make_pack("bad", "other", seed=1, prompts={"document": NAN})
    client = await start(packs=[tiny_pack, bad])
    await client.upsert(TEXTS)
    code, message = await refusal(migrate(client))
    assert code == "ABORTED"
    assert "4 documents cannot be embedded with other" in message
    assert await model(client) == "tiny"
    assert await ids(client) == set(TEXTS)


async def test_what_cannot_be_done_is_refused_with_a_reason(
    start: Start, packs: list[Path], make_pack: Callable[..., Path]
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
        found = await refusal(migrate(client, **fields))
        assert (found[0], word in found[1]) == (code, True), found
    await migrate(client)
    cases = [
        ({"to": "other"}, "FAILED_PRECONDITION", "means other already"),
        ({"to": "tiny"}, "FAILED_PRECONDITION", "roll it back"),
        ({"to": "tiny", "model": "third"}, "FAILED_PRECONDITION", "tiny itself means another"),
    ]
    for fields, code, word in cases:
        found = await refusal(migrate(client, **fields))
        assert (found[0], word in found[1]) == (code, True), found
    assert (await refusal(rollback(client, "none")))[0] == "NOT_FOUND"


async def test_a_name_can_go_on_to_a_third_model_and_all_the_way_back(
    start: Start, packs: list[Path], make_pack: Callable[..., Path]
) -> None:
    client = await start(packs=[*packs, make_pack("third", "third", seed=2)])
    await client.upsert(TEXTS)
    await migrate(client)
    await client.upsert({"eels": "new"})
    await migrate(client, to="third")
    assert await model(client) == "third"
    await client.delete("ants")
    assert await ids(client) == {*TEXTS, "eels"} - {"ants"}
    await rollback(client)
    assert await model(client) == "tiny"

    async def is_back() -> bool:
        return await ids(client) == {*TEXTS, "eels"} - {"ants"}

    await until(is_back)


async def test_a_rollback_moves_the_name_at_once_and_brings_documents_back(
    start: Start, packs: list[Path]
) -> None:
    client = await start(packs=packs)
    await client.upsert(TEXTS)
    old = await client.vectors("query")
    await migrate(client)
    await client.upsert({"eels": "new", "bees": "changed"})
    await client.delete("dogs")
    await rollback(client, "tiny")
    assert await client.vectors("query") == old

    async def is_back() -> bool:
        found = await client.search("anything", top_k=100)
        return {r.id: r.content for r in found.results} == {
            "ants": TEXTS["ants"],
            "bees": "changed",
            "cats": TEXTS["cats"],
            "eels": "new",
        }

    await until(is_back)
    await rollback(client)  # nothing is left to do


async def test_after_a_rollback_the_name_can_move_again(start: Start, packs: list[Path]) -> None:
    client = await start(packs=packs)
    await client.upsert(TEXTS)
    for _ in range(2):
        async with asyncio.timeout(HANG_GUARD):
            while True:
                try:
                    await migrate(client)
                    break
                except grpc.aio.AioRpcError as error:
                    if "still being brought back" not in str(error.details()):
                        raise
        assert await model(client) == "other"
        await rollback(client)
        assert await model(client) == "tiny"


async def test_a_rollback_whose_documents_are_gone_does_not_bar_the_name(
    start: Start, packs: list[Path], redis_server: DevRedis
) -> None:
    first = await start(packs=packs, redis=redis_server)
    await first.upsert(TEXTS)
    await migrate(first)
    await first.stop()
    # What its index had has ended with it.
    client = await start(packs=packs, redis=redis_server)
    assert await model(client) == "other"
    await rollback(client)
    await migrate(client)
    assert await model(client) == "other"


async def test_a_move_outlives_a_restart_beside_the_disk_tier(
    start: Start, packs: list[Path], tmp_path: Path
) -> None:
    client = await start(packs=packs, disk=tmp_path / "disk")
    await migrate(client)
    await client.stop()
    client = await start(packs=packs, disk=tmp_path / "disk")
    assert await model(client) == "other"


async def test_the_name_moves_on_every_sidecar(
    start: Start, packs: list[Path], redis_server: DevRedis
) -> None:
    one, other = [await start(packs=packs, **shared(redis_server)) for _ in range(2)]
    await one.upsert(TEXTS)
    assert await model(other) == "tiny"
    assert await other.tiers("a text") == ["HOT"]
    await migrate(one)
    await until_model(other, "other")
    assert await ids(other) == set(TEXTS)
    late = await start(packs=packs, **shared(redis_server))
    assert await model(late) == "other"
    await rollback(other)
    assert await model(other) == "tiny"
    await until_model(one, "tiny")
    await until_model(late, "tiny")


async def test_what_another_sidecar_writes_before_it_has_heard_is_brought_over(
    start: Start,
    packs: list[Path],
    redis_server: DevRedis,
    monkeypatch: pytest.MonkeyPatch,
    settled: asyncio.Event,
) -> None:
    one = await start(packs=packs, **shared(redis_server))
    # The other one never hears of it, as far as this test is concerned.
    monkeypatch.setattr(sidecar.services.model_moves, "POLL_SECONDS", 3600)
    deaf = await start(packs=packs, **shared(redis_server))
    await one.upsert(TEXTS)
    migration = asyncio.create_task(migrate(one))
    await until_model(one, "other")
    await deaf.upsert({"eels": "late"})
    await deaf.delete("ants")
    assert await model(deaf) == "tiny"
    settled.set()
    await migration
    assert await ids(one) == {*TEXTS, "eels"} - {"ants"}


async def test_only_one_migration_goes_on_in_the_fleet(
    start: Start, packs: list[Path], redis_server: DevRedis, held_model: HeldModel
) -> None:
    held_model.holds = False
    one, other = [await start(packs=packs, redis=redis_server) for _ in range(2)]
    await one.upsert(TEXTS)
    held_model.holds = True
    begun = len(held_model.sizes)
    migration = asyncio.create_task(migrate(one))
    async with asyncio.timeout(HANG_GUARD):
        while len(held_model.sizes) == begun:
            await asyncio.sleep(0.005)
    code, message = await refusal(migrate(other))
    assert code == "FAILED_PRECONDITION"
    assert "another migration is going on" in message
    held_model.let_go()
    await migration


async def test_the_switch_is_finished_when_the_caller_goes_away_after_it(
    start: Start,
    packs: list[Path],
    redis_server: DevRedis,
    monkeypatch: pytest.MonkeyPatch,
    settled: asyncio.Event,
) -> None:
    client = await start(packs=packs, **shared(redis_server))
    monkeypatch.setattr(sidecar.services.model_moves, "POLL_SECONDS", 3600)
    deaf = await start(packs=packs, **shared(redis_server))
    await client.upsert(TEXTS)
    call = client.caches.MigrateModel(cache_pb2.MigrateModelRequest(to="other"))
    await until_model(client, "other")
    call.cancel()
    await deaf.upsert({"eels": "late"})
    settled.set()

    async def is_there() -> bool:
        return await ids(client) == {*TEXTS, "eels"}

    await until(is_there)


async def test_a_redis_that_loses_its_state_does_not_bring_the_old_model_back(
    start: Start, packs: list[Path], redis_server: DevRedis, view: Callable[[DevRedis], Any]
) -> None:
    client = await start(packs=packs, redis=redis_server)
    await migrate(client)
    redis = view(redis_server).client
    redis.flushall()

    async def is_told_again() -> object:
        return redis.hget("embercache:{state}:models", "tiny")

    await until(is_told_again)
    assert await model(client) == "other"


@pytest.mark.parametrize("options_of", [shared, lambda redis: {"redis": redis}])
async def test_a_sidecar_that_starts_without_redis_goes_by_what_it_knew(
    start: Start,
    packs: list[Path],
    own_redis: DevRedis,
    tmp_path: Path,
    options_of: Callable[[DevRedis], dict[str, Any]],
) -> None:
    options = options_of(own_redis) | {"disk": tmp_path / "disk"}
    client = await start(packs=packs, **options)
    await migrate(client)
    await client.stop()
    own_redis.kill()
    client = await start(packs=packs, **options)
    assert await model(client) == "other"


async def test_without_redis_for_the_fleet_a_name_is_not_moved(
    start: Start, packs: list[Path], own_redis: DevRedis
) -> None:
    client = await start(packs=packs, redis=own_redis)
    own_redis.kill()
    for call in (migrate, rollback):
        code, message = await refusal(call(client))
        assert (code, "retry" in message) == ("UNAVAILABLE", True)
    assert await model(client) == "tiny"


async def test_a_sidecar_without_the_other_model_goes_on_with_its_own_and_says_so_once(
    start: Start, packs: list[Path], redis_server: DevRedis
) -> None:
    client = await start(packs=packs, redis=redis_server)
    await migrate(client)
    with structlog.testing.capture_logs() as logs:
        lacking = await start(packs=packs[:1], redis=redis_server)
        for _ in range(10):
            await asyncio.sleep(0.02)
            assert await model(lacking) == "tiny"
    said = [log for log in logs if log["event"] == "a move is not obeyed"]
    assert len(said) == 1
    assert "not served here" in said[0]["reason"]


async def test_a_sidecar_with_documents_of_its_own_moves_when_it_is_asked_to_copy_them(
    start: Start, packs: list[Path], redis_server: DevRedis
) -> None:
    first = await start(packs=packs, **shared(redis_server))
    private, empty = [await start(packs=packs, redis=redis_server) for _ in range(2)]
    await private.upsert(TEXTS)
    await migrate(first)
    await until_model(empty, "other")
    assert await model(private) == "tiny"
    await migrate(private)
    assert await model(private) == "other"
    assert await ids(private) == set(TEXTS)
    await private.upsert({"eels": "new"})
    await rollback(first)
    await until_model(private, "tiny")

    async def is_back() -> bool:
        return await ids(private) == {*TEXTS, "eels"}

    await until(is_back)
