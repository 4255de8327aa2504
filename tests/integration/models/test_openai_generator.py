"""A model that generates text behind an OpenAI-compatible service, over real HTTP."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.models.generation import (
    Completion,
    Generation,
    GenerationRequest,
    Piece,
    Sampling,
)
from sidecar.models.openai_client import OpenAIClient
from sidecar.models.openai_generator import OpenAIGenerator
from sidecar.models.openai_key import OpenAIKey
from sidecar.models.openai_target import parse_target
from sidecar.models.types import (
    InputRejectedError,
    ModelError,
    ModelUnavailableError,
    QueueFullError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from sidecar.models.generation import Prompt

HANG_GUARD = 20.0
CHAT: Prompt = (("system", "Be brief."), ("user", "Am I right?"))


class NoScope:
    """Nothing of a prompt is kept by services elsewhere."""

    def key(self, parent: bytes, tokens: bytes) -> bytes:
        raise AssertionError


@pytest.fixture
async def connect(openai_server: Any) -> AsyncIterator[Callable[..., OpenAIGenerator]]:
    """Makes generators of the service."""
    made: list[tuple[OpenAIGenerator, OpenAIClient]] = []

    def make(
        theirs: str = "theirs", *, parallel: int = 4, queue: int = 8, retries: int = 2
    ) -> OpenAIGenerator:
        target = parse_target(
            openai_server.target, "generator.target", has_key=False, insecure=False
        )
        client = OpenAIClient(target, OpenAIKey(""), timeout=HANG_GUARD, retries=retries)
        generator = OpenAIGenerator("mine", theirs, client, parallel=parallel, queue=queue)
        made.append((generator, client))
        return generator

    yield make
    for generator, client in made:
        await generator.close()
        await client.close()


def start(
    generator: OpenAIGenerator, prompt: Prompt = "Am I right?", **sampling: Any
) -> Generation:
    generation = Generation()
    options = Sampling(**({"max_tokens": 16} | sampling))
    generator.start(GenerationRequest(prompt, options, NoScope()), generation)
    return generation


async def outcome(generation: Generation) -> Any:
    async with asyncio.timeout(HANG_GUARD):
        return (await asyncio.gather(generation, return_exceptions=True))[0]


def texts(generation: Generation) -> list[str]:
    return [piece.text for piece in generation.pieces]


# What is asked, and what comes back


async def test_a_text_is_completed(openai_server: Any, connect: Any) -> None:
    generator = connect("org/their-model")
    completion = await outcome(start(generator, "Am I right?", max_tokens=9))
    assert completion.pieces == (Piece("You "), Piece("are "), Piece("right."))
    assert openai_server.bodies("/completions") == [
        {
            "model": "org/their-model",
            "prompt": "Am I right?",
            "max_tokens": 9,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


async def test_a_conversation_is_continued(openai_server: Any, connect: Any) -> None:
    completion = await outcome(start(connect(), CHAT))
    assert "".join(piece.text for piece in completion.pieces) == "You are right."
    (body,) = openai_server.bodies("/chat/completions")
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Am I right?"},
    ]
    assert "prompt" not in body


@pytest.mark.parametrize("prompt", ["Am I right?", CHAT])
async def test_pieces_come_before_the_end(prompt: Any, openai_server: Any, connect: Any) -> None:
    openai_server.hold_after = 2
    generation = start(connect(), prompt)
    following = generation.follow()
    async with asyncio.timeout(HANG_GUARD):
        first = [await anext(following), await anext(following)]
    assert first == [Piece("You "), Piece("are ")]
    assert not generation.done()
    openai_server.release.set()
    assert isinstance(await outcome(generation), Completion)
    assert [piece async for piece in following] == [Piece("right.")]


async def test_options_that_are_set_are_sent(openai_server: Any, connect: Any) -> None:
    options = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "seed": 0,
        "stop": ("###", "\n"),
    }
    await outcome(start(connect(), **options))
    (body,) = openai_server.bodies("/completions")
    assert {name: body[name] for name in options} == options | {"stop": ["###", "\n"]}


async def test_options_that_are_neutral_are_left_to_the_service(
    openai_server: Any, connect: Any
) -> None:
    await outcome(start(connect(), temperature=None))
    (body,) = openai_server.bodies("/completions")
    assert set(body) == {"model", "prompt", "max_tokens", "stream", "stream_options"}


async def test_stop_tokens_are_not_taken(openai_server: Any, connect: Any) -> None:
    error = await outcome(start(connect(), stop_tokens=(2,)))
    assert isinstance(error, InputRejectedError)
    assert "use stop" in str(error)
    assert openai_server.calls == []


async def test_a_model_that_knows_the_newer_name_of_max_tokens_only_is_told_that_one(
    openai_server: Any, connect: Any
) -> None:
    generator = connect()
    openai_server.fail(400, code="unsupported_parameter", param="max_tokens")
    for _ in range(2):
        assert isinstance(await outcome(start(generator, CHAT, max_tokens=9)), Completion)
    limits = [
        (body.get("max_tokens"), body.get("max_completion_tokens"))
        for body in openai_server.bodies("/chat/completions")
    ]
    assert limits == [(9, None), (None, 9), (None, 9)]


@pytest.mark.parametrize(
    ("theirs", "ours"), [("stop", "stop"), ("length", "length"), ("content_filter", "filtered")]
)
async def test_the_finish_reason_is_the_service_s(
    theirs: str, ours: str, openai_server: Any, connect: Any
) -> None:
    openai_server.finish_reason = theirs
    assert (await outcome(start(connect()))).finish_reason == ours


async def test_tokens_are_those_that_the_service_counted(openai_server: Any, connect: Any) -> None:
    generator = connect()
    completion = await outcome(start(generator))
    assert (completion.prompt_tokens, completion.completion_tokens) == (7, 6)
    assert (generator.counters.generated, generator.counters.decode_tokens) == (1, 6)


async def test_without_a_count_each_piece_is_a_token(openai_server: Any, connect: Any) -> None:
    openai_server.tells_usage = False
    completion = await outcome(start(connect()))
    assert (completion.prompt_tokens, completion.completion_tokens) == (0, 3)


async def test_an_answer_may_be_empty(openai_server: Any, connect: Any) -> None:
    openai_server.says = lambda body: []
    completion = await outcome(start(connect()))
    assert (completion.pieces, completion.finish_reason) == ((), "stop")


async def test_the_generator_is_described_without_a_call(openai_server: Any, connect: Any) -> None:
    info = connect().info
    assert (info.name, info.context_tokens, info.accepts_chat) == ("mine", 0, True)
    assert f"openai+http://{info.runs_on}/v1" == openai_server.target
    assert not info.is_local
    assert info.version == connect().info.version != connect("other").info.version
    assert connect().prefix_report() is None
    assert openai_server.calls == []


async def test_an_answer_that_comes_all_at_once_lets_other_work_come_in_between(
    openai_server: Any, connect: Any
) -> None:
    turns = 0
    pieces_in_turn: Counter[int] = Counter()

    class Watched(Generation):
        def add(self, pieces: Sequence[Piece]) -> None:
            pieces_in_turn[turns] += len(pieces)
            super().add(pieces)

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    openai_server.says = lambda body: [" word"] * 1000
    generation = Watched()
    other = asyncio.create_task(others())
    options = Sampling(max_tokens=1000)
    connect().start(GenerationRequest("Am I right?", options, NoScope()), generation)
    assert isinstance(await outcome(generation), Completion)
    other.cancel()
    assert pieces_in_turn.total() == 1000
    assert max(pieces_in_turn.values()) < 100


# Who waits, and who leaves


async def test_some_are_at_work_some_wait_and_more_are_refused(
    openai_server: Any, connect: Any, eventually: Any
) -> None:
    openai_server.hold_after = 0
    generator = connect(parallel=2, queue=1)
    generations = [start(generator) for _ in range(3)]
    with pytest.raises(QueueFullError, match=r"raise generator\.parallel"):
        start(generator)
    await eventually(lambda: len(openai_server.calls) == 2)
    assert (generator.active, generator.queued, generator.counters.shed) == (2, 1, 1)
    openai_server.release.set()
    found = [await outcome(generation) for generation in generations]
    assert [type(completion) for completion in found] == [Completion] * 3
    assert len(openai_server.calls) == 3
    assert found[2].queued_seconds > found[0].queued_seconds
    assert (generator.active, generator.queued) == (0, 0)


async def test_cancelling_ends_the_call_at_once(
    openai_server: Any, connect: Any, eventually: Any
) -> None:
    openai_server.hold_after = 1
    generator = connect()
    generation = start(generator)
    async with asyncio.timeout(HANG_GUARD):
        await generation.begun()
        await openai_server.held.wait()
    assert openai_server.disconnects == 0
    generation.cancel()
    await eventually(lambda: openai_server.disconnects == 1)
    assert (generator.active, generator.counters.abandoned) == (0, 1)


async def test_one_that_waits_and_is_cancelled_makes_room_and_is_not_asked_for(
    openai_server: Any, connect: Any
) -> None:
    openai_server.hold_after = 0
    generator = connect(parallel=1, queue=1)
    first, second = start(generator), start(generator)
    second.cancel()
    third = start(generator)
    openai_server.release.set()
    assert isinstance(await outcome(first), Completion)
    assert isinstance(await outcome(third), Completion)
    assert len(openai_server.calls) == 2


async def test_close_fails_those_under_way_and_those_that_wait(
    openai_server: Any, connect: Any, eventually: Any
) -> None:
    openai_server.hold_after = 1
    generator = connect(parallel=1)
    generations = [start(generator), start(generator)]
    async with asyncio.timeout(HANG_GUARD):
        await openai_server.held.wait()
    await generator.close()
    found = [await outcome(generation) for generation in generations]
    assert [type(error) for error in found] == [ModelUnavailableError] * 2
    await eventually(lambda: openai_server.disconnects == 1)
    with pytest.raises(ModelUnavailableError):
        start(generator)


async def test_many_at_once_of_whom_some_leave_are_all_answered_rightly(
    openai_server: Any, connect: Any
) -> None:
    openai_server.says = lambda body: [f"{word} " for word in body["prompt"].split()]
    generator = connect(parallel=8, queue=64)
    prompts = [f"{number} and {number} is {2 * number}" for number in range(40)]
    generations = [start(generator, prompt) for prompt in prompts]
    leaving = generations[::3]
    for generation in leaving:
        generation.cancel()
    for prompt, generation in zip(prompts, generations, strict=True):
        if generation not in leaving:
            completion = await outcome(generation)
            assert "".join(piece.text for piece in completion.pieces) == f"{prompt} "
    assert (generator.active, generator.queued) == (0, 0)
    assert generator.counters.abandoned == len(leaving)


# Failures


async def test_a_pair_of_surrogates_in_two_pieces_is_one_character(
    openai_server: Any, connect: Any
) -> None:
    openai_server.says = lambda body: ["a\ud83d", "\ude00b", "\ud83d"]
    completion = await outcome(start(connect()))
    texts = [piece.text for piece in completion.pieces]
    assert texts == ["a", "\N{GRINNING FACE}b", "\N{REPLACEMENT CHARACTER}"]


@pytest.mark.parametrize("prompt", ["Am I right?", CHAT])
@pytest.mark.threat("An upstream sends without end")
async def test_a_service_that_does_not_stop_is_an_error_and_its_call_is_ended(
    prompt: Any, openai_server: Any, connect: Any, eventually: Any
) -> None:
    openai_server.says = lambda body: ["x" * 10_000] * 100
    openai_server.hold_after = 50
    error = await outcome(start(connect(), prompt))
    assert type(error) is ModelError
    assert "beyond max_tokens" in str(error)
    await eventually(lambda: openai_server.disconnects == 1)


@pytest.mark.threat("An upstream sends without end")
async def test_a_service_that_never_ends_its_answer_has_only_so_long(
    openai_server: Any, connect: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.models.openai_generator.LONGEST_SECONDS", 0.05)
    openai_server.hold_after = 1
    generator = connect(parallel=1)
    error = await outcome(start(generator))
    assert isinstance(error, ModelUnavailableError)
    assert "within 0.05 s" in str(error)
    await eventually(lambda: openai_server.disconnects == 1)
    assert generator.active == 0


@pytest.mark.parametrize("pieces", [0, 2])
async def test_a_stream_that_breaks_is_an_error_and_is_not_repeated(
    pieces: int, openai_server: Any, connect: Any
) -> None:
    openai_server.cut_after = pieces
    generation = start(connect())
    error = await outcome(generation)
    assert isinstance(error, ModelUnavailableError)
    assert texts(generation) == ["You ", "are "][:pieces]
    assert len(openai_server.calls) == 1


@pytest.mark.parametrize("reason", [None, "abort", "tool_calls"])
async def test_a_stream_that_ends_without_a_reason_to_is_an_error(
    reason: str | None, openai_server: Any, connect: Any
) -> None:
    openai_server.finish_reason = reason
    generation = start(connect())
    assert isinstance(await outcome(generation), ModelUnavailableError)
    assert texts(generation) == ["You ", "are ", "right."]


async def test_an_error_in_the_stream_is_one(openai_server: Any, connect: Any) -> None:
    openai_server.garbage = '{"error": {"message": "about: private", "code": "overloaded"}}'
    error = await outcome(start(connect()))
    assert isinstance(error, ModelUnavailableError)
    assert "(overloaded)" in str(error)
    assert "private" not in str(error)


@pytest.mark.parametrize("garbage", ["{not json", "\N{GREEK SMALL LETTER ALPHA}"])
async def test_garbage_in_the_stream_is_an_error(
    garbage: str, openai_server: Any, connect: Any
) -> None:
    openai_server.garbage = garbage
    error = await outcome(start(connect()))
    assert type(error) is ModelError


@pytest.mark.parametrize(
    "event",
    [
        "7",
        "null",
        "[]",
        '{"choices": 7}',
        '{"choices": [7]}',
        '{"choices": [{"text": 7, "finish_reason": 7}]}',
        '{"choices": [{"delta": {"content": null}}]}',
        '{"usage": {"prompt_tokens": -1, "completion_tokens": 1}}',
        '{"usage": {"prompt_tokens": 1, "completion_tokens": 4294967296}}',
        '{"usage": {"prompt_tokens": 1.5, "completion_tokens": true}}',
    ],
)
async def test_an_event_that_tells_nothing_is_passed_over(
    event: str, openai_server: Any, connect: Any
) -> None:
    openai_server.garbage = event
    openai_server.tells_usage = False
    completion = await outcome(start(connect()))
    assert [piece.text for piece in completion.pieces] == ["You ", "are ", "right."]
    assert (completion.prompt_tokens, completion.completion_tokens) == (0, 3)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_call_that_may_succeed_later_is_repeated_before_its_first_piece(
    status: int, openai_server: Any, connect: Any
) -> None:
    openai_server.fail(status, times=2)
    generation = start(connect(retries=2))
    assert isinstance(await outcome(generation), Completion)
    assert texts(generation) == ["You ", "are ", "right."]
    assert len(openai_server.calls) == 3


@pytest.mark.parametrize(
    ("status", "kind", "advice"),
    [
        (400, InputRejectedError, "does not take this input, or an option"),
        (401, ModelError, "openai.key"),
        (403, ModelError, "openai.key"),
        (404, ModelError, "a model theirs"),
        (429, QueueFullError, "try again later"),
        (503, ModelUnavailableError, "try again later"),
    ],
)
async def test_what_a_status_means(
    status: int, kind: type[ModelError], advice: str, openai_server: Any, connect: Any
) -> None:
    generator = connect(retries=0)
    openai_server.fail(status, code="its_code", message="private")
    error = await outcome(start(generator))
    assert isinstance(error, kind)
    if kind is ModelError:
        assert type(error) is ModelError
    assert advice in str(error)
    assert "private" not in str(error)
    assert generator.counters.shed == (status == 429)
    assert isinstance(await outcome(start(generator)), Completion)


async def test_a_sidecar_that_takes_no_host_names_is_not_a_matter_of_the_key(
    openai_server: Any, connect: Any
) -> None:
    openai_server.fail(403, code="host")
    error = await outcome(start(connect()))
    assert type(error) is ModelError
    assert "IP address" in str(error)
    assert "key" not in str(error)


async def test_options_that_the_service_may_not_know_are_named_when_it_refuses(
    openai_server: Any, connect: Any
) -> None:
    openai_server.fail(400, code="unknown_parameter", param="top_k")
    error = await outcome(start(connect(), top_k=40, min_p=0.1))
    assert isinstance(error, InputRejectedError)
    assert "(unknown_parameter, top_k)" in str(error)
    assert "not all services know top_k, min_p" in str(error)
