"""Answers to other queries that mean the same, with the real model."""

from __future__ import annotations

import asyncio
import threading
from concurrent import futures
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import common_pb2, search_pb2, verifier_pb2, verifier_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

    Start = Callable[..., Awaitable[Any]]

ASKED, REWORDED = "How can I count words in a text?", "How do I count the words in a text?"
NEGATED = "How can I not count words in a text?"
ON = common_pb2.SemanticOptions(mode=common_pb2.SemanticOptions.MODE_ON)
OFF = common_pb2.SemanticOptions(mode=common_pb2.SemanticOptions.MODE_OFF)
DOCUMENTS = {"count": "str.split cuts a text into words", "mail": "smtplib sends email"}


@pytest.fixture
def begin(start: Start, minilm_folder: Path) -> Start:
    """Starts a sidecar with the real model that has documents."""

    async def begin(**options: Any) -> Any:
        sidecar = await start(packs=[minilm_folder], **options)
        await sidecar.upsert(DOCUMENTS)
        return sidecar

    return begin


async def matched(sidecar: Any, text: str, **fields: Any) -> str:
    """The query whose answer is given for a text; empty for its own."""
    fields = {"semantic": ON} | fields
    return str((await sidecar.search(text, **fields)).semantic.query)


async def test_the_answer_to_a_query_that_means_the_same_is_given_and_said_to_be_that(
    begin: Start,
) -> None:
    sidecar = await begin()
    first = await sidecar.search(ASKED, semantic=ON)
    assert not first.HasField("semantic")
    again = await sidecar.search(REWORDED, semantic=ON)
    assert again.semantic.query == ASKED
    assert 0.95 <= again.semantic.similarity < 1
    assert (again.tier, again.query_tier) == (common_pb2.TIER_HOT, common_pb2.TIER_COMPUTED)
    assert again.results == first.results


async def test_it_is_off_unless_a_call_or_the_namespace_wants_it(begin: Start) -> None:
    sidecar = await begin(semantic={"namespaces": "shop"})
    await sidecar.upsert(DOCUMENTS, namespace="shop")
    for namespace in ("", "shop"):
        await sidecar.search(ASKED, semantic=ON, namespace=namespace)
    assert await matched(sidecar, REWORDED, semantic=None) == ""
    assert await matched(sidecar, REWORDED, semantic=None, namespace="shop") == ASKED
    another = "How do I count all the words in a text?"
    assert await matched(sidecar, another, semantic=OFF, namespace="shop") == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"namespace": "other"},
        {"collection": "other"},
        {"score_threshold": 0.1},
        {"tags": ["t"]},
        {"rerank": search_pb2.Rerank()},
    ],
    ids=lambda fields: next(iter(fields)),
)
async def test_an_answer_stays_in_its_scope(begin: Start, fields: dict[str, Any]) -> None:
    sidecar = await begin()
    await sidecar.search(ASKED, semantic=ON)
    assert await matched(sidecar, REWORDED, **fields) == ""


async def test_a_query_that_means_the_opposite_is_computed(begin: Start) -> None:
    sidecar = await begin()
    await sidecar.search(ASKED, semantic=ON)
    options = common_pb2.SemanticOptions(mode=ON.mode, threshold=0.5)
    assert await matched(sidecar, NEGATED, semantic=options) == ""
    (report,) = (await sidecar.stats()).semantic
    assert sum(band.refused_by_guard for band in report.bands) == 1


async def test_the_threshold_is_the_calls_own_if_it_has_one(begin: Start) -> None:
    sidecar = await begin()
    await sidecar.search(ASKED, semantic=ON)
    strict = common_pb2.SemanticOptions(mode=ON.mode, threshold=0.9999)
    assert await matched(sidecar, REWORDED, semantic=strict) == ""
    (report,) = (await sidecar.stats()).semantic
    assert sum(band.below_threshold for band in report.bands) == 1


async def test_an_answer_that_a_document_touched_is_not_given_to_others_either(
    begin: Start,
) -> None:
    sidecar = await begin()
    await sidecar.search(ASKED, semantic=ON)
    await sidecar.upsert({"count": "collections.Counter counts the words of a text"})
    assert await matched(sidecar, REWORDED) == ""


async def test_a_list_that_is_too_short_for_the_call_is_not_given(begin: Start) -> None:
    sidecar = await begin()
    await sidecar.search(ASKED, semantic=ON, top_k=1)
    assert await matched(sidecar, REWORDED, top_k=2) == ""
    assert await matched(sidecar, "How do I count words in a text?", top_k=2) == REWORDED


async def test_a_truncated_query_neither_answers_nor_is_answered(begin: Start) -> None:
    sidecar = await begin()
    long = " ".join(["word"] * 400)
    await sidecar.search(long + " one", semantic=ON)
    assert await matched(sidecar, long + " two") == ""


