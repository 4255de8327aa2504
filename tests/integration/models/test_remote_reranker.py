"""A reranker of an encoder pool, over real gRPC: what is asked, and what answers mean."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import common_pb2, search_pb2, search_pb2_grpc

from sidecar.models.remote_model import BYTES_A_CALL, INPUTS_A_CALL
from sidecar.models.remote_reranker import RemoteReranker
from sidecar.models.types import (
    InputRejectedError,
    ModelError,
    ModelUnavailableError,
    QueueFullError,
    RerankerInfo,
    VersionChangedError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sidecar.models.types import Pair

HANG_GUARD = 20.0
Code = grpc.StatusCode


class Pool(search_pb2_grpc.SearchServiceServicer):
    """An encoder whose scores are the lengths of the passages less those of the queries.

    ``statuses`` are what it ends the next calls with. A passage "bad" has an error. While it
    ``holds``, calls wait.
    """

    def __init__(self) -> None:
        self.version = "1"
        self.requests: list[search_pb2.RerankRequest] = []
        self.statuses: list[grpc.StatusCode] = []
        self.score: Callable[[str, str], float] = lambda query, passage: len(passage) - len(query)
        self.extra_scores = 0
        self.holds = False
        self.cancelled = asyncio.Event()
        self.held = asyncio.Event()

    async def Rerank(self, request: Any, context: Any) -> search_pb2.RerankResponse:  # noqa: N802
        if request.reranker != "mine":
            await context.abort(Code.NOT_FOUND, "unknown reranker")
        if request.reranker_version not in ("", self.version):
            await context.abort(Code.FAILED_PRECONDITION, f"it is version {self.version}")
        response = search_pb2.RerankResponse(reranker="mine", reranker_version=self.version)
        if not request.passages:
            return response
        self.requests.append(request)
        if self.statuses:
            await context.abort(self.statuses.pop(0), "refused")
        if self.holds:
            self.held.set()
            try:
                await asyncio.sleep(HANG_GUARD)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        for passage in request.passages:
            score = response.scores.add()
            if passage == "bad":
                score.error.code, score.error.message = Code.INVALID_ARGUMENT.value[0], "no good"
            else:
                score.score = self.score(request.query, passage)
        response.scores.extend([search_pb2.RerankScore()] * self.extra_scores)
        return response


@pytest.fixture
async def pool() -> AsyncIterator[tuple[Pool, str]]:
    """A pool, and its address."""
    service = Pool()
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    search_pb2_grpc.add_SearchServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield service, f"127.0.0.1:{port}"
    await server.stop(0)


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Awaitable[RemoteReranker]]]:
    """Makes rerankers of the pool at an address."""
    made: list[RemoteReranker] = []

    async def make(address: str, name: str = "mine", queue_pairs: int = 1000) -> RemoteReranker:
        made.append(RemoteReranker(name, address, queue_pairs=queue_pairs, timeout=HANG_GUARD))
        await made[-1].start()
        return made[-1]

    yield make
    for reranker in made:
        await reranker.close()


async def outcomes(futures: list[asyncio.Future[float]]) -> list[Any]:
    return await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), HANG_GUARD)


async def test_the_reranker_is_what_the_pool_says_it_is(pool: Any, connect: Any) -> None:
    reranker = await connect(pool[1])
    assert reranker.info == RerankerInfo("mine", "1", pool[1])
    assert pool[0].requests == []


async def test_scores_come_in_the_order_of_the_pairs(pool: Any, connect: Any) -> None:
    reranker = await connect(pool[1])
    pairs: list[Pair] = [
        ("q", "one"),
        ("query", "three"),
        ("q", "four"),
        ("query", ""),
        ("q", "one"),
    ]
    assert await outcomes(reranker.submit(pairs)) == [2, 0, 3, -5, 2]
    assert reranker.counters.computed == 5
    assert reranker.queued == 0


async def test_a_call_has_one_query_and_all_its_passages(pool: Any, connect: Any) -> None:
    reranker = await connect(pool[1])
    await outcomes(reranker.submit([("a", "1"), ("b", "2"), ("a", "3")]))
    asked = {request.query: list(request.passages) for request in pool[0].requests}
    assert asked == {"a": ["1", "3"], "b": ["2"]}


async def test_the_pool_is_asked_for_the_version_and_not_to_use_its_cache(
    pool: Any, connect: Any
) -> None:
    reranker = await connect(pool[1])
    await outcomes(reranker.submit([("a", "1")]))
    (request,) = pool[0].requests
    assert (request.reranker, request.reranker_version) == ("mine", "1")
    assert request.cache.mode == common_pb2.CACHE_MODE_BYPASS


async def test_calls_are_bounded_in_passages_and_in_bytes(pool: Any, connect: Any) -> None:
    reranker = await connect(pool[1])
    long = "\N{GRINNING FACE}" * (BYTES_A_CALL // 12)
    pairs = [("a", str(number)) for number in range(INPUTS_A_CALL + 1)] + [("b", long)] * 6
    found = await outcomes(reranker.submit(pairs))
    assert found == [len(passage) - 1 for _, passage in pairs]
    assert sorted(len(r.passages) for r in pool[0].requests) == [1, 3, 3, INPUTS_A_CALL]
    assert max(request.ByteSize() for request in pool[0].requests) <= BYTES_A_CALL + 1000


async def test_no_pairs_are_no_call(pool: Any, connect: Any) -> None:
    reranker = await connect(pool[1])
    assert reranker.submit([]) == []
    assert pool[0].requests == []


# Failures


async def test_the_error_of_a_passage_is_its_own(pool: Any, connect: Any) -> None:
    reranker = await connect(pool[1])
    good, bad = await outcomes(reranker.submit([("a", "one"), ("a", "bad")]))
    assert good == 2
    assert isinstance(bad, InputRejectedError)
    assert str(bad) == "no good"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
async def test_a_score_that_is_no_number_is_an_error(
    number: float, pool: Any, connect: Any
) -> None:
    reranker = await connect(pool[1])
    pool[0].score = lambda _, passage: number if passage == "odd" else 1
    odd, good = await outcomes(reranker.submit([("a", "odd"), ("a", "even")]))
    assert type(odd) is ModelError
    assert good == 1


async def test_a_wrong_number_of_scores_fails_the_call(pool: Any, connect: Any) -> None:
    reranker = await connect(pool[1])
    pool[0].extra_scores = 1
    found = await outcomes(reranker.submit([("a", "1"), ("a", "2")]))
    assert {type(outcome) for outcome in found} == {ModelError}


@pytest.mark.parametrize("status", [Code.UNAVAILABLE, Code.CANCELLED])
async def test_a_refused_call_is_sent_again(status: Any, pool: Any, connect: Any) -> None:
    reranker = await connect(pool[1])
    pool[0].statuses = [status]
    assert await outcomes(reranker.submit([("a", "one")])) == [2]
    assert len(pool[0].requests) == 2


@pytest.mark.parametrize(
    ("status", "kind"),
    [(Code.RESOURCE_EXHAUSTED, QueueFullError), (Code.INTERNAL, ModelError)],
)
async def test_what_ends_a_call_fails_its_pairs(
    status: Any, kind: type[ModelError], pool: Any, connect: Any
) -> None:
    reranker = await connect(pool[1])
    pool[0].statuses = [status]
    found = await outcomes(reranker.submit([("a", "1"), ("a", "2")]))
    assert [type(outcome) for outcome in found] == [kind, kind]
    assert len(pool[0].requests) == 1


async def test_another_version_is_told_and_used_from_then_on(pool: Any, connect: Any) -> None:
    reranker = await connect(pool[1])
    pool[0].version = "2"
    (error,) = await outcomes(reranker.submit([("a", "one")]))
    assert isinstance(error, VersionChangedError)
    assert reranker.info.version == "2"
    assert await outcomes(reranker.submit([("a", "one")])) == [2]


async def test_a_reranker_that_the_pool_lacks_is_not_available(pool: Any, connect: Any) -> None:
    reranker = await connect(pool[1], name="other")
    with pytest.raises(ModelUnavailableError, match=r"does it serve other\?"):
        _ = reranker.info
    with pytest.raises(ModelUnavailableError):
        reranker.submit([("a", "one")])


# The queue


async def test_pairs_under_way_are_bounded(pool: Any, connect: Any) -> None:
    reranker = await connect(pool[1], queue_pairs=3)
    pool[0].holds = True
    futures = reranker.submit([("a", "1"), ("b", "2")])
    with pytest.raises(QueueFullError):
        reranker.submit([("a", "3"), ("a", "4")])
    assert (reranker.queued, reranker.counters.shed) == (2, 2)
    for future in futures:
        future.cancel()


async def test_a_call_whose_pairs_are_all_cancelled_is_cancelled(pool: Any, connect: Any) -> None:
    reranker = await connect(pool[1])
    pool[0].holds = True
    first, second = reranker.submit([("a", "1"), ("a", "2")])
    await asyncio.wait_for(pool[0].held.wait(), HANG_GUARD)
    first.cancel()
    await asyncio.sleep(0)
    assert not pool[0].cancelled.is_set()
    second.cancel()
    await asyncio.wait_for(pool[0].cancelled.wait(), HANG_GUARD)
    assert (reranker.queued, reranker.counters.abandoned) == (0, 2)


async def test_close_fails_the_pairs_under_way(pool: Any, connect: Any) -> None:
    reranker = await connect(pool[1])
    pool[0].holds = True
    futures = reranker.submit([("a", "1"), ("b", "2")])
    await reranker.close()
    found = await outcomes(futures)
    assert [type(outcome) for outcome in found] == [ModelUnavailableError] * 2
