"""/v1/completions and /v1/chat/completions that are streamed."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import openai
import pytest

from sidecar.models.types import ModelUnavailableError, QueueFullError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    Front = Any
    FakeServices = Any

HELLO = [{"role": "user", "content": "Hello"}]
BODY = {"model": "small", "messages": HELLO, "stream": True}
HANG_GUARD = 30.0


async def test_a_chat_comes_in_pieces(front: Front) -> None:
    stream = await front.openai.chat.completions.create(**BODY)
    chunks = [chunk async for chunk in stream]
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant"
    assert [delta.content for delta in deltas] == ["", "Hello", " you", None]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "stop"]


async def test_a_completion_comes_in_pieces(front: Front) -> None:
    stream = await front.openai.completions.create(model="small", prompt=["Say"], stream=True)
    chunks = [chunk async for chunk in stream]
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    assert [chunk.choices[0].text for chunk in chunks] == ["Hello", " you", ""]
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_a_piece_is_sent_before_the_next_is_there(
    front: Front, services: FakeServices
) -> None:
    services.go.clear()
    stream = await front.openai.chat.completions.create(**BODY)
    chunks = aiter(stream)
    async with asyncio.timeout(HANG_GUARD):
        assert (await anext(chunks)).choices[0].delta.role == "assistant"
        services.go.set()
        rest = [chunk.choices[0].delta.content async for chunk in chunks]
    assert rest == ["Hello", " you", None]


async def test_usage_comes_last_if_it_is_asked_for(front: Front) -> None:
    stream = await front.openai.chat.completions.create(
        **BODY, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 3
    assert {chunk.usage for chunk in chunks[:-1]} == {None}


async def test_the_header_tells_what_answers(front: Front) -> None:
    answer = await front.openai.chat.completions.with_raw_response.create(**BODY)
    assert answer.headers["x-embercache-tier"] == "computed"
    assert answer.headers["content-type"].startswith("text/event-stream")


async def test_the_last_event_is_done(front: Front) -> None:
    _, text, _ = await front.post("chat/completions", BODY)
    assert text.endswith("}\n\ndata: [DONE]\n\n")
    events = text.removesuffix("data: [DONE]\n\n").split("\n\n")[:-1]
    assert all(json.loads(event.removeprefix("data: ")) for event in events)


async def test_a_line_break_in_a_piece_breaks_no_event(
    front: Front, services: FakeServices
) -> None:
    services.pieces = ["one\n\ndata: two\r\n", "\u2028three"]
    stream = await front.openai.completions.create(model="small", prompt="Say", stream=True)
    text = "".join([chunk.choices[0].text async for chunk in stream])
    assert text == "one\n\ndata: two\r\n\u2028three"


async def test_a_call_that_fails_before_its_first_piece_has_its_status(
    front: Front, services: FakeServices
) -> None:
    services.pieces, services.error = [], QueueFullError("too many wait")
    with pytest.raises(openai.RateLimitError, match="too many wait"):
        await front.openai.chat.completions.create(**BODY)
    assert front.failures("chat/completions", "RESOURCE_EXHAUSTED") == 1
    assert services.closed == 1


async def test_a_call_that_fails_later_ends_with_an_error_and_not_with_done(
    front: Front, services: FakeServices
) -> None:
    services.error = ModelUnavailableError("it is gone")
    _, text, _ = await front.post("chat/completions", BODY)
    assert "event: error\ndata: " in text
    assert "[DONE]" not in text
    assert front.failures("chat/completions", "UNAVAILABLE") == 1


async def test_the_client_raises_that_error_behind_the_pieces_that_came(
    front: Front, services: FakeServices
) -> None:
    services.error = ModelUnavailableError("it is gone")
    stream = await front.openai.chat.completions.create(**BODY)
    chunks = aiter(stream)
    came = [(await anext(chunks)).choices[0].delta.content for _ in range(3)]
    assert came == ["", "Hello", " you"]
    with pytest.raises(openai.APIError, match="it is gone"):
        await anext(chunks)


async def test_a_stream_without_a_summary_was_cut_short(
    front: Front, services: FakeServices
) -> None:
    services.summary = None
    stream = await front.openai.chat.completions.create(**BODY)
    with pytest.raises(openai.APIError, match="cut short"):
        async for _ in stream:
            pass


async def test_a_client_that_leaves_ends_the_generation(
    front: Front, services: FakeServices, eventually: Callable[..., Awaitable[None]]
) -> None:
    services.go.clear()
    stream = await front.openai.chat.completions.create(**BODY)
    await stream.close()
    await eventually(lambda: services.closed == 1)
    await eventually(lambda: front.failures("chat/completions", "CANCELLED") == 1)
    assert front.calls("chat/completions") == 0


async def test_so_does_one_that_leaves_before_anything_came(
    front: Front, services: FakeServices, eventually: Callable[..., Awaitable[None]]
) -> None:
    services.never_known = True
    call = asyncio.create_task(front.openai.chat.completions.create(**BODY))
    await services.waiting.wait()
    call.cancel()
    await eventually(lambda: services.closed == 1)
    await eventually(lambda: front.failures("chat/completions", "CANCELLED") == 1)


async def test_an_unknown_model_is_not_found(front: Front, services: FakeServices) -> None:
    with pytest.raises(openai.NotFoundError, match="choose one of small") as caught:
        await front.openai.chat.completions.create(**BODY | {"model": "huge"})
    assert caught.value.code == "model_not_found"
    assert services.generates == []


async def test_a_long_answer_that_is_all_there_lets_other_calls_come_in_between(
    front: Front, services: FakeServices
) -> None:
    turns = 0
    seen: list[int] = []

    def words() -> Iterator[str]:
        for _ in range(1000):
            seen.append(turns)
            yield " word"

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    # None of the pieces waits for anything: only the front can give others a turn.
    services.pieces = words()
    other = asyncio.create_task(others())
    async with asyncio.timeout(HANG_GUARD):
        stream = await front.openai.completions.create(model="small", prompt="Say", stream=True)
        text = "".join([chunk.choices[0].text async for chunk in stream])
    other.cancel()
    assert text == " word" * 1000
    assert seen[-1] - seen[0] >= 20


async def test_several_prompts_cannot_be_streamed(front: Front) -> None:
    with pytest.raises(openai.BadRequestError, match="only one prompt"):
        await front.openai.completions.create(model="small", prompt=["a", "b"], stream=True)


async def test_streams_are_counted_as_one_call(front: Front) -> None:
    async for _ in await front.openai.chat.completions.create(**BODY):
        pass
    assert front.calls("chat/completions") == 1
