"""Names that mean another model on every sidecar, through restarts and outages."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from embercache.v1 import cache_pb2

import sidecar.services.model_moves
from sidecar.cache.generations import StoreUnavailableError
from sidecar.cache.model_moves import RedisMoves
from sidecar.index.types import IndexUnavailableError
from sidecar.services.document_copy import DocumentCopy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

    HeldModel = Any
    Refusal = Callable[[Awaitable[Any]], Awaitable[tuple[str, str]]]
    Start = Callable[..., Awaitable[Any]]
    Until = Callable[[Callable[[], Awaitable[object]]], Awaitable[None]]

HANG_GUARD = 30.0


async def test_a_move_outlives_a_restart_beside_the_disk_tier(
    start: Start, packs: list[Path], tmp_path: Path
) -> None:
    client = await start(packs=packs, disk=tmp_path / "disk")
    await client.migrate()
    await client.stop()
    client = await start(packs=packs, disk=tmp_path / "disk")
    assert await client.model() == "other"


async def test_the_name_moves_on_every_sidecar(
    start: Start, texts: dict[str, str], fleet: dict[str, Any]
) -> None:
    one, other = [await start(**fleet) for _ in range(2)]
    await one.upsert(texts)
    assert await other.model() == "tiny"
    assert await other.tiers("a text") == ["HOT"]
    await one.migrate()
    await other.until_model("other")
    assert set(await other.documents()) == set(texts)
    late = await start(**fleet)
    assert await late.model() == "other"
    await other.rollback()
    assert await other.model() == "tiny"
    await one.until_model("tiny")
    await late.until_model("tiny")


async def test_what_another_sidecar_writes_before_it_has_heard_is_brought_over(
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    settled: asyncio.Event,
    texts: dict[str, str],
    fleet: dict[str, Any],
) -> None:
    one = await start(**fleet)
    # The other one never hears of it, as far as this test is concerned.
    monkeypatch.setattr(sidecar.services.model_moves, "POLL_SECONDS", 3600)
    deaf = await start(**fleet)
    await one.upsert(texts)
    migration = asyncio.create_task(one.migrate())
    await one.until_model("other")
    await deaf.upsert({"eels": "late"})
    await deaf.delete("ants")
    assert await deaf.model() == "tiny"
    settled.set()
    await migration
    assert set(await one.documents()) == {*texts, "eels"} - {"ants"}


async def test_only_one_migration_goes_on_in_the_fleet(
    start: Start,
    packs: list[Path],
    redis_server: DevRedis,
    held_model: HeldModel,
    texts: dict[str, str],
    refusal: Refusal,
) -> None:
    held_model.holds = False
    one, other = [await start(packs=packs, redis=redis_server) for _ in range(2)]
    await one.upsert(texts)
    held_model.holds = True
    begun = len(held_model.sizes)
    migration = asyncio.create_task(one.migrate())
    async with asyncio.timeout(HANG_GUARD):
        while len(held_model.sizes) == begun:
            await asyncio.sleep(0.005)
    code, message = await refusal(other.migrate())
    assert code == "FAILED_PRECONDITION"
    assert "another migration is going on" in message
    held_model.let_go()
    await migration


async def test_the_switch_is_finished_when_the_caller_goes_away_after_it(
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    settled: asyncio.Event,
    texts: dict[str, str],
    until: Until,
    fleet: dict[str, Any],
) -> None:
    client = await start(**fleet)
    monkeypatch.setattr(sidecar.services.model_moves, "POLL_SECONDS", 3600)
    deaf = await start(**fleet)
    await client.upsert(texts)
    call = client.caches.MigrateModel(cache_pb2.MigrateModelRequest(to="other"))
    await client.until_model("other")
    call.cancel()
    await deaf.upsert({"eels": "late"})
    settled.set()
    await client.until_documents(texts | {"eels": "late"})


async def test_a_redis_that_loses_its_state_does_not_bring_the_old_model_back(
    start: Start,
    packs: list[Path],
    redis_server: DevRedis,
    view: Callable[[DevRedis], Any],
    until: Until,
) -> None:
    client = await start(packs=packs, redis=redis_server)
    await client.migrate()
    redis = view(redis_server).client
    redis.flushall()

    async def is_told_again() -> object:
        return redis.hget("embercache:{state}:models", "tiny")

    await until(is_told_again)
    assert await client.model() == "other"


@pytest.mark.parametrize("shares_documents", [True, False])
async def test_a_sidecar_that_starts_without_redis_goes_by_what_it_knew(
    start: Start,
    packs: list[Path],
    own_redis: DevRedis,
    tmp_path: Path,
    shares_documents: bool,
) -> None:
    options: dict[str, Any] = {"redis": own_redis, "disk": tmp_path / "disk"}
    if shares_documents:
        options["index"] = {"url": own_redis.url}
    client = await start(packs=packs, **options)
    await client.migrate()
    await client.stop()
    own_redis.kill()
    client = await start(packs=packs, **options)
    assert await client.model() == "other"


async def test_without_redis_for_the_fleet_a_name_is_not_moved(
    start: Start, packs: list[Path], own_redis: DevRedis, refusal: Refusal
) -> None:
    client = await start(packs=packs, redis=own_redis)
    own_redis.kill()
    for call in (client.migrate, client.rollback):
        code, message = await refusal(call())
        assert (code, "retry" in message) == ("UNAVAILABLE", True)
    assert await client.model() == "tiny"


async def test_a_sidecar_without_the_other_model_goes_on_with_its_own_and_says_so_once(
    start: Start, packs: list[Path], redis_server: DevRedis
) -> None:
    client = await start(packs=packs, redis=redis_server)
    await client.migrate()
    with structlog.testing.capture_logs() as logs:
        lacking = await start(packs=packs[:1], redis=redis_server)
        for _ in range(10):
            await asyncio.sleep(0.02)
            assert await lacking.model() == "tiny"
    said = [log for log in logs if log["event"] == "a move is not obeyed"]
    assert len(said) == 1
    assert "not served here" in said[0]["reason"]


async def test_a_sidecar_with_documents_of_its_own_moves_when_it_is_asked_to_copy_them(
    start: Start,
    packs: list[Path],
    redis_server: DevRedis,
    texts: dict[str, str],
    until: Until,
    fleet: dict[str, Any],
) -> None:
    first = await start(**fleet)
    private, empty = [await start(packs=packs, redis=redis_server) for _ in range(2)]
    await private.upsert(texts)
    await first.migrate()
    await empty.until_model("other")
    assert await private.model() == "tiny"
    await private.migrate()
    assert await private.model() == "other"
    assert set(await private.documents()) == set(texts)
    await private.upsert({"eels": "new"})
    await first.rollback()
    await private.until_model("tiny")
    await private.until_documents(texts | {"eels": "new"})


async def test_a_switch_whose_answer_was_lost_is_completed(
    start: Start,
    fleet: dict[str, Any],
    texts: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = await start(**fleet)
    await client.upsert(texts)
    replace = RedisMoves.replace
    lost = 1

    async def replace_in_silence(self: RedisMoves, *args: Any) -> bool:
        nonlocal lost
        done = await replace(self, *args)
        if lost:
            lost -= 1
            raise StoreUnavailableError("the answer was lost")
        return done

    monkeypatch.setattr(RedisMoves, "replace", replace_in_silence)
    assert (await client.migrate())[-1].stage == cache_pb2.MigrateModelProgress.STAGE_SWITCHED
    assert (await client.model(), lost) == ("other", 0)
    assert await client.documents() == texts


async def test_a_move_that_is_made_when_redis_goes_away_is_obeyed_here(
    start: Start, fleet: dict[str, Any], refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await start(**fleet)
    replace, load = RedisMoves.replace, RedisMoves.load
    is_down = False

    async def replace_at_last(self: RedisMoves, *args: Any) -> bool:
        nonlocal is_down
        is_down = True
        return await replace(self, *args)

    async def load_if_up(self: RedisMoves) -> Any:
        if is_down:
            raise StoreUnavailableError("Redis is away")
        return await load(self)

    monkeypatch.setattr(RedisMoves, "replace", replace_at_last)
    monkeypatch.setattr(RedisMoves, "load", load_if_up)
    code, message = await refusal(client.migrate())
    assert (code, "tiny means other now" in message) == ("UNAVAILABLE", True)
    assert await client.model() == "other"


async def test_what_is_left_after_the_switch_is_done_by_another_sidecar(
    start: Start,
    fleet: dict[str, Any],
    texts: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    settled: asyncio.Event,
) -> None:
    one = await start(**fleet)
    monkeypatch.setattr(sidecar.services.model_moves, "POLL_SECONDS", 3600)
    deaf = await start(**fleet)
    monkeypatch.setattr(sidecar.services.model_moves, "POLL_SECONDS", 0.02)
    await one.upsert(texts)
    migration = asyncio.create_task(one.migrate())
    await one.until_model("other")
    migration.cancel()
    await one.stop()
    await deaf.upsert({"eels": "late"})
    await deaf.delete("ants")
    settled.set()
    late = await start(**fleet)
    del texts["ants"]
    await late.until_documents(texts | {"eels": "late"})


async def test_what_cannot_be_brought_over_yet_is_told_and_tried_again(
    start: Start,
    packs: list[Path],
    refusal: Refusal,
    monkeypatch: pytest.MonkeyPatch,
    until: Until,
) -> None:
    client = await start(packs=packs)
    run = DocumentCopy.run

    async def fail(self: DocumentCopy, *, target_wins: bool) -> int:
        if target_wins:
            raise IndexUnavailableError("the index is away")
        return await run(self, target_wins=target_wins)

    monkeypatch.setattr(DocumentCopy, "run", fail)
    code, message = await refusal(client.migrate())
    assert (code, "tiny means other now" in message) == ("UNAVAILABLE", True)
    assert "the index is away" in message
    with structlog.testing.capture_logs() as logs:
        monkeypatch.setattr(DocumentCopy, "run", run)

        async def is_complete() -> bool:
            return any(log["event"] == "a move is complete" for log in logs)

        await until(is_complete)


async def test_who_missed_a_rollback_does_not_undo_it_when_redis_loses_its_state(
    start: Start,
    packs: list[Path],
    redis_server: DevRedis,
    tmp_path: Path,
    view: Callable[[DevRedis], Any],
    refusal: Refusal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Nobody looks unless asked.
    monkeypatch.setattr(sidecar.services.model_moves, "POLL_SECONDS", 3600)
    options = {"packs": packs, "redis": redis_server, "disk": tmp_path / "disk"}
    absent = await start(**options)
    await absent.migrate()
    await absent.stop()
    present = await start(packs=packs, redis=redis_server)
    await present.rollback()
    view(redis_server).client.flushall()
    # It tells Redis what it knows.
    absent = await start(**options)
    assert await absent.model() == "other"
    for client in (present, absent):
        await refusal(client.migrate("whatever makes it look"))
        assert await client.model() == "tiny"
