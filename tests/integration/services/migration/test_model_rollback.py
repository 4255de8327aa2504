"""A name that means its own model again, with the documents that came meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest

import sidecar.services.model_migration
import sidecar.services.move_completion
from sidecar.services.document_copy import DocumentCopy
from sidecar.services.errors import CallError
from sidecar.services.model_moves import ModelMoves

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

    Refusal = Callable[[Awaitable[Any]], Awaitable[tuple[str, str]]]
    Start = Callable[..., Awaitable[Any]]
    Until = Callable[[Callable[[], Awaitable[object]]], Awaitable[None]]

HANG_GUARD = 30.0


async def test_a_name_can_go_on_to_a_third_model_and_all_the_way_back(
    start: Start,
    packs: list[Path],
    make_pack: Callable[..., Path],
    texts: dict[str, str],
) -> None:
    client = await start(packs=[*packs, make_pack("third", "third", seed=2)])
    await client.upsert(texts)
    await client.migrate()
    await client.upsert({"eels": "new"})
    await client.migrate(to="third")
    assert await client.model() == "third"
    await client.delete("ants")
    assert set(await client.documents()) == {*texts, "eels"} - {"ants"}
    await client.rollback()
    assert await client.model() == "tiny"
    del texts["ants"]
    await client.until_documents(texts | {"eels": "new"})


async def test_a_rollback_moves_the_name_at_once_and_brings_documents_back(
    start: Start, packs: list[Path], texts: dict[str, str]
) -> None:
    client = await start(packs=packs)
    await client.upsert(texts)
    old = await client.vectors("query")
    await client.migrate()
    await client.upsert({"eels": "new", "bees": "changed"})
    await client.delete("dogs")
    await client.rollback("tiny")
    assert await client.vectors("query") == old
    del texts["dogs"]
    await client.until_documents(texts | {"bees": "changed", "eels": "new"})
    await client.rollback()  # nothing is left to do


async def test_after_a_rollback_the_name_can_move_again(
    start: Start, packs: list[Path], texts: dict[str, str]
) -> None:
    client = await start(packs=packs)
    await client.upsert(texts)
    for _ in range(2):
        async with asyncio.timeout(HANG_GUARD):
            while True:
                try:
                    await client.migrate()
                    break
                except grpc.aio.AioRpcError as error:
                    if "still being brought back" not in str(error.details()):
                        raise
        assert await client.model() == "other"
        await client.rollback()
        assert await client.model() == "tiny"


async def test_a_rollback_whose_documents_are_gone_does_not_bar_the_name(
    start: Start, packs: list[Path], redis_server: DevRedis, texts: dict[str, str]
) -> None:
    first = await start(packs=packs, redis=redis_server)
    await first.upsert(texts)
    await first.migrate()
    await first.stop()
    # What its index had has ended with it.
    client = await start(packs=packs, redis=redis_server)
    assert await client.model() == "other"
    await client.rollback()
    await client.migrate()
    assert await client.model() == "other"


class Copying:
    """Models that documents cannot be copied to, and how often that was tried."""

    def __init__(self) -> None:
        self.fails_to: set[str] = set()
        self.failures = 0

    async def has_failed(self) -> int:
        return self.failures


@pytest.fixture
def copying(monkeypatch: pytest.MonkeyPatch) -> Copying:
    """Documents are copied until it says otherwise."""
    copying = Copying()
    run = DocumentCopy.run

    async def run_if_it_works(self: DocumentCopy, *, target_wins: bool) -> int:
        if self._target.info.name in copying.fails_to:
            copying.failures += 1
            raise RuntimeError("a blip")
        return await run(self, target_wins=target_wins)

    monkeypatch.setattr(DocumentCopy, "run", run_if_it_works)
    return copying


async def test_an_attempt_that_fails_loses_no_change(
    start: Start, packs: list[Path], texts: dict[str, str], copying: Copying, until: Until
) -> None:
    client = await start(packs=packs)
    await client.upsert(texts)
    await client.migrate()
    await client.upsert({"eels": "new", "bees": "changed"})
    await client.delete("dogs")
    copying.fails_to = {"tiny"}
    await client.rollback()
    await until(copying.has_failed)
    assert await client.documents() == texts
    copying.fails_to = set()
    del texts["dogs"]
    await client.until_documents(texts | {"bees": "changed", "eels": "new"})


async def test_a_sidecar_that_ends_after_a_rollback_loses_no_change(
    start: Start, fleet: dict[str, Any], texts: dict[str, str], copying: Copying
) -> None:
    client = await start(**fleet)
    await client.upsert(texts)
    await client.migrate()
    await client.upsert({"eels": "new", "bees": "changed"})
    await client.delete("dogs")
    copying.fails_to = {"tiny"}
    await client.rollback()
    await client.stop()
    copying.fails_to = set()
    client = await start(**fleet)
    del texts["dogs"]
    await client.until_documents(texts | {"bees": "changed", "eels": "new"})


async def test_what_was_all_deleted_does_not_come_back(
    start: Start, packs: list[Path], texts: dict[str, str]
) -> None:
    client = await start(packs=packs)
    await client.upsert(texts)
    await client.upsert({"eels": "in another collection"}, collection="others")
    await client.migrate()
    await client.delete(*texts)
    await client.rollback()
    await client.until_documents({})
    assert set(await client.documents(collection="others")) == {"eels"}


async def test_a_write_right_after_a_rollback_is_kept(
    start: Start, packs: list[Path], texts: dict[str, str], copying: Copying, until: Until
) -> None:
    client = await start(packs=packs)
    await client.upsert(texts)
    await client.migrate()
    await client.upsert({"bees": "changed while moved", "eels": "new", "cats": "changed too"})
    copying.fails_to = {"tiny"}
    await client.rollback()
    await client.upsert({"bees": "newest"})
    await client.delete("ants", "cats")
    await until(copying.has_failed)
    copying.fails_to = set()
    await client.until_documents({"bees": "newest", "dogs": texts["dogs"], "eels": "new"})


async def test_what_is_deleted_between_two_attempts_at_a_migration_stays_deleted(
    start: Start,
    packs: list[Path],
    texts: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refusal: Refusal,
) -> None:
    options = {"packs": packs, "index": {"url": f"memory://{tmp_path}/index"}}
    client = await start(**options)
    await client.upsert(texts)

    async def refuse(*args: object) -> None:
        raise CallError(grpc.StatusCode.UNAVAILABLE, "cut short")

    with monkeypatch.context() as patch:
        patch.setattr(ModelMoves, "change", refuse)
        patch.setattr(sidecar.services.model_migration, "_ATTEMPTS", 1)
        assert (await refusal(client.migrate()))[1] == "cut short"
    assert await client.documents(model="other") == texts
    await client.stop()
    client = await start(**options)
    await client.delete("dogs")
    await client.migrate()
    del texts["dogs"]
    assert (await client.model(), await client.documents()) == ("other", texts)


async def test_one_model_that_cannot_be_brought_back_holds_up_no_other(
    start: Start,
    packs: list[Path],
    make_pack: Callable[..., Path],
    copying: Copying,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sidecar.services.move_completion, "_RETRY_SECONDS", 3600)
    client = await start(packs=[*packs, make_pack("third", "third", seed=2)])
    await client.upsert({"ants": "of tiny"}, model="tiny", collection="one")
    await client.migrate()
    await client.migrate(model="third")
    copying.fails_to = {"tiny"}
    await client.rollback("tiny")
    await until(copying.has_failed)
    await client.upsert({"bees": "of third"}, model="third")
    await client.rollback("third")

    async def is_back() -> bool:
        return await client.documents(model="third") == {"bees": "of third"}

    await until(is_back)
