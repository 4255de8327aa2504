"""EmbedStream: many batches over one stream, answered as they are ready."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from embercache.v1 import embed_pb2, embed_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    HeldModel = Any
    Sidecar = Any
    Start = Callable[..., Awaitable[Any]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

HANG_GUARD = 30.0
WINDOW = 8


def message(sidecar: Sidecar, number: int, *texts: str, **fields: Any) -> Any:
    return embed_pb2.EmbedStreamRequest(id=number, request=sidecar.request(*texts, **fields))


async def answers(sidecar: Sidecar, messages: Iterator[Any]) -> dict[int, Any]:
    """The answer to each message by its id."""
    call = sidecar.embeds.EmbedStream(messages, timeout=HANG_GUARD)
    return {answer.id: answer async for answer in call}


async def waiting(sidecar: Sidecar) -> int:
    """How many inputs wait for the model."""
    return (await sidecar.stats()).models[0].queued


async def test_every_request_is_answered_under_its_id(start: Start) -> None:
    sidecar = await start()
    texts = {number: [f"{number} {i}" for i in range(number % 5 + 1)] for number in range(100)}
    got = await answers(sidecar, (message(sidecar, n, *batch) for n, batch in texts.items()))
    assert got.keys() == texts.keys()
    for number, batch in texts.items():
        vectors = [e.vector for e in got[number].response.embeddings]
        assert vectors == await sidecar.vectors(*batch)


async def test_the_largest_id_and_repeated_ids_are_returned_as_they_came(start: Start) -> None:
    sidecar = await start()
    ids = [2**64 - 1, 7, 7, 0]
    call = sidecar.embeds.EmbedStream(
        iter([message(sidecar, number, "a text") for number in ids]), timeout=HANG_GUARD
    )
    assert sorted([answer.id async for answer in call]) == sorted(ids)


async def test_a_stream_without_requests_ends_without_answers(start: Start) -> None:
    sidecar = await start()
    assert await answers(sidecar, iter(())) == {}


async def test_a_hit_does_not_wait_for_a_miss_before_it(
    start: Start, held_model: HeldModel
) -> None:
    held_model.holds = False
    sidecar = await start()
    await sidecar.embed("old")
    held_model.holds = True
    call = sidecar.embeds.EmbedStream(timeout=HANG_GUARD)
    await call.write(message(sidecar, 1, "new"))
    await call.write(message(sidecar, 2, "old"))
    assert (await call.read()).id == 2
    held_model.let_go()
    assert (await call.read()).id == 1
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_a_bad_request_is_answered_by_its_error_and_the_stream_goes_on(
    start: Start,
) -> None:
    sidecar = await start()
    invalid, not_found = (
        code.value[0] for code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
    )
    got = await answers(
        sidecar,
        iter(
            [
                message(sidecar, 1),
                message(sidecar, 2, "a text", model="x"),
                message(sidecar, 3, "a text", namespace="a b"),
                embed_pb2.EmbedStreamRequest(id=4),
                message(sidecar, 5, "a text"),
            ]
        ),
    )
    assert [got[n].error.code for n in range(1, 6)] == [invalid, not_found, invalid, invalid, 0]
    assert "the batch is empty" in got[1].error.message
    assert got[5].response.embeddings[0].vector


async def test_the_server_reads_no_more_than_a_window_of_unanswered_requests(
    start: Start, held_model: HeldModel, eventually: Eventually
) -> None:
    sidecar = await start()
    messages = (message(sidecar, n, f"text {n}") for n in range(100))
    call = asyncio.create_task(answers(sidecar, messages))

    async def read() -> int:
        # In this order, since what the model takes meanwhile would be counted twice.
        taken = sum(held_model.sizes)
        return taken + await waiting(sidecar)

    async with asyncio.timeout(HANG_GUARD):
        while await read() < WINDOW:
            pass
    for _ in range(50):  # time in which it could read more
        assert await read() <= WINDOW
    held_model.let_go()
    assert len(await call) == 100


async def test_a_client_that_does_not_read_is_not_computed_for(start: Start) -> None:
    sidecar = await start()
    batches = [[f"{n} {i}" for i in range(500)] for n in range(60)]
    # Little fits on the way to a client whose window does not grow.
    options = [("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(sidecar.address, options=options) as channel:
        call = embed_pb2_grpc.EmbedServiceStub(channel).EmbedStream(timeout=HANG_GUARD)

        async def write() -> None:
            for number, batch in enumerate(batches):
                await call.write(message(sidecar, number, *batch))
            await call.done_writing()

        writing = asyncio.create_task(write())
        computed, same = 0, 0
        while same < 20 or not computed:
            now = await sidecar.computed()
            computed, same = now, same + 1 if now == computed else 0
        assert computed <= 3 * WINDOW * 500
        assert sorted([answer.id async for answer in call]) == list(range(60))
        await writing
    assert await sidecar.computed() == 60 * 500


async def test_work_is_abandoned_when_the_client_cancels(
    start: Start, held_model: HeldModel
) -> None:
    sidecar = await start()
    call = sidecar.embeds.EmbedStream(timeout=HANG_GUARD)
    await call.write(message(sidecar, 0, "first"))
    async with asyncio.timeout(HANG_GUARD):
        while not held_model.sizes:
            await sidecar.stats()
        for number in range(1, 6):
            await call.write(message(sidecar, number, f"{number} a", f"{number} b"))
        while await waiting(sidecar) < 10:
            pass
    call.cancel()
    await asyncio.sleep(0)
    for _ in range(10):  # what was sent before has arrived when these are answered
        await sidecar.stats()
    held_model.let_go()
    assert await sidecar.tiers("another") == ["COMPUTED"]
    model = (await sidecar.stats()).models[0]
    assert (model.computed, model.abandoned, model.queued) == (2, 10, 0)


async def test_a_message_over_the_limit_is_refused_and_the_stream_goes_on(start: Start) -> None:
    sidecar = await start(server={"address": "127.0.0.1:0", "max_message_bytes": 4096})
    texts = ["good", "x" * 6000, "also good"]
    got = await answers(sidecar, (message(sidecar, n, text) for n, text in enumerate(texts)))
    assert got[0].response.embeddings[0].vector
    assert got[1].error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert "more than the 4096 allowed: split the batch" in got[1].error.message
    assert got[2].response.embeddings[0].vector


async def test_a_message_far_over_the_limit_ends_the_stream_and_nothing_else(
    start: Start,
) -> None:
    sidecar = await start(server={"address": "127.0.0.1:0", "max_message_bytes": 4096})
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await answers(sidecar, iter([message(sidecar, 1, "x" * 9000)]))
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await answers(sidecar, iter([message(sidecar, 1, "good")])))[1].response


async def test_many_streams_at_once_answer_right(start: Start) -> None:
    sidecar = await start()

    async def one(stream: int) -> None:
        batch = [f"text {stream % 3} {i}" for i in range(4)]
        got = await answers(sidecar, (message(sidecar, n, *batch) for n in range(10)))
        (expected,) = {tuple(e.vector for e in a.response.embeddings) for a in got.values()}
        truth = await sidecar.vectors(*batch)
        for vector, exact in zip(expected, truth, strict=True):
            assert np.array_equal(np.frombuffer(vector, "<f4"), np.frombuffer(exact, "<f4"))

    await asyncio.gather(*(one(stream) for stream in range(12)))
    assert await sidecar.computed() == 12