async def test_it_works_across_sidecars(
    begin: Start, start: Start, redis_server: DevRedis, minilm_folder: Path
) -> None:
    shared = {"redis": redis_server, "index": {"url": redis_server.url}}
    one = await begin(**shared)
    two = await start(packs=[minilm_folder], **shared)
    await one.search(ASKED, semantic=ON)
    only_reworded = iter(f"{REWORDED}{' ' * count}" for count in range(1000))
    async with asyncio.timeout(30):
        while await matched(two, next(only_reworded)) != ASKED:
            await asyncio.sleep(0.01)


class Judge(verifier_pb2_grpc.SemanticVerifierServicer):
    """A user's own word on semantic answers."""

    def __init__(self) -> None:
        self.asked: list[verifier_pb2.VerifyRequest] = []
        self.accepts = False
        self.hangs = False
        self.ended = threading.Event()

    def Verify(self, request: Any, context: Any) -> verifier_pb2.VerifyResponse:  # noqa: N802
        self.asked.append(request)
        if self.hangs:
            self.ended.wait()
        return verifier_pb2.VerifyResponse(accept=self.accepts)


@pytest.fixture
def judge() -> Iterator[tuple[Judge, str]]:
    """A verifier and its address."""
    server, judge = grpc.server(futures.ThreadPoolExecutor(1)), Judge()
    verifier_pb2_grpc.add_SemanticVerifierServicer_to_server(judge, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield judge, f"127.0.0.1:{port}"
    judge.ended.set()
    server.stop(None).wait()


async def test_the_verifier_has_the_last_word(begin: Start, judge: tuple[Judge, str]) -> None:
    verifier, address = judge
    sidecar = await begin(semantic={"verifier": address, "verifier_timeout": 10})
    await sidecar.search(ASKED, semantic=ON)
    assert await matched(sidecar, REWORDED) == ""
    (request,) = verifier.asked
    assert (request.query, request.matched_query) == (REWORDED, ASKED)
    verifier.accepts = True
    assert await matched(sidecar, "How do I count words in a text?") != ""


async def test_a_verifier_that_cannot_be_reached_means_no(begin: Start) -> None:
    sidecar = await begin(semantic={"verifier": "127.0.0.1:1"})
    await sidecar.search(ASKED, semantic=ON)
    assert await matched(sidecar, REWORDED) == ""


async def test_a_semantic_answer_counts_as_a_hit_that_saved_no_tokens(begin: Start) -> None:
    sidecar = await begin()
    await sidecar.search(ASKED, semantic=ON)
    assert await matched(sidecar, REWORDED) == ASKED
    usage = {each.kind: each for each in (await sidecar.stats()).usage}
    assert set(usage) == {"embed", "search"}
    answered = {each.tier: each.count for each in usage["search"].answered}
    assert (answered[common_pb2.TIER_COMPUTED], answered[common_pb2.TIER_HOT]) == (1, 1)
    assert usage["search"].tokens_saved == 0


async def test_a_list_computed_by_a_call_without_semantic_answers_is_none_for_others(
    begin: Start,
) -> None:
    sidecar = await begin()
    await sidecar.search(ASKED, semantic=ON)
    # The same list, but now nobody knows of which query.
    await sidecar.search(ASKED, mode=common_pb2.CACHE_MODE_REFRESH)
    assert await matched(sidecar, REWORDED) == ""


async def test_a_verifier_that_hangs_costs_one_timeout_and_has_refused_nothing(
    begin: Start, judge: tuple[Judge, str]
) -> None:
    verifier, address = judge
    sidecar = await begin(semantic={"verifier": address, "verifier_timeout": 1})
    candidates = (ASKED, "How do I count words in a text?", "How can I count the words in a text?")
    for text in candidates:
        await sidecar.search(text, semantic=ON)
    before = (await sidecar.stats()).semantic
    verifier.asked.clear()
    verifier.hangs = True
    assert await matched(sidecar, REWORDED) == ""
    assert len(verifier.asked) == 1
    assert (await sidecar.stats()).semantic == before


async def test_an_answer_of_another_query_is_judged_each_time(
    begin: Start, judge: tuple[Judge, str]
) -> None:
    verifier, address = judge
    verifier.accepts = True
    sidecar = await begin(semantic={"verifier": address, "verifier_timeout": 10})
    await sidecar.search(ASKED, semantic=ON)
    for _ in range(3):
        assert await matched(sidecar, REWORDED) == ASKED
    assert len(verifier.asked) == 3
    assert (await sidecar.stats()).response_hits == 0
    verifier.accepts = False
    assert await matched(sidecar, REWORDED) == ""
