"""Which tier answers: computed, then hot; warm or disk for what memory has lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from embercache.v1 import common_pb2, embed_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

    HeldModel = Any
    View = Callable[[DevRedis], Any]
    Start = Callable[..., Awaitable[Any]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]


async def test_a_text_is_computed_once_and_then_hot(start: Start) -> None:
    sidecar = await start()
    assert await sidecar.tiers("a text") == ["COMPUTED"]
    assert await sidecar.tiers("a text") == ["HOT"]
    assert await sidecar.tiers("a text") == ["HOT"]
    assert await sidecar.computed() == 1


async def test_what_memory_has_lost_is_answered_by_redis(
    start: Start, redis_server: DevRedis, view: View, eventually: Eventually
) -> None:
    sidecar = await start(redis=redis_server)
    await sidecar.embed("a text")
    await eventually(view(redis_server).entries)
    await sidecar.flush()
    assert await sidecar.tiers("a text") == ["WARM"]
    assert await sidecar.computed() == 1


async def test_what_memory_has_lost_is_answered_by_disk(start: Start, tmp_path: Path) -> None:
    sidecar = await start(disk=tmp_path / "disk")
    await sidecar.embed("a text")
    await sidecar.on_disk(1)
    await sidecar.flush(common_pb2.TIER_HOT)
    assert await sidecar.tiers("a text") == ["DISK"]
    assert await sidecar.computed() == 1


async def test_disk_is_asked_before_redis(
    start: Start, redis_server: DevRedis, tmp_path: Path
) -> None:
    sidecar = await start(redis=redis_server, disk=tmp_path / "disk")
    await sidecar.embed("a text")
    await sidecar.on_disk(1)
    await sidecar.flush(common_pb2.TIER_HOT)
    assert await sidecar.tiers("a text") == ["DISK"]


async def test_disk_answers_after_a_restart(start: Start, tmp_path: Path) -> None:
    first = await start(disk=tmp_path / "disk")
    vectors = await first.vectors("a text")
    await first.stop()
    second = await start(disk=tmp_path / "disk")
    response = await second.embed("a text")
    assert [e.tier for e in response.embeddings] == [common_pb2.TIER_DISK]
    assert [e.vector for e in response.embeddings] == vectors
    assert await second.computed() == 0


async def test_without_disk_and_redis_a_restart_forgets_everything(start: Start) -> None:
    first = await start()
    await first.embed("a text")
    await first.stop()
    second = await start()
    assert await second.tiers("a text") == ["COMPUTED"]


async def test_a_hit_in_redis_becomes_hot_and_goes_to_disk(
    start: Start, redis_server: DevRedis, tmp_path: Path, view: View, eventually: Eventually
) -> None:
    other = await start(redis=redis_server)
    await other.embed("a text")
    await eventually(view(redis_server).entries)
    sidecar = await start(redis=redis_server, disk=tmp_path / "disk")
    assert await sidecar.tiers("a text") == ["WARM"]
    assert await sidecar.tiers("a text") == ["HOT"]
    await sidecar.on_disk(1)
    await sidecar.flush(common_pb2.TIER_HOT)
    assert await sidecar.tiers("a text") == ["DISK"]
    assert await sidecar.tiers("a text") == ["HOT"]


async def test_without_a_hot_tier_redis_answers_every_time(
    start: Start, redis_server: DevRedis, view: View, eventually: Eventually
) -> None:
    sidecar = await start(redis=redis_server, hot={"max_bytes": 0})
    await sidecar.embed("a text")
    await eventually(view(redis_server).entries)
    assert await sidecar.tiers("a text") == ["WARM"]
    assert await sidecar.tiers("a text") == ["WARM"]


@pytest.mark.parametrize("texts", [["a text"], ["a text", "another", "a text"]])
async def test_the_age_of_every_vector_grows_in_every_tier(
    texts: list[str], start: Start, redis_server: DevRedis, view: View, eventually: Eventually
) -> None:
    sidecar = await start(redis=redis_server)

    async def ages() -> list[int]:
        return [e.age_ms for e in (await sidecar.embed(*texts)).embeddings]

    async def grow_beyond(before: list[int]) -> list[int]:
        while min(now := await ages()) <= max(before):
            pass
        return now

    async with asyncio.timeout(20):
        hot = await grow_beyond(await ages())
        whole_response = await grow_beyond(hot)
    assert (await sidecar.stats()).response_hits > 0
    await eventually(lambda: len(view(redis_server).entries()) == len(set(texts)))
    await sidecar.flush()
    assert min(await ages()) >= min(whole_response)
    assert (await sidecar.answered())["WARM"] == len(texts)


async def test_each_item_of_an_answer_has_its_own_age(start: Start) -> None:
    sidecar = await start()
    await sidecar.embed("old")
    async with asyncio.timeout(20):
        while (await sidecar.embed("old")).embeddings[0].age_ms < 20:
            pass
    for _ in range(3):  # computed, then of items, then whole
        new, old = (await sidecar.embed("new", "old")).embeddings
        assert old.age_ms >= new.age_ms + 10


async def test_every_answer_names_the_version_of_the_model(start: Start) -> None:
    sidecar = await start()
    (model,) = (await sidecar.embeds.ListModels(embed_pb2.ListModelsRequest())).models
    for _ in range(3):
        response = await sidecar.embed("a text")
        assert response.model == model.name == "tiny"
        assert response.dimensions == model.dimensions == 8
        assert [e.model_version for e in response.embeddings] == [model.version]
        assert [e.tokens for e in response.embeddings] == [len("a text")]


async def test_a_text_twice_in_a_batch_is_computed_once(start: Start) -> None:
    sidecar = await start()
    response = await sidecar.embed("one", "two", "one", "one")
    assert [e.tier for e in response.embeddings] == [
        common_pb2.TIER_COMPUTED,
        common_pb2.TIER_COMPUTED,
        common_pb2.TIER_COALESCED,
        common_pb2.TIER_COALESCED,
    ]
    first, other, *again = [e.vector for e in response.embeddings]
    assert first != other
    assert again == [first, first]
    assert await sidecar.computed() == 2


async def test_of_a_batch_only_what_is_new_is_computed(start: Start) -> None:
    sidecar = await start()
    old = [f"text {number}" for number in range(63)]
    await sidecar.embed(*old)
    batch = [*old[:40], "something new", *old[40:]]
    assert await sidecar.tiers(*batch) == ["HOT"] * 40 + ["COMPUTED"] + ["HOT"] * 23
    assert await sidecar.computed() == 64


async def test_the_same_new_text_of_many_callers_is_computed_once(
    start: Start, held_model: HeldModel
) -> None:
    sidecar = await start()
    calls = [asyncio.create_task(sidecar.embed("a text")) for _ in range(200)]
    await asyncio.sleep(0)
    # They were sent first, so they have arrived when this one is answered.
    await sidecar.stats()
    held_model.let_go()
    answers = [(await call).embeddings[0] for call in calls]
    assert len({answer.vector for answer in answers}) == 1
    assert await sidecar.computed() == sum(held_model.sizes) == 1
    answered = await sidecar.answered()
    assert answered["COMPUTED"] == 1
    assert answered["COALESCED"] + answered["HOT"] == 199


async def test_a_repeated_call_is_answered_whole(start: Start) -> None:
    sidecar = await start()
    vectors = await sidecar.vectors("one", "two")
    for _ in range(3):
        assert await sidecar.vectors("one", "two") == vectors
    stats = await sidecar.stats()
    # The first call was computed, and the second made of hot items.
    assert stats.response_hits == 2
    assert (await sidecar.answered())["HOT"] == 6


async def test_a_larger_text_than_the_hot_tier_takes_is_answered_all_the_same(
    start: Start,
) -> None:
    sidecar = await start(hot={"max_bytes": 4096})
    for _ in range(2):
        assert await sidecar.tiers("a text") == ["COMPUTED"]


async def test_the_hot_tier_stays_within_its_bytes(start: Start) -> None:
    sidecar = await start(hot={"max_bytes": 64 * 1024})
    for number in range(20):
        await sidecar.embed(*(f"{number} {other}" for other in range(20)))
    hot = (await sidecar.stats()).tiers[0]
    assert 0 < hot.bytes <= hot.capacity_bytes == 64 * 1024
    assert hot.evictions > 0
    assert await sidecar.tiers("0 0") == ["COMPUTED"]
    assert await sidecar.tiers("19 19") == ["HOT"]


async def test_real_meaning_survives_every_tier(
    start: Start, minilm_folder: Path, redis_server: DevRedis, view: View, eventually: Eventually
) -> None:
    sidecar = await start(packs=[minilm_folder], redis=redis_server)
    texts = ("A man eats pasta.", "Somebody is eating noodles.", "The rocket was launched.")
    for tier in ("COMPUTED", "HOT", "WARM"):
        if tier == "WARM":
            await eventually(lambda: len(view(redis_server).entries()) == 3)
            await sidecar.flush()
        response = await sidecar.embed(*texts)
        assert {common_pb2.Tier.Name(e.tier) for e in response.embeddings} == {f"TIER_{tier}"}
        pasta, noodles, rocket = (np.frombuffer(e.vector, "<f4") for e in response.embeddings)
        assert pasta @ noodles > 0.5 > 0.2 > pasta @ rocket
