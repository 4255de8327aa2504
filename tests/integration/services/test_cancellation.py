"""Callers that go away, and computations that fail, do no harm to the others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import common_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

    HeldModel = Any
    Sidecar = Any
    Start = Callable[..., Awaitable[Any]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

INTERNAL = grpc.StatusCode.INTERNAL.value[0]


async def arrived(sidecar: Sidecar) -> None:
    """What was sent, or cancelled, before has arrived afterwards."""
    await asyncio.sleep(0)
    for _ in range(10):
        await sidecar.stats()


async def cancel(sidecar: Sidecar, *calls: asyncio.Task[Any]) -> None:
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    await arrived(sidecar)


async def test_a_request_that_was_given_up_is_not_computed(
    start: Start, held_model: HeldModel, eventually: Eventually
) -> None:
    sidecar = await start()
    first = asyncio.create_task(sidecar.embed("first"))
    await eventually(lambda: held_model.sizes)
    second = asyncio.create_task(sidecar.embed("second"))
    await arrived(sidecar)
    await cancel(sidecar, second)
    held_model.let_go()
    await first
    assert await sidecar.tiers("third") == ["COMPUTED"]
    model = (await sidecar.stats()).models[0]
    assert (model.computed, model.abandoned) == (2, 1)
    assert held_model.sizes == [1, 1]


async def test_a_request_whose_deadline_has_passed_is_not_computed(
    start: Start, held_model: HeldModel, eventually: Eventually
) -> None:
    sidecar = await start()
    first = asyncio.create_task(sidecar.embed("first"))
    await eventually(lambda: held_model.sizes)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await sidecar.embeds.Embed(sidecar.request("late"), timeout=0.05)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await arrived(sidecar)
    held_model.let_go()
    await first
    assert await sidecar.tiers("third") == ["COMPUTED"]
    assert held_model.sizes == [1, 1]


async def test_a_hit_meets_its_deadline_while_the_model_is_busy(
    start: Start, held_model: HeldModel, eventually: Eventually
) -> None:
    held_model.holds = False
    sidecar = await start()
    await sidecar.embed("old")
    held_model.holds = True
    miss = asyncio.create_task(sidecar.embed("new"))
    await eventually(lambda: len(held_model.sizes) == 2)
    assert await sidecar.tiers("old") == ["HOT"]
    held_model.let_go()
    await miss


async def test_a_leader_that_goes_away_does_not_fail_the_callers_that_follow(
    start: Start, held_model: HeldModel, eventually: Eventually
) -> None:
    sidecar = await start()
    leader = asyncio.create_task(sidecar.embed("a text"))
    await eventually(lambda: held_model.sizes)
    followers = [asyncio.create_task(sidecar.tiers("a text")) for _ in range(5)]
    await arrived(sidecar)
    await cancel(sidecar, leader)
    held_model.let_go()
    assert [await follower for follower in followers] == [["COALESCED"]] * 5
    assert held_model.sizes == [1]


async def test_a_leader_that_goes_away_in_the_queue_leaves_its_place_to_the_others(
    start: Start, held_model: HeldModel, eventually: Eventually
) -> None:
    sidecar = await start()
    blocker = asyncio.create_task(sidecar.embed("blocker"))
    await eventually(lambda: held_model.sizes)
    leader = asyncio.create_task(sidecar.embed("a text", "one that only the leader wants"))
    await arrived(sidecar)
    follower = asyncio.create_task(sidecar.tiers("a text"))
    await arrived(sidecar)
    await cancel(sidecar, leader)
    held_model.let_go()
    await blocker
    assert await follower == ["COALESCED"]
    assert sum(held_model.sizes) == 2


async def test_one_caller_of_two_that_goes_away_does_not_fail_the_other(
    start: Start, held_model: HeldModel, eventually: Eventually
) -> None:
    sidecar = await start()
    leader = asyncio.create_task(sidecar.tiers("a text"))
    await eventually(lambda: held_model.sizes)
    follower = asyncio.create_task(sidecar.embed("a text"))
    await arrived(sidecar)
    await cancel(sidecar, follower)
    held_model.let_go()
    assert await leader == ["COMPUTED"]


async def test_a_text_that_everybody_gave_up_can_be_asked_for_again(
    start: Start, held_model: HeldModel, eventually: Eventually
) -> None:
    sidecar = await start()
    calls = [asyncio.create_task(sidecar.embed("a text")) for _ in range(3)]
    await eventually(lambda: held_model.sizes)
    await arrived(sidecar)
    await cancel(sidecar, *calls)
    again = asyncio.create_task(sidecar.tiers("a text"))
    await arrived(sidecar)
    held_model.let_go()
    assert await again == ["COMPUTED"]


async def test_a_caller_that_goes_away_while_redis_is_asked_leaves_the_others_alone(
    start: Start, own_redis: DevRedis
) -> None:
    sidecar = await start(redis=own_redis)
    await sidecar.embed("warm up")
    own_redis.freeze()
    leader = asyncio.create_task(sidecar.embed("a text"))
    follower = asyncio.create_task(sidecar.tiers("a text"))
    await arrived(sidecar)
    await cancel(sidecar, leader)
    own_redis.thaw()
    assert (await follower)[0] in ("COMPUTED", "COALESCED")
    assert await sidecar.computed() == 2


async def test_a_failed_computation_fails_every_caller_and_the_next_one_tries_again(
    start: Start, held_model: HeldModel, eventually: Eventually
) -> None:
    sidecar = await start()
    held_model.error = RuntimeError("out of memory")
    calls = [asyncio.create_task(sidecar.embed("a text")) for _ in range(5)]
    await eventually(lambda: held_model.sizes)
    await arrived(sidecar)
    held_model.let_go()
    for call in calls:
        (embedding,) = (await call).embeddings
        assert embedding.error.code == INTERNAL
        assert embedding.error.message == (
            "model tiny gave no vector for this input (RuntimeError)"
        )
        assert not embedding.vector
    assert held_model.sizes == [1]
    held_model.error = None
    assert await sidecar.tiers("a text") == ["COMPUTED"]


async def test_a_cancelled_call_of_many_texts_frees_the_queue(
    start: Start, held_model: HeldModel, eventually: Eventually
) -> None:
    sidecar = await start(
        server={"address": "127.0.0.1:0", "max_batch_items": 50}, encoder={"queue_inputs": 50}
    )
    first = asyncio.create_task(sidecar.embed("first"))
    await eventually(lambda: held_model.sizes)
    full = asyncio.create_task(sidecar.embed(*(f"text {n}" for n in range(50))))
    await arrived(sidecar)
    await cancel(sidecar, full)
    # There would be no room for it if the others still counted.
    last = asyncio.create_task(sidecar.tiers("last"))
    await arrived(sidecar)
    held_model.let_go()
    assert await last == ["COMPUTED"]
    await first
    assert (await sidecar.stats()).models[0].abandoned == 50


async def test_the_time_limit_of_a_call_covers_a_bypassing_one_too(
    start: Start, held_model: HeldModel, eventually: Eventually, tmp_path: Path
) -> None:
    sidecar = await start(disk=tmp_path / "disk")
    first = asyncio.create_task(sidecar.embed("first"))
    await eventually(lambda: held_model.sizes)
    request = sidecar.request("late", mode=common_pb2.CACHE_MODE_BYPASS)
    with pytest.raises(grpc.aio.AioRpcError):
        await sidecar.embeds.Embed(request, timeout=0.05)
    await arrived(sidecar)
    held_model.let_go()
    await first
    assert await sidecar.tiers("third") == ["COMPUTED"]
    assert held_model.sizes == [1, 1]
