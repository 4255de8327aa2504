"""The checker notices what it is there for: a real cluster, in front of which somebody lies."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from embercache.v1 import common_pb2, embed_pb2, generate_pb2, search_pb2

from tests.chaos.load import SHORT, TAGGED
from tests.chaos.record import FAILED, WRONG

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.chaos.run import Run

    Liars = Callable[[Run], Awaitable[dict[str, Any]]]
    Lie = Callable[[str, bytes, bytes], bytes | None]

pytestmark = pytest.mark.asyncio(loop_scope="module")

GIVE_UP = 30.0


async def violation(run: Run, liars: Liars, lie: Lie, words: str, kind: str = WRONG) -> None:
    """Waits until the checker complains in these words of something of this kind."""
    lying = await liars(run)
    for liar in lying.values():
        liar.lie = lie
    try:
        async with run.asking({name: liar.address for name, liar in lying.items()}):
            async with asyncio.timeout(GIVE_UP):
                while not any(
                    one.kind == kind and words in one.words for one in run.record.violations
                ):
                    await asyncio.sleep(0.02)
    finally:
        for liar in lying.values():
            await liar.stop()
    assert {one.kind for one in run.record.violations} == {kind}


def embedded(method: str, true: bytes) -> embed_pb2.EmbedResponse | None:
    """An answer to Embed, None if it is another's."""
    return embed_pb2.EmbedResponse.FromString(true) if method == "Embed" else None


def is_in(namespace: str, request: bytes) -> bool:
    return embed_pb2.EmbedRequest.FromString(request).namespace.endswith(namespace)


async def test_nothing_is_wrong_where_nobody_lies(
    start_run: Callable[[], Run], make_liars: Liars
) -> None:
    run = start_run()
    lying = await make_liars(run)
    async with run.asking({name: liar.address for name, liar in lying.items()}):
        async with asyncio.timeout(GIVE_UP):
            while len(run.record.calls) < 12:
                await asyncio.sleep(0.02)
    for liar in lying.values():
        await liar.stop()
    assert not run.record.violations


async def test_a_vector_with_one_wrong_bit(start_run: Callable[[], Run], make_liars: Liars) -> None:
    def lie(method: str, request: bytes, true: bytes) -> bytes:
        response = embedded(method, true)
        if response is None:
            return true
        vector = bytearray(response.embeddings[-1].vector)
        vector[0] ^= 1
        response.embeddings[-1].vector = bytes(vector)
        return response.SerializeToString()

    await violation(start_run(), make_liars, lie, "is another")


async def test_two_vectors_of_a_batch_in_the_wrong_places(
    start_run: Callable[[], Run], make_liars: Liars
) -> None:
    def lie(method: str, request: bytes, true: bytes) -> bytes:
        response = embedded(method, true)
        if response is None:
            return true
        items = list(response.embeddings)
        del response.embeddings[:]
        response.embeddings.extend(items[::-1])
        return response.SerializeToString()

    await violation(start_run(), make_liars, lie, "is another")


async def test_an_answer_that_was_invalidated(
    start_run: Callable[[], Run], make_liars: Liars
) -> None:
    """Its vectors are right; it is their age that tells."""
    kept: dict[bytes, tuple[float, bytes]] = {}

    def lie(method: str, request: bytes, true: bytes) -> bytes:
        response = embedded(method, true)
        if response is None or not is_in(TAGGED, request):
            return true
        now = time.time()
        since, told = kept.setdefault(request, (now, true))
        response = embed_pb2.EmbedResponse.FromString(told)
        for item in response.embeddings:
            item.age_ms += round((now - since) * 1000)
            item.tier = common_pb2.TIER_HOT
        return response.SerializeToString()

    await violation(start_run(), make_liars, lie, "tag was invalidated")


async def test_an_answer_whose_lifetime_has_ended(
    start_run: Callable[[], Run], make_liars: Liars
) -> None:
    def lie(method: str, request: bytes, true: bytes) -> bytes:
        response = embedded(method, true)
        if response is None or not is_in(SHORT, request):
            return true
        for item in response.embeddings:
            item.age_ms += 5000
        return response.SerializeToString()

    await violation(start_run(), make_liars, lie, "after its lifetime")


async def test_a_list_from_before_documents_changed(
    start_run: Callable[[], Run], make_liars: Liars
) -> None:
    kept: dict[bytes, bytes] = {}

    def lie(method: str, request: bytes, true: bytes) -> bytes:
        return kept.setdefault(request, true) if method == "Search" else true

    await violation(start_run(), make_liars, lie, "a list ")


async def test_a_score_that_is_wrong(start_run: Callable[[], Run], make_liars: Liars) -> None:
    def lie(method: str, request: bytes, true: bytes) -> bytes:
        if method != "Search":
            return true
        response = search_pb2.SearchResponse.FromString(true)
        for result in response.results:
            result.score -= 0.01
        return response.SerializeToString()

    await violation(start_run(), make_liars, lie, "its score is wrong")


async def test_another_generated_answer(start_run: Callable[[], Run], make_liars: Liars) -> None:
    def lie(method: str, request: bytes, true: bytes) -> bytes:
        if method != "Generate":
            return true
        response = generate_pb2.GenerateResponse.FromString(true)
        response.text += "."
        return response.SerializeToString()

    await violation(start_run(), make_liars, lie, "another answer")


async def test_a_call_that_fails_though_nothing_is_down(
    start_run: Callable[[], Run], make_liars: Liars
) -> None:
    def lie(method: str, request: bytes, true: bytes) -> bytes | None:
        return None if method == "Embed" else true

    await violation(start_run(), make_liars, lie, "InternalError", FAILED)
