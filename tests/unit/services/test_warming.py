"""Warm: batches, limits and counts, with services that answer as the test wants."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import structlog
from embercache.v1 import cache_pb2, common_pb2, embed_pb2, search_pb2

from sidecar.cache.popular import PopularQueries
from sidecar.models.types import QueueFullError
from sidecar.services.errors import CallError
from sidecar.services.requests import namespace
from sidecar.services.warming import Warmer

if TYPE_CHECKING:
    from collections.abc import Callable

HOT, COMPUTED, COALESCED = (
    common_pb2.TIER_HOT,
    common_pb2.TIER_COMPUTED,
    common_pb2.TIER_COALESCED,
)
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE.value[0]
INTERNAL = grpc.StatusCode.INTERNAL.value[0]
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
INVALID = grpc.StatusCode.INVALID_ARGUMENT.value[0]


class Service:
    """Answers Embed and Search, and remembers what it was asked.

    ``answer`` says for a text which tier answers it, or with which code it fails.
    """

    def __init__(self) -> None:
        self.batches: list[embed_pb2.EmbedRequest] = []
        self.searches: list[search_pb2.SearchRequest] = []
        self.at_once = self.most_at_once = 0
        self.errors: list[Exception] = []
        self.answer: Callable[[str], tuple[int, int]] = lambda text: (COMPUTED, 0)
        self.now = 0.0
        self.slept: list[float] = []

    @property
    def texts(self) -> list[list[str]]:
        return [[item.text for item in batch.inputs] for batch in self.batches]

    async def embed(self, raw: bytes) -> bytes:
        self.batches.append(request := embed_pb2.EmbedRequest.FromString(raw))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if self.errors:
            raise self.errors.pop()
        response = embed_pb2.EmbedResponse()
        for item in request.inputs:
            tier, code = self.answer(item.text)
            embedding = response.embeddings.add(tier=tier)  # type: ignore[arg-type]
            embedding.error.code = code
            embedding.error.message = f"status {code}" if code else ""
        return response.SerializeToString()

    async def search(self, raw: bytes) -> bytes:
        self.searches.append(request := search_pb2.SearchRequest.FromString(raw))
        tier, code = self.answer(request.text)
        if code == INVALID:
            raise CallError(grpc.StatusCode.INVALID_ARGUMENT, "bad")
        return search_pb2.SearchResponse(tier=tier).SerializeToString()  # type: ignore[arg-type]

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def popular() -> PopularQueries:
    return PopularQueries(100, None, "test")


def _namespace(name: str) -> str:
    return namespace(name, "default")


@pytest.fixture
def warmer(service: Service, popular: PopularQueries) -> Warmer:
    return Warmer(
        service.embed, service.search, popular, _namespace, now=service.clock, sleep=service.sleep
    )


async def warm(warmer: Warmer, request: cache_pb2.WarmRequest) -> cache_pb2.WarmProgress:
    """The last message."""
    last = b""
    async for message in warmer.warm(request.SerializeToString()):
        last = message
    return cache_pb2.WarmProgress.FromString(last)


def texts(*names: str, **fields: Any) -> cache_pb2.WarmRequest:
    inputs = [embed_pb2.Input(text=name) for name in names]
    per_second = fields.pop("per_second", 0)
    return cache_pb2.WarmRequest(
        embed=embed_pb2.EmbedRequest(inputs=inputs, **fields), per_second=per_second
    )


def searches(*names: str) -> cache_pb2.WarmRequest:
    requests = [search_pb2.SearchRequest(text=name) for name in names]
    return cache_pb2.WarmRequest(searches=cache_pb2.WarmRequest.Searches(requests=requests))


def popular_queries(count: int) -> cache_pb2.WarmRequest:
    return cache_pb2.WarmRequest(popular=cache_pb2.WarmRequest.Popular(namespace="n", count=count))


def counts(progress: cache_pb2.WarmProgress) -> tuple[int, int, int, int]:
    return progress.total, progress.cached, progress.computed, progress.failed


async def status(warmer: Warmer, request: cache_pb2.WarmRequest) -> tuple[str, str]:
    with pytest.raises(CallError) as error:
        await warm(warmer, request)
    return error.value.code.name, error.value.message


async def test_every_input_is_asked_for_once_with_the_options_of_the_call(
    warmer: Warmer, service: Service
) -> None:
    names = [f"text {number}" for number in range(200)]
    request = texts(*names, model="m", namespace="n", input_type=embed_pb2.INPUT_TYPE_DOCUMENT)
    assert counts(await warm(warmer, request)) == (200, 0, 200, 0)
    assert [name for batch in service.texts for name in batch] == names
    assert max(map(len, service.texts)) == 64
    assert {(batch.model, batch.namespace, batch.input_type) for batch in service.batches} == {
        ("m", "n", embed_pb2.INPUT_TYPE_DOCUMENT)
    }


async def test_long_texts_come_in_smaller_batches(warmer: Warmer, service: Service) -> None:
    await warm(warmer, texts(*["x" * 100_000] * 10))
    assert max(len(batch.SerializeToString()) for batch in service.batches) < 500_000


async def test_what_is_cached_computed_and_failed_is_told_apart(
    warmer: Warmer, service: Service
) -> None:
    outcomes = {
        "hot": (HOT, 0),
        "disk": (common_pb2.TIER_DISK, 0),
        "warm": (common_pb2.TIER_WARM, 0),
        "computed": (COMPUTED, 0),
        "coalesced": (COALESCED, 0),
        "failed": (0, INVALID),
    }
    service.answer = outcomes.__getitem__
    assert counts(await warm(warmer, texts(*outcomes))) == (6, 3, 2, 1)


async def test_no_more_than_two_batches_are_under_way(warmer: Warmer, service: Service) -> None:
    await warm(warmer, texts(*map(str, range(1000))))
    assert service.most_at_once == 2


async def test_the_rate_is_kept(warmer: Warmer, service: Service) -> None:
    await warm(warmer, texts(*map(str, range(100)), per_second=10))
    assert [len(batch) for batch in service.texts] == [10] * 10
    assert service.now == pytest.approx(9)


async def test_what_finds_the_queue_full_is_asked_for_again_and_nothing_else_is(
    warmer: Warmer, service: Service
) -> None:
    full = {"b": 3, "c": 1}

    def answer(text: str) -> tuple[int, int]:
        full[text] = full.get(text, 0) - 1
        return (0, EXHAUSTED) if full[text] >= 0 else (COMPUTED, 0)

    service.answer = answer
    assert counts(await warm(warmer, texts("a", "b", "c"))) == (3, 0, 3, 0)
    assert service.texts == [["a", "b", "c"], ["b", "c"], ["b"], ["b"]]
    assert service.slept == sorted(service.slept)


async def test_a_call_that_is_refused_for_want_of_room_is_made_again(
    warmer: Warmer, service: Service
) -> None:
    service.errors = [QueueFullError("full"), QueueFullError("full")]
    assert counts(await warm(warmer, texts("a", "b"))) == (2, 0, 2, 0)
    assert len(service.slept) == 2


async def test_a_model_that_stays_away_ends_the_warming_after_one_back_off(
    warmer: Warmer, service: Service
) -> None:
    service.answer = lambda text: (0, UNAVAILABLE) if int(text) >= 64 else (COMPUTED, 0)
    ended = await status(warmer, texts(*map(str, range(1000))))
    assert ended == ("UNAVAILABLE", f"status {UNAVAILABLE}")
    # What is begun beside it, at most, backs off too.
    assert len(service.slept) <= 2 * 12
    assert len(service.batches) <= 1 + 2 * 12


async def test_a_call_that_stays_refused_ends_a_warming_of_searches_too(
    warmer: Warmer, service: Service
) -> None:
    def refuse(text: str) -> tuple[int, int]:
        raise QueueFullError("the queue is full: ask later")

    service.answer = refuse
    ended = await status(warmer, searches("a", "b", "c"))
    assert ended == ("RESOURCE_EXHAUSTED", "the queue is full: ask later")


async def test_the_log_says_once_why_items_failed_and_names_none_of_them(
    warmer: Warmer, service: Service
) -> None:
    outcomes = {"good": 0, "wrong": INVALID, "wrong too": INVALID, "broken": INTERNAL}
    service.answer = lambda text: (COMPUTED, outcomes[text])
    with structlog.testing.capture_logs() as logs:
        assert counts(await warm(warmer, texts(*outcomes))) == (4, 0, 1, 3)
    assert logs == [
        {
            "event": "items could not be warmed",
            "statuses": {"INVALID_ARGUMENT": 2, "INTERNAL": 1},
            "log_level": "warning",
        }
    ]


async def test_nothing_is_logged_of_a_warming_that_went_well(warmer: Warmer) -> None:
    with structlog.testing.capture_logs() as logs:
        await warm(warmer, texts("a"))
    assert logs == []


@pytest.mark.parametrize("request_", [texts("a", "b"), searches("a", "b")], ids=["texts", "search"])
async def test_a_warming_of_which_all_fails_ends_with_the_first_error(
    request_: cache_pb2.WarmRequest, warmer: Warmer, service: Service
) -> None:
    service.answer = lambda text: (0, INVALID)
    messages = warmer.warm(request_.SerializeToString())
    # All of it was tried, and is counted, before.
    assert counts(cache_pb2.WarmProgress.FromString(await anext(messages))) == (2, 0, 0, 2)
    with pytest.raises(CallError) as error:
        await anext(messages)
    assert error.value.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_warming_of_nothing_is_no_error(warmer: Warmer) -> None:
    assert counts(await warm(warmer, popular_queries(5))) == (0, 0, 0, 0)


async def test_an_error_of_the_call_as_a_whole_ends_a_warming_of_texts(
    warmer: Warmer, service: Service
) -> None:
    service.errors = [CallError(grpc.StatusCode.NOT_FOUND, "no such model here")]
    assert await status(warmer, texts("a")) == ("NOT_FOUND", "no such model here")


async def test_searches_are_made_as_they_are_and_each_may_fail_alone(
    warmer: Warmer, service: Service
) -> None:
    outcomes = {"a": (HOT, 0), "b": (COMPUTED, 0), "c": (0, INVALID)}
    service.answer = outcomes.__getitem__
    assert counts(await warm(warmer, searches("a", "b", "c"))) == (3, 1, 1, 1)
    assert sorted(request.text for request in service.searches) == ["a", "b", "c"]


async def test_popular_queries_are_asked_again_with_like_ones_in_one_batch(
    warmer: Warmer, service: Service, popular: PopularQueries
) -> None:
    for number in range(5):
        item = [embed_pb2.Input(text=str(number))]
        for model in ("a", "b"):
            request = embed_pb2.EmbedRequest(inputs=item, model=model)
            popular.note("embed", "n", request.SerializeToString(), 10 - number)
    popular.note("search", "n", search_pb2.SearchRequest(text="s").SerializeToString(), 20)
    popular.note("embed", "n", b"\xff not a request", 20)
    popular.note("embed", "other", embed_pb2.EmbedRequest().SerializeToString(), 99)
    assert counts(await warm(warmer, popular_queries(8)))[0] == 7
    assert sorted((batch.model, len(batch.inputs)) for batch in service.batches) == [
        ("a", 3),
        ("b", 3),
    ]
    assert [request.text for request in service.searches] == ["s"]


async def test_a_popular_query_is_stored_whatever_it_asked_of_the_cache(
    warmer: Warmer, service: Service, popular: PopularQueries
) -> None:
    request = embed_pb2.EmbedRequest(inputs=[embed_pb2.Input(text="t")])
    request.cache.mode = common_pb2.CACHE_MODE_REFRESH
    request.cache.tags.append("tag")
    popular.note("embed", "n", request.SerializeToString())
    await warm(warmer, popular_queries(1))
    (batch,) = service.batches
    assert batch.cache == common_pb2.CacheOptions(tags=["tag"])


async def test_popular_queries_that_are_not_tracked_cannot_be_warmed(service: Service) -> None:
    warmer = Warmer(service.embed, service.search, None, _namespace)
    code, message = await status(warmer, popular_queries(1))
    assert code == "FAILED_PRECONDITION"
    assert "set popular.queries" in message


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        (cache_pb2.WarmRequest(), "say what to warm"),
        (texts(), "put inputs into embed"),
        (searches(), "put requests into searches"),
        (popular_queries(0), "say how many"),
        (texts("a", per_second=-1), "per_second must be"),
        (
            cache_pb2.WarmRequest(popular=cache_pb2.WarmRequest.Popular(namespace="a b", count=1)),
            "a namespace has",
        ),
    ],
)
async def test_a_request_that_is_wrong_is_refused(
    warmer: Warmer, request_: cache_pb2.WarmRequest, word: str
) -> None:
    code, message = await status(warmer, request_)
    assert code == "INVALID_ARGUMENT"
    assert word in message


async def test_the_work_ends_when_the_caller_goes_away() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def embed(raw: bytes) -> bytes:
        begun.set()
        try:
            return await asyncio.Future()
        finally:
            ended.set()

    warmer = Warmer(embed, embed, None, _namespace)
    messages = warmer.warm(texts("a", "b").SerializeToString())
    first = asyncio.ensure_future(anext(messages))
    await begun.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert ended.is_set()
