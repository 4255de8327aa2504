"""Migrations that cannot begin, or do not come to their end."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import sidecar.open_ahead
import sidecar.services.model_migration
import sidecar.services.model_moves
import sidecar.services.move_completion
from sidecar.cache.lease import Leases
from sidecar.index.types import IndexUnavailableError
from sidecar.models.local import LocalEmbedder
from sidecar.services.document_copy import DocumentCopy
from sidecar.services.move_completion import MoveCompletion
from tests.e2e.statuses.requests import SECRET, migrate, rollback
from tests.e2e.statuses.scenario import check
from tests.e2e.statuses.states import (
    ANOTHER_VERSION,
    GOING_ON,
    MOVED_BACK,
    NOT_COMPLETE,
    NOT_FOLLOWED,
    REDIS_AWAY,
    UNUSABLE_DOCUMENT,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

    HeldModel = Any
    Sidecar = Any
    Start = Callable[..., Awaitable[Any]]

HANG_GUARD = 30.0
NAN = "\N{SKULL AND CROSSBONES}"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (
        sidecar.services.model_moves,
        sidecar.services.model_migration,
        sidecar.services.move_completion,
    ):
        monkeypatch.setattr(module, "POLL_SECONDS", 0.02)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.Event]:
    """What is left to do after a move waits for this."""
    settled = asyncio.Event()

    async def wait(_seconds: float) -> None:
        await settled.wait()

    monkeypatch.setattr(sidecar.open_ahead, "MoveCompletion", partial(MoveCompletion, sleep=wait))
    yield settled
    settled.set()


@pytest.fixture
def packs(tiny_pack: Path, make_pack: Callable[..., Path]) -> list[Path]:
    """Three models, of which the first is the default."""
    return [
        tiny_pack,
        *(make_pack(name, name, seed=n) for n, name in enumerate(("other", "third"), 1)),
    ]


async def begin(client: Sidecar, held_model: HeldModel) -> asyncio.Task[Any]:
    """A migration to "other" that has got as far as the first document."""
    await client.upsert({SECRET: SECRET})
    held_model.holds = True
    begun = len(held_model.sizes)
    migration = asyncio.create_task(move(client))
    async with asyncio.timeout(HANG_GUARD):
        while len(held_model.sizes) == begun:
            await asyncio.sleep(0.001)
    return migration


async def move(client: Sidecar) -> None:
    async for _ in client.caches.MigrateModel(migrate(), timeout=HANG_GUARD):
        pass


async def until_moved(client: Sidecar) -> None:
    async with asyncio.timeout(HANG_GUARD):
        while (await client.embed(SECRET)).model != "other":
            await asyncio.sleep(0.001)


async def test_one_migration_goes_on_at_a_time(
    start: Start, packs: Sequence[Path], held_model: HeldModel, subtests: pytest.Subtests
) -> None:
    held_model.holds = False
    client = await start(packs=packs)
    migration = await begin(client, held_model)
    await check(client.channel, GOING_ON, subtests)
    held_model.let_go()
    await migration


async def test_a_move_has_to_be_complete_before_the_next(
    start: Start, packs: Sequence[Path], settled: asyncio.Event, subtests: pytest.Subtests
) -> None:
    client = await start(packs=packs)
    await client.upsert({SECRET: SECRET})
    migration = asyncio.create_task(move(client))
    await until_moved(client)
    await check(client.channel, NOT_COMPLETE, subtests)
    settled.set()
    await migration


async def test_a_document_that_the_other_model_cannot_embed_keeps_the_name_where_it_is(
    start: Start, tiny_pack: Path, make_pack: Callable[..., Path], subtests: pytest.Subtests
) -> None:
    bad = make_pack("bad", "other", seed=1, prompts={"document": NAN})
    client = await start(packs=[tiny_pack, bad])
    await client.upsert({SECRET: SECRET})
    await check(client.channel, UNUSABLE_DOCUMENT, subtests)
    assert (await client.embed(SECRET)).model == "tiny"


async def test_a_model_that_becomes_another_version_keeps_the_name_where_it_is(
    start: Start,
    packs: Sequence[Path],
    monkeypatch: pytest.MonkeyPatch,
    subtests: pytest.Subtests,
) -> None:
    client = await start(packs=packs)
    await client.upsert({SECRET: SECRET})
    submit = LocalEmbedder.submit

    def submit_and_change(embedder: LocalEmbedder, inputs: Any) -> Any:
        works = submit(embedder, inputs)
        if embedder.info.name == "other":
            embedder.info = replace(embedder.info, version="another")
        return works

    monkeypatch.setattr(LocalEmbedder, "submit", submit_and_change)
    await check(client.channel, ANOTHER_VERSION, subtests)
    assert (await client.embed(SECRET)).model == "tiny"


async def test_a_name_that_is_rolled_back_meanwhile_stays_so(
    start: Start, packs: Sequence[Path], settled: asyncio.Event, subtests: pytest.Subtests
) -> None:
    client = await start(packs=packs)

    async def roll_back() -> None:
        await until_moved(client)
        await client.caches.RollbackModel(rollback(), timeout=HANG_GUARD)

    rolling_back = asyncio.create_task(roll_back())
    await check(client.channel, MOVED_BACK, subtests)
    await rolling_back
    assert (await client.embed(SECRET)).model == "tiny"


async def test_a_migration_that_cannot_keep_its_turn_ends(
    start: Start,
    packs: Sequence[Path],
    own_redis: DevRedis,
    held_model: HeldModel,
    monkeypatch: pytest.MonkeyPatch,
    subtests: pytest.Subtests,
) -> None:
    held_model.holds = False
    monkeypatch.setattr(sidecar.open_ahead, "Leases", partial(Leases, seconds=0.5))
    client = await start(packs=packs, redis=own_redis)
    await client.upsert({SECRET: SECRET})
    held_model.holds = True
    begun = len(held_model.sizes)

    async def cut_off() -> None:
        async with asyncio.timeout(HANG_GUARD):
            while len(held_model.sizes) == begun:
                await asyncio.sleep(0.001)
        own_redis.kill()

    cutting = asyncio.create_task(cut_off())
    await check(client.channel, REDIS_AWAY, subtests)
    await cutting
    held_model.let_go()


async def test_documents_that_have_not_followed_yet_are_told(
    start: Start, packs: Sequence[Path], monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    client = await start(packs=packs)
    run = DocumentCopy.run

    async def fail_after_the_move(self: DocumentCopy, *, target_wins: bool) -> int:
        if target_wins:
            raise IndexUnavailableError("the index is away")
        return await run(self, target_wins=target_wins)

    monkeypatch.setattr(DocumentCopy, "run", fail_after_the_move)
    await check(client.channel, NOT_FOLLOWED, subtests)
    assert (await client.embed(SECRET)).model == "other"
