"""When the model's queue is full: refuse at once, say so, and go on serving hits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import embed_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    HeldModel = Any
    Sidecar = Any
    Start = Callable[..., Awaitable[Any]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
HANG_GUARD = 30.0


@pytest.fixture
async def full(
    start: Start, held_model: HeldModel, eventually: Eventually
) -> tuple[Sidecar, asyncio.Task[Any]]:
    """A sidecar whose model is busy and whose queue is full; the text "old" is hot."""
    held_model.holds = False
    sidecar = await start(
        server={"address": "127.0.0.1:0", "max_batch_items": 4}, encoder={"queue_inputs": 4}
    )
    await sidecar.embed("old")
    held_model.holds = True
    running = asyncio.create_task(sidecar.embed("running"))
    await eventually(lambda: len(held_model.sizes) == 2)
    waiting = asyncio.create_task(sidecar.embed(*"abcd"))
    async with asyncio.timeout(HANG_GUARD):
        while (await sidecar.stats()).models[0].queued < 4:
            pass
    return sidecar, asyncio.gather(running, waiting)


async def test_a_call_that_cannot_be_answered_at_all_is_refused_at_once(
    full: tuple[Sidecar, Any], held_model: HeldModel
) -> None:
    sidecar, others = full
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await sidecar.embed("one", "two")
    assert error.value.code() == EXHAUSTED
    assert error.value.details() == (
        "no room for 2 inputs: 4 wait for the model already and at most 4 may; send fewer at"
        " once, or try again later"
    )
    assert "embercache-reason" not in dict(error.value.trailing_metadata() or ())
    assert (await sidecar.stats()).models[0].shed == 2
    held_model.let_go()
    await others
    assert await sidecar.tiers("one", "two") == ["COMPUTED", "COMPUTED"]


async def test_hits_are_served_while_misses_are_refused(
    full: tuple[Sidecar, Any], held_model: HeldModel
) -> None:
    sidecar, others = full
    for _ in range(3):
        assert await sidecar.tiers("old") == ["HOT"]
    held_model.let_go()
    await others


async def test_hits_of_a_batch_are_answered_beside_its_refused_misses(
    full: tuple[Sidecar, Any], held_model: HeldModel
) -> None:
    sidecar, others = full
    new, old, other = (await sidecar.embed("new", "old", "other")).embeddings
    assert old.vector
    assert new.error.code == other.error.code == EXHAUSTED.value[0]
    assert "try again later" in new.error.message
    held_model.let_go()
    await others


async def test_a_text_that_is_being_computed_already_needs_no_room(
    full: tuple[Sidecar, Any], held_model: HeldModel
) -> None:
    sidecar, others = full
    call = asyncio.create_task(sidecar.tiers("running", "a", "b"))
    await asyncio.sleep(0)
    for _ in range(5):
        await sidecar.stats()
    held_model.let_go()
    assert await call == ["COALESCED"] * 3
    await others


async def test_a_stream_goes_on_after_a_refusal(
    full: tuple[Sidecar, Any], held_model: HeldModel
) -> None:
    sidecar, others = full
    call = sidecar.embeds.EmbedStream(timeout=HANG_GUARD)
    for text in ("new", "old"):
        await call.write(embed_pb2.EmbedStreamRequest(request=sidecar.request(text)))
    got = [await call.read(), await call.read()]
    assert sorted(answer.error.code for answer in got) == [0, EXHAUSTED.value[0]]
    held_model.let_go()
    await others
    await call.write(embed_pb2.EmbedStreamRequest(request=sidecar.request("new")))
    assert (await call.read()).response.embeddings[0].vector
    await call.done_writing()


async def test_the_largest_batch_has_room_when_nothing_waits(start: Start) -> None:
    sidecar = await start(
        server={"address": "127.0.0.1:0", "max_batch_items": 4}, encoder={"queue_inputs": 4}
    )
    assert await sidecar.tiers(*"abcd") == ["COMPUTED"] * 4
