"""Deadlines of callers in front of an encoder pool, over real gRPC."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import search_pb2, search_pb2_grpc

from sidecar.demand import Demand, act_for
from sidecar.models.remote_reranker import RemoteReranker
from sidecar.models.types import QueueFullError, TooLateError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HANG_GUARD = 20.0
PAIR = ("a query", "a passage")


class Pool(search_pb2_grpc.SearchServiceServicer):
    """An encoder that scores when it is let, and notes how long its callers wait at most."""

    def __init__(self) -> None:
        self.time_left: list[float | None] = []
        self.slow = ""  # if set, only queries of these words wait
        self.refusal = ""
        self.trailers: tuple[tuple[str, str], ...] = ()
        self.answers = asyncio.Event()
        self.answers.set()

    async def Rerank(self, request: Any, context: Any) -> search_pb2.RerankResponse:  # noqa: N802
        response = search_pb2.RerankResponse(reranker="mine", reranker_version="1")
        if request.passages:
            self.time_left.append(context.time_remaining())
            if self.refusal:
                code = grpc.StatusCode.RESOURCE_EXHAUSTED
                await context.abort(code, self.refusal, self.trailers)
            if self.slow in request.query:
                await self.answers.wait()
        for _ in request.passages:
            response.scores.add(score=1)
        return response


class Rig:
    def __init__(self, pool: Pool, reranker: RemoteReranker) -> None:
        self.pool, self.reranker = pool, reranker
        self.submit, self.counters = reranker.submit, reranker.counters

    async def outcome(self, future: asyncio.Future[float]) -> Any:
        (found,) = await asyncio.wait_for(
            asyncio.gather(future, return_exceptions=True), HANG_GUARD
        )
        return found

    async def called(self, times: int) -> None:
        async with asyncio.timeout(HANG_GUARD):
            while len(self.pool.time_left) < times:
                await asyncio.sleep(0.001)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    pool = Pool()
    server = grpc.aio.server()
    search_pb2_grpc.add_SearchServiceServicer_to_server(pool, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    target = f"127.0.0.1:{port}"
    reranker = RemoteReranker("mine", target, queue_pairs=100, timeout=HANG_GUARD)
    await reranker.start()
    yield Rig(pool, reranker)
    pool.answers.set()
    await reranker.close()
    await server.stop(0)


def on_behalf_of(seconds: float) -> Demand:
    """Whoever asks from now on waits so long."""
    who = Demand(deadline=time.monotonic() + seconds)
    act_for(who)
    return who


async def test_the_pool_hears_how_long_the_caller_waits(rig: Rig) -> None:
    assert await rig.outcome(rig.submit([PAIR])[0]) == 1
    on_behalf_of(5)
    assert await rig.outcome(rig.submit([PAIR])[0]) == 1
    timeout, left = rig.pool.time_left
    assert timeout is not None
    assert left is not None
    assert left < 6 < timeout


async def test_a_deadline_that_passes_is_no_failure_of_the_pool(rig: Rig) -> None:
    rig.pool.answers.clear()
    for number in range(1, 8):  # more than the breaker would bear
        on_behalf_of(0.02)
        error = await rig.outcome(rig.submit([PAIR])[0])
        assert isinstance(error, TooLateError)
        assert rig.counters.dropped_late == number
    rig.pool.answers.set()
    on_behalf_of(HANG_GUARD)
    assert await rig.outcome(rig.submit([PAIR])[0]) == 1


async def test_who_joins_and_waits_longer_has_the_pool_asked_again(rig: Rig) -> None:
    rig.pool.answers.clear()
    who = on_behalf_of(0.2)
    (future,) = rig.submit([PAIR])
    await rig.called(1)
    who.join(Demand(deadline=time.monotonic() + HANG_GUARD))
    await rig.called(2)
    rig.pool.answers.set()
    assert await rig.outcome(future) == 1
    assert rig.counters.dropped_late == 0


async def test_a_short_call_is_taken_beside_long_ones(rig: Rig) -> None:
    rig.pool.slow = "long"
    rig.pool.answers.clear()
    long = rig.submit([("long", "a passage")] * 2)
    await rig.called(1)
    on_behalf_of(HANG_GUARD / 2)
    assert await rig.outcome(rig.submit([PAIR])[0]) == 1
    assert not any(future.done() for future in long)
    rig.pool.answers.set()
    assert [await rig.outcome(future) for future in long] == [1, 1]
    assert rig.counters.refused_late == 0


@pytest.mark.parametrize(
    ("trailers", "kind", "again"),
    [
        ((("embercache-reason", "deadline"),), TooLateError, None),
        (
            (("grpc-retry-pushback-ms", "1500"), ("embercache-reason", "deadline")),
            TooLateError,
            1.5,
        ),
        ((("embercache-reason", "one that is not known here"),), QueueFullError, None),
        ((), QueueFullError, None),
    ],
)
async def test_what_the_pool_refuses_for_its_deadline_is_counted_as_such(
    trailers: tuple[tuple[str, str], ...], kind: type[Exception], again: float | None, rig: Rig
) -> None:
    rig.pool.refusal, rig.pool.trailers = "no place before the deadline", trailers
    error = await rig.outcome(rig.submit([PAIR])[0])
    assert type(error) is kind
    assert (str(error), error.retry_after) == (rig.pool.refusal, again)
    assert (rig.counters.shed, rig.counters.refused_late) == (1, kind is TooLateError)
