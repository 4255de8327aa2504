"""Streams: told as they come, replayed as they came, shared by all who want them at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import common_pb2, generate_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Start = Callable[..., Awaitable[Any]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

WORDS = ["Embers ", "stay ", "warm ", "for ", "hours."]


@pytest.fixture
async def sidecar(start: Start, openai_server: Any) -> Any:
    """A sidecar whose generator says the words, one after the other."""
    openai_server.says = lambda body: WORDS
    target = {"target": openai_server.target, "packs": ["words"]}
    return await start(generator=target, openai={"retries": 0})


async def read(stream: Any) -> tuple[list[str], generate_pb2.GenerateSummary]:
    """The pieces of a stream, and its summary."""
    messages = []
    while (message := await stream.read()) is not grpc.aio.EOF:
        messages.append(message)
    *pieces, last = messages
    assert last.HasField("summary")
    assert not any(piece.HasField("summary") for piece in pieces)
    return [piece.text for piece in pieces if piece.text], last.summary


async def test_pieces_come_as_they_are_generated(sidecar: Any, openai_server: Any) -> None:
    openai_server.hold_after = 2
    stream = sidecar.stream("a", temperature=0)
    assert [(await stream.read()).text for _ in range(2)] == WORDS[:2]
    # The rest is not even generated yet.
    assert openai_server.held.is_set()
    openai_server.release.set()
    rest, summary = await read(stream)
    assert rest == WORDS[2:]
    assert summary.tier == common_pb2.TIER_COMPUTED
    assert summary.finish_reason == generate_pb2.FINISH_REASON_STOP
    assert summary.timings.first_token < summary.timings.total


async def test_a_cached_answer_is_streamed_in_the_same_pieces(sidecar: Any) -> None:
    first, _ = await read(sidecar.stream("a", temperature=0))
    again, summary = await read(sidecar.stream("a", temperature=0))
    assert first == again == WORDS
    assert summary.tier == common_pb2.TIER_HOT
    assert summary.usage.completion_tokens == 10


async def test_a_stream_and_a_call_at_once_share_entries(sidecar: Any) -> None:
    await read(sidecar.stream("a", temperature=0))
    assert await sidecar.generated("a", temperature=0) == ("HOT", "".join(WORDS))
    await sidecar.generated("b", temperature=0)
    assert (await read(sidecar.stream("b", temperature=0)))[0] == WORDS


async def test_equal_streams_share_one_generation_from_its_first_piece(
    sidecar: Any, openai_server: Any
) -> None:
    openai_server.hold_after = 2
    first = sidecar.stream("a", temperature=0)
    assert [(await first.read()).text for _ in range(2)] == WORDS[:2]
    # Who comes later is told from the beginning, before the end is known.
    second = sidecar.stream("a", temperature=0)
    assert [(await second.read()).text for _ in range(2)] == WORDS[:2]
    whole = asyncio.ensure_future(sidecar.generated("a", temperature=0))
    openai_server.release.set()
    assert (await read(first))[0] == (rest := WORDS[2:])
    pieces, summary = await read(second)
    assert (pieces, summary.tier) == (rest, common_pb2.TIER_COALESCED)
    assert (await whole)[1] == "".join(WORDS)
    assert len(openai_server.calls) == 1


async def test_who_began_a_generation_may_leave_without_ending_it_for_others(
    sidecar: Any, openai_server: Any
) -> None:
    openai_server.hold_after = 2
    first = sidecar.stream("a", temperature=0)
    await first.read()
    second = sidecar.stream("a", temperature=0)
    await second.read()
    first.cancel()
    openai_server.release.set()
    assert (await read(second))[0] == WORDS[1:]
    assert (await sidecar.generated("a", temperature=0))[0] == "HOT"
    assert openai_server.disconnects == 0


async def test_when_the_last_caller_leaves_the_work_stops_and_nothing_is_kept(
    sidecar: Any, openai_server: Any, eventually: Eventually
) -> None:
    openai_server.hold_after = 2
    streams = [sidecar.stream("a", temperature=0) for _ in range(2)]
    for stream in streams:
        await stream.read()
    for stream in streams:
        stream.cancel()
    await eventually(lambda: openai_server.disconnects == 1)
    openai_server.release.set()
    assert (await sidecar.generated("a", temperature=0))[0] == "COMPUTED"
    assert len(openai_server.calls) == 2
    (stats,) = (await sidecar.stats()).generators
    assert (stats.abandoned, stats.generated, stats.active) == (1, 1, 0)


async def test_a_generation_that_breaks_off_fails_its_stream_and_is_not_kept(
    sidecar: Any, openai_server: Any
) -> None:
    openai_server.cut_after = 2
    stream = sidecar.stream("a", temperature=0)
    assert [(await stream.read()).text for _ in range(2)] == WORDS[:2]
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stream.read()
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    openai_server.cut_after = None
    pieces, summary = await read(sidecar.stream("a", temperature=0))
    assert (pieces, summary.tier) == (WORDS, common_pb2.TIER_COMPUTED)


async def test_what_was_invalidated_while_it_was_generated_is_told_but_not_kept(
    sidecar: Any, openai_server: Any
) -> None:
    openai_server.hold_after = 2
    stream = sidecar.stream("a", temperature=0, tags=["t"])
    await stream.read()
    await sidecar.invalidate(tags=["t"])
    openai_server.release.set()
    assert (await read(stream))[0] == WORDS[1:]
    assert (await sidecar.generated("a", temperature=0, tags=["t"]))[0] == "COMPUTED"


async def test_who_asks_after_an_invalidation_does_not_get_what_was_begun_before(
    sidecar: Any, openai_server: Any
) -> None:
    openai_server.hold_after = 2
    before = sidecar.stream("a", temperature=0, tags=["t"])
    await before.read()
    await sidecar.invalidate(tags=["t"])
    openai_server.release.set()
    _, summary = await read(sidecar.stream("a", temperature=0, tags=["t"]))
    assert summary.tier == common_pb2.TIER_COMPUTED
    assert len(openai_server.calls) == 2
    await read(before)


async def test_streams_drawn_at_random_are_each_their_own(sidecar: Any, openai_server: Any) -> None:
    openai_server.says = lambda body: [str(len(openai_server.calls))]
    streams = [sidecar.stream("a", temperature=1) for _ in range(3)]
    said = [(await read(stream))[0] for stream in streams]
    assert sorted(said) == [["1"], ["2"], ["3"]]


async def test_an_answer_without_any_text_is_an_answer(sidecar: Any, openai_server: Any) -> None:
    openai_server.says = lambda body: []
    for tier in (common_pb2.TIER_COMPUTED, common_pb2.TIER_HOT):
        pieces, summary = await read(sidecar.stream("a", temperature=0))
        assert (pieces, summary.tier) == ([], tier)
